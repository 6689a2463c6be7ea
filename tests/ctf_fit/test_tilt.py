import math

import numpy as np
import pytest
import scipy.fft
import torch

from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.model import Beam
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.ctf_fit.tilt import fit_tilt


def tilted_ice(textbook, rng, n, pixel_size, defocus, tilt, axis, n_strips=14):
    """Ice on a plane: strips of equal height, each with its own CTF, joined linearly."""
    y, x = (np.mgrid[:n, :n].astype(np.float32) - 0.5 * (n - 1)) * pixel_size
    height = np.tan(tilt) * (np.cos(axis) * y - np.sin(axis) * x)
    levels = np.linspace(height.min(), height.max(), n_strips)
    specimen = scipy.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32))
    image = scipy.fft.irfft2(scipy.fft.rfft2(rng.standard_normal((n, n), dtype=np.float32)), s=(n, n))
    for level in levels:
        transfer, k = textbook((n, n), pixel_size, defocus + level + 200, defocus + level - 200, 0.7)
        part = scipy.fft.irfft2(0.8 * specimen * transfer * np.exp(-15 * k**2 - (k / 0.35) ** 2), s=(n, n))
        image += part * np.clip(1 - np.abs(height - level) / (levels[1] - levels[0]), 0, None)
    return image.astype(np.float32)


def test_the_tilt_and_its_axis_are_found(textbook):
    tilt, axis = math.radians(40), math.radians(20)
    image = tilted_ice(textbook, np.random.default_rng(0), 1400, 1.5, 18_000.0, tilt, axis)
    found = estimate_image_ctf(torch.from_numpy(image), 1.5, Beam(300.0, 2.7, 0.1), SearchRange())
    plane = fit_tilt(found.fit, found.spectra, image.shape)
    assert abs(math.degrees(plane.tilt - tilt)) < 5
    assert abs(math.remainder(plane.axis - axis, math.pi)) < math.radians(8)
    assert abs(plane.defocus - 18_000) < 150
    assert plane.improvement > 10


def test_a_level_specimen_has_no_tilt_to_speak_of(micrograph):
    image = micrograph(np.random.default_rng(1), (1400, 1400), 1.5, 18_200.0, 17_800.0, 0.7, envelope=60, ice=0.6)
    found = estimate_image_ctf(torch.from_numpy(image), 1.5, Beam(300.0, 2.7, 0.1), SearchRange())
    plane = fit_tilt(found.fit, found.spectra, image.shape)
    assert math.degrees(plane.tilt) < 8
    assert plane.improvement < 5


@pytest.mark.slow
@pytest.mark.capability("CTF-7")
def test_a_tilt_of_40_degrees_and_its_gradient_are_found(textbook, measure):
    """Three micrographs of 2560² px at 1.5 Å; axis and defocus at random, nothing is told."""
    rng = np.random.default_rng(7)
    size, pixel_size, tilt = 2560, 1.5, math.radians(40)
    tilts, gradients = [], []
    for case in range(3):
        axis, defocus = float(rng.uniform(0, math.pi)), float(rng.uniform(14_000, 25_000))
        image = tilted_ice(textbook, np.random.default_rng(case), size, pixel_size, defocus, tilt, axis, n_strips=36)
        found = estimate_image_ctf(torch.from_numpy(image), pixel_size, Beam(300.0, 2.7, 0.1), SearchRange())
        plane = fit_tilt(found.fit, found.spectra, image.shape)
        y, x = (np.mgrid[:32, :32] - 15.5) * size * pixel_size / 32
        height = np.tan(tilt) * (np.cos(axis) * y - np.sin(axis) * x)
        error = plane.defocus - defocus + plane.gradient[0] * y + plane.gradient[1] * x - height
        tilts.append(abs(math.degrees(plane.tilt - tilt)))
        gradients.append(float(np.sqrt(np.mean(error**2))))
    measure(max(tilts), unit="deg", threshold="< 1", note="largest of 3, tilt 40 deg, 2560² px at 1.5 Å, 1.4-2.5 µm")
    measure(
        max(gradients), unit="Å", threshold="< 30", note="RMS error of the defocus over the micrograph, the largest"
    )
    assert max(tilts) < 1
    assert max(gradients) < 30

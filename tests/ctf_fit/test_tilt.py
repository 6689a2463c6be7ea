import math

import numpy as np
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

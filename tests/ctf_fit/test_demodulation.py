"""The second estimate of the CTF, and images in which neither may find one."""

import math

import numpy as np
import pytest
import torch
from micrographs import RINGLESS, ringless_image

from cryoloom.ctf_fit.demodulation import demodulate_ctf, gain_at
from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.ctf_fit.verdict import MIN_GAIN

BEAM = Beam(300.0, 2.7, 0.1)


def demodulate(image, pixel_size=1.5):
    return demodulate_ctf(torch.from_numpy(image), pixel_size, BEAM, SearchRange())


@pytest.mark.parametrize("u, v, angle", [(3_600, 3_200, 0.5), (15_000, 13_100, 2.0), (41_000, 40_000, 0.1)])
def test_defocus_and_astigmatism_are_found_without_a_start(micrograph, u, v, angle):
    image = micrograph(np.random.default_rng(1), (900, 1000), u=u, v=v, angle=angle, envelope=60, ice=0.5)
    found = demodulate(image)
    fu, fv, fa = found.defocus.uv_angle
    assert abs(found.defocus.mean - 0.5 * (u + v)) < 5 * found.defocus_error < 300
    assert max(abs(fu - u), abs(fv - v)) < 150
    if u - v > 1_000:
        assert abs(math.remainder(fa - angle, math.pi)) < math.radians(8)
    # the gain is highest there
    there = gain_at(found.data, BEAM, found.defocus)
    assert there == pytest.approx(found.gain, rel=1e-6)
    assert there > gain_at(found.data, BEAM, Defocus(found.defocus.mean + 300, found.defocus.cos, found.defocus.sin))


def test_scale_and_contrast_do_not_matter_and_an_empty_image_is_refused(micrograph):
    image = micrograph(np.random.default_rng(3), (800, 800), u=14_000, v=13_600, envelope=60, ice=0.5)
    expected = demodulate(image).defocus.mean
    assert demodulate(-40 * image + 1000).defocus.mean == pytest.approx(expected, abs=3)
    for empty in (np.zeros((256, 256), np.float32), np.zeros((32, 256), np.float32)):
        with pytest.raises(ValueError, match="expected at least 64|flat or empty"):
            demodulate(empty)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RINGLESS)
def test_images_without_rings_stay_below_the_limit_of_the_verdict(kind):
    for seed in range(8):
        size, pixel_size = ((1024, 1.4), (1280, 1.1), (1024, 1.0))[seed % 3]
        image = torch.from_numpy(ringless_image(kind, seed, size, pixel_size))
        assert estimate_image_ctf(image, pixel_size, BEAM, SearchRange()).gain < MIN_GAIN


def test_errors_are_as_large_as_the_misses_where_rings_are_faint(micrograph):
    misses, stated = [], []
    for seed in range(6):
        image = micrograph(np.random.default_rng(20 + seed), (512, 512), u=9_000, v=8_800, envelope=80, ice=0.3)
        found = demodulate(image)
        misses.append(found.defocus.as_array()[:3] - Defocus.from_uv(9_000, 8_800, 0.3).as_array()[:3])
        stated.append(np.trace(found.covariance) / 3)
    assert np.sqrt(np.mean(np.square(misses))) < 1.7 * np.sqrt(np.mean(stated))  # by the curvature alone: 2.4 times

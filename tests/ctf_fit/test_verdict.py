import numpy as np
import pytest

from cryoloom.ctf_fit.model import Beam, Defocus, double_phase
from cryoloom.ctf_fit.quality import RingCurves, ring_depth, rings_end_before
from cryoloom.ctf_fit.verdict import MIN_GAIN, reason_to_exclude

BEAM = Beam(300.0, 2.7, 0.1)
DEFOCUS = Defocus(15_000.0)


def curves(area, envelope, *, depth=0.2, seed=0):
    """Rings of a given envelope in the noise of a given area, 1 shell per 1/768 Å."""
    k = np.arange(26, 240) / 768
    fitted = -depth * np.exp(-0.5 * envelope * k**2) * np.cos(double_phase(BEAM, DEFOCUS, k**2, 0 * k, 0 * k))
    error = 1 / np.sqrt(np.pi * k * area / 768)
    return RingCurves(k, fitted + error * np.random.default_rng(seed).standard_normal(len(k)), fitted, error)


def test_the_depth_of_rings_is_found_within_its_error():
    z = []
    for seed in range(200):
        found, error = ring_depth(curves(2e6, 0.0, seed=seed), BEAM, DEFOCUS, 0.08, 0.125)
        z.append((found - 0.2) / error)
    assert abs(np.mean(z)) < 0.25
    assert np.std(z) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "area, envelope, ended",
    [(2.4e7, 300, False), (2.4e7, 3_000, True), (2.4e7, 600, False), (1.5e6, 300, False), (1.5e6, 3_000, False)],
)
def test_rings_end_only_where_the_area_suffices_to_tell(area, envelope, ended):
    said = [rings_end_before(curves(area, envelope, seed=seed), BEAM, DEFOCUS, 0.1) for seed in range(40)]
    assert (np.mean(said) > 0.7) if ended else (np.mean(said) < 0.05)


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, ""),
        ({"ctf_resolution": None}, ""),
        ({"gain": MIN_GAIN - 1}, "no Thon rings"),
        ({"defocus_error": 900.0}, "known to 900"),
        ({"faded": True}, "end before 10"),
    ],
)
def test_each_reason_is_named(change, words):
    result = {"gain": 60.0, "defocus_error": 40.0, "ctf_resolution": 12.0, "faded": False} | change
    reason = reason_to_exclude(result, None)
    assert words in reason if words else reason == ""


def test_a_resolution_that_was_asked_for_is_demanded():
    result = {"gain": 60.0, "defocus_error": 40.0, "ctf_resolution": 12.0, "faded": False}
    assert "12.0 Å" in reason_to_exclude(result, 6.0)
    assert "too faint" in reason_to_exclude(result | {"ctf_resolution": None}, 6.0)
    assert reason_to_exclude(result | {"ctf_resolution": 5.0}, 6.0) == ""

"""The local resolution behind readings that average over a window."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from cryoloom.maps.unmixing import FALL, Reading, unmix_readings

PIXEL = 2.0


def ball(radius: float, n: int = 40) -> np.ndarray:
    z, y, x = np.ogrid[[slice(-(n // 2), n - n // 2)] * 3]
    return z**2 + y**2 + x**2 < radius**2


def reading(truth: np.ndarray, inside: np.ndarray, window: float, chance: float, rng=None) -> Reading:
    """What a window reads of a field of resolutions, by definition, with noise alike over the window."""
    sigma = window / PIXEL
    mixed = gaussian_filter(np.where(inside, truth**-FALL, 0.0), sigma) / gaussian_filter(inside * 1.0, sigma).clip(
        1e-3
    )
    values = mixed.clip(1e-12) ** (-1 / FALL)
    if rng is not None:
        noise = gaussian_filter(rng.normal(size=truth.shape), sigma)
        values = values * np.exp(chance * noise / noise[inside].std())
    return Reading(values.astype(np.float32), np.full(truth.shape, chance, np.float32), window)


def error(found: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> float:
    return float(np.sqrt((np.log(found[inside] / truth[inside]) ** 2).mean()))


def test_an_even_particle_stays_even():
    inside = ball(12)
    truth = np.full(inside.shape, 4.0)
    found = unmix_readings([reading(truth, inside, w, 0.05) for w in (8.0, 5.0)], inside, PIXEL)
    np.testing.assert_allclose(found[inside], 4.0, rtol=1e-3)
    assert np.isnan(found[~inside]).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_border_is_found_again_and_chance_is_not_followed(seed):
    rng = np.random.default_rng(seed)
    inside = ball(14)
    truth = np.where(np.arange(40)[:, None, None] < 20, 3.5, 6.0) * np.ones(inside.shape)
    readings = [reading(truth, inside, 8.0, 0.04, rng), reading(truth, inside, 5.0, 0.07, rng)]
    found = unmix_readings(readings, inside, PIXEL)
    assert error(found, truth, inside) < 0.85 * min(error(r.values, truth, inside) for r in readings)
    even = np.full(inside.shape, 5.0)
    readings = [reading(even, inside, 8.0, 0.04, rng), reading(even, inside, 5.0, 0.07, rng)]
    found = unmix_readings(readings, inside, PIXEL)
    assert np.log(found[inside]).std() < 0.03  # readings: 0.04 and 0.07


def test_the_smallest_particle_keeps_its_reading_and_none_has_no_answer():
    inside = np.zeros((20, 20, 20), bool)
    one = Reading(np.full(inside.shape, 5.0, np.float32), np.full(inside.shape, 0.05, np.float32), 12.0)
    assert np.isnan(unmix_readings([one], inside, PIXEL)).all()
    inside[10, 10, 10] = True
    assert unmix_readings([one], inside, PIXEL)[inside] == pytest.approx(5.0, rel=0.01)

"""The oracle's centres: a smooth difference of places is taken out, what single particles got wrong is not."""

import numpy as np
import pytest

from cryoloom.scoring.oracle import smooth_offset


@pytest.mark.parametrize("n", [5, 12, 60])
def test_a_smooth_offset_is_found_among_wrong_centres(n):
    rng = np.random.default_rng(n)
    place = rng.uniform(0, 3000, (n, 2))
    y, x = (place / 3000).T
    field = np.stack([3 + 0 * y, -2 + 0 * y], 1)
    if n >= 9:
        field += np.stack([6 * y - 2 * x, 4 * x], 1)
    if n >= 20:
        field += np.stack([5 * y * x, -8 * x * x], 1)
    offset = field + 0.5 * rng.standard_normal((n, 2))
    offset[: n // 6] += 40.0
    found = smooth_offset(place, offset)
    assert np.sqrt(((found - field)[n // 6 :] ** 2).mean()) < 0.6
    assert np.abs(found - field).max() < 3.0


def test_the_offset_of_a_single_particle_is_its_own():
    np.testing.assert_allclose(smooth_offset(np.zeros((1, 2)), np.array([[1.0, 2.0]])), [[1.0, 2.0]])

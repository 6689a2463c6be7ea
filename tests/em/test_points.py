"""Points of the half plane."""

import numpy as np
import pytest

from cryoloom.em import plane_points


@pytest.mark.parametrize("box", [16, 17, 48])
def test_points_and_mates_cover_the_disc_once_without_the_origin(box):
    p = plane_points(box)
    both = {(int(x), int(y)) for x, y in zip(p.kx, p.ky, strict=True)}
    mates = {(-x, -y) for x, y in both}
    assert len(both) == len(p.kx) and not both & mates
    k = np.arange(-box, box + 1)
    y, x = np.meshgrid(k, k, indexing="ij")
    inside = (np.hypot(x, y) <= p.radius) & (np.hypot(x, y) > 0)
    assert len(both | mates) == inside.sum()


def test_a_resolution_limit_is_a_prefix():
    p = plane_points(32)
    for radius in (1, 5, p.radius):
        n = p.count(radius)
        assert (p.shell[:n] <= radius).all() and (p.shell[n:] > radius).all()

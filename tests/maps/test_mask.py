"""Masks: exact radii and edges, distances against SciPy, and bodies found in noisy maps."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from cryoloom.maps import cosine_edge, find_mask, soft_mask_from_map, spherical_mask
from cryoloom.maps.distance import distance_outside


@pytest.mark.parametrize("box", [32, 33])
def test_a_ball_is_one_inside_half_in_the_middle_of_its_edge_and_zero_outside(box):
    mask = spherical_mask(box, 8.0, 4.0)
    c = box // 2
    assert mask[c, c, c] == 1 and mask[c, c, c + 8] == 1 and mask[c, c - 8, c] == 1
    assert mask[c + 10, c, c] == pytest.approx(0.5, abs=1e-6)
    assert mask[c, c, c + 12] == pytest.approx(0, abs=1e-6) and mask[0, 0, 0] == 0


def test_a_disc_and_a_displaced_ball_lie_where_they_are_asked_for():
    disc = spherical_mask((20, 24), 5.0, 0.0)
    assert disc.shape == (20, 24) and disc[10, 12] == 1 and disc[10, 17] == 1 and disc[10, 18] == 0
    ball = spherical_mask(20, 3.0, 0.0, centre_px=(4, 5, 6))
    assert ball[4, 5, 9] == 1 and ball[10, 10, 10] == 0


def test_the_edge_is_a_raised_cosine():
    distance = torch.tensor([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 9.0])
    expected = torch.tensor([1, 1, 0.5 + 0.5 * 0.5**0.5, 0.5, 0.5 - 0.5 * 0.5**0.5, 0, 0])
    torch.testing.assert_close(cosine_edge(distance, 4.0), expected, atol=1e-6, rtol=0)


def test_distances_equal_those_of_scipy():
    rng = np.random.default_rng(0)
    body = rng.random((20, 25, 31)) > 0.995
    expected = scipy.ndimage.distance_transform_edt(~body)
    np.testing.assert_allclose(distance_outside(body), expected, atol=1e-4)
    near = expected <= 3
    np.testing.assert_allclose(distance_outside(body, 3.0)[near], expected[near], atol=1e-4)
    assert np.isinf(distance_outside(np.zeros((4, 4, 4), bool))).all()


def blobs(box: int) -> torch.Tensor:
    a = spherical_mask(box, box * 0.15, 0.0, centre_px=(box * 0.5, box * 0.5, box * 0.38))
    b = spherical_mask(box, box * 0.12, 0.0, centre_px=(box * 0.5, box * 0.5, box * 0.6))
    return torch.maximum(a, b)


def test_the_body_is_found_in_a_noisy_map_and_specks_are_left_out():
    box, pixel_size = 64, 2.0
    truth = blobs(box)
    speck = spherical_mask(box, 2.0, 0.0, centre_px=(10, 32, 32))
    noise = torch.randn(box, box, box, generator=torch.Generator().manual_seed(1))
    found = find_mask(truth + speck + 1.0 * noise, pixel_size, extend=4.0, edge=6.0)
    assert found.n_pieces == 1
    assert found.mask[truth > 0].min() > 0.5
    assert found.mask[10, 32, 32] == 0
    assert found.interior == pytest.approx(1.0, abs=0.3)
    assert found.volume == pytest.approx(float(truth.sum()) * 8, rel=0.35)
    assert 0 <= float(found.mask.min()) and float(found.mask.max()) == 1.0


def test_the_mask_does_not_depend_on_grey_scale():
    truth = blobs(48) + 0.3 * torch.randn(48, 48, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        soft_mask_from_map(truth, 2.0), soft_mask_from_map(40.0 * truth - 7.0, 2.0), atol=0.02, rtol=0
    )

"""Peaks: where they are, how far apart, and how they compete with decoys."""

import numpy as np
import pytest
import torch

from cryoloom.picking.peaks import find_peaks, keep_distance, normalise_by_background
from cryoloom.picking.search import compete


def _bumps(shape, places, heights, sigma=3.0):
    y, x = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    image = np.zeros(shape)
    for (py, px), height in zip(places, heights, strict=True):
        image += height * np.exp(-((y - py) ** 2 + (x - px) ** 2) / (2 * sigma**2))
    return torch.from_numpy(image.astype(np.float32))


def test_peaks_are_found_between_pixels_highest_first():
    places = [(20.3, 30.6), (50.0, 15.25)]
    position, value = find_peaks(_bumps((70, 60), places, [1.0, 2.0]), 12, lowest=0.5)
    np.testing.assert_allclose(position, [places[1], places[0]], atol=0.05)
    np.testing.assert_allclose(value, [2.0, 1.0], rtol=0.03)


def test_a_lower_peak_too_close_to_a_higher_one_is_dropped():
    image = _bumps((60, 60), [(20, 20), (20, 34)], [2.0, 1.0])
    assert len(find_peaks(image, 10, lowest=0.5)[0]) == 2
    position, _ = find_peaks(image, 20, lowest=0.5)
    np.testing.assert_allclose(position, [[20, 20]], atol=0.1)


def test_points_kept_are_far_apart_and_every_dropped_one_is_near_a_kept_one():
    points = np.random.default_rng(0).uniform(0, 100, (300, 2))
    kept = keep_distance(points, 15.0)
    gaps = np.linalg.norm(points[kept][:, None] - points[kept][None], axis=-1)
    assert gaps[np.triu_indices(len(kept), 1)].min() > 15
    assert (np.linalg.norm(points[:, None] - points[kept][None], axis=-1).min(1) <= 15).all()


def test_of_a_candidate_and_a_decoy_side_by_side_the_higher_one_stays():
    place, value = np.asarray([[10.0, 10.0], [50.0, 50.0]]), np.asarray([5.0, 3.0])
    decoy_place, decoys = np.asarray([[12.0, 10.0], [52.0, 50.0], [90.0, 90.0]]), np.asarray([4.0, 4.0, 2.0])
    contested, kept = compete(place, value, decoy_place, decoys, 5.0)
    assert contested.tolist() == [False, True]
    assert kept.tolist() == [False, True, True]


def test_the_background_gets_mean_zero_and_deviation_one_beside_bright_particles():
    score = 3 + 2 * torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    score[:60] += 30
    scaled = normalise_by_background(score)[0][100:]
    assert abs(float(scaled.mean())) < 0.25
    assert float(scaled.std()) == pytest.approx(1.0, abs=0.15)


def test_masked_regions_do_not_change_the_scale_of_the_background():
    score = 3 + 2 * torch.randn(400, 400, generator=torch.Generator().manual_seed(0))
    whole = normalise_by_background(score)[0][200:]
    score[:180], valid = 0.0, torch.zeros(400, 400, dtype=torch.bool)
    valid[180:] = True
    masked = normalise_by_background(score, valid=valid)[0][200:]
    assert float((masked - whole).abs().max()) < 0.1
    assert float((normalise_by_background(score)[0][200:] - whole).abs().max()) > 1.0


def test_a_map_and_its_inverted_twin_are_put_on_one_scale():
    score = torch.randn(400, 400, generator=torch.Generator().manual_seed(1))
    score[::20, ::20] += 30
    positive, negative = normalise_by_background(score, -score)
    assert float((positive + negative).std()) < 1e-5

"""Thresholds and probabilities from decoys."""

import numpy as np

from cryoloom.picking.calibrate import calibrate, isotonic, valley


def _scores(n_true, n_noise, seed):
    rng = np.random.default_rng(seed)
    true = rng.normal(6.0, 1.0, n_true)
    return true, rng.gumbel(2.5, 0.45, n_noise), rng.gumbel(2.5, 0.45, n_noise)


def test_the_fraction_of_false_picks_is_as_announced():
    announced, real = [], []
    for seed in range(10):
        true, noise, decoys = _scores(300, 3000, seed)
        found = calibrate(np.concatenate([true, noise]), decoys, false_picks=0.1, least_probability=0.0)
        announced.append(found.false_fraction)
        n_false = (noise >= found.threshold).sum()
        real.append(n_false / ((true >= found.threshold).sum() + n_false))
    assert np.mean(announced) <= 0.1
    assert abs(np.mean(real) - np.mean(announced)) < 0.03


def test_noise_alone_gives_no_picks():
    kept = []
    for seed in range(20):
        _, noise, decoys = _scores(0, 3000, seed)
        found = calibrate(noise, decoys, false_picks=0.15, least_probability=0.5)
        kept.append(int((noise >= found.threshold).sum()))
    assert np.mean(np.asarray(kept) > 5) < 0.1


def test_probabilities_rise_with_the_score_and_match_the_truth():
    true, noise, decoys = _scores(1000, 5000, 3)
    found = calibrate(np.concatenate([true, noise]), decoys, false_picks=0.1, least_probability=0.5)
    grid = np.linspace(2, 8, 50)
    probability = found.probability(grid)
    assert (np.diff(probability) >= 0).all()
    at = (np.abs(true - 4.5) < 0.3).sum() / ((np.abs(true - 4.5) < 0.3).sum() + (np.abs(noise - 4.5) < 0.3).sum())
    assert abs(float(found.probability(np.asarray([4.5]))[0]) - at) < 0.12
    assert abs(found.n_true - 1000) < 150


def test_a_given_threshold_is_used():
    true, noise, decoys = _scores(100, 500, 4)
    given = {"false_picks": 0.1, "least_probability": 0.5, "threshold": 5.0}
    assert calibrate(np.concatenate([true, noise]), decoys, **given).threshold == 5.0


def test_no_candidates_are_no_error():
    assert calibrate(np.zeros(0), np.zeros(0), false_picks=0.1, least_probability=0.5).threshold == np.inf


def test_isotonic_regression_pools_violators():
    np.testing.assert_allclose(isotonic(np.asarray([1.0, 3.0, 2.0, 4.0]), np.ones(4)), [1.0, 2.5, 2.5, 4.0])


def test_the_threshold_lies_in_the_valley_when_particles_stand_apart():
    rng = np.random.default_rng(0)
    side_peaks = 3.5 + rng.exponential(0.3, 60)
    apart = np.sort(np.concatenate([side_peaks, rng.normal(9.0, 0.8, 300)]))
    assert 4.5 < valley(apart) < 7.5
    falling = np.sort(3.5 + rng.exponential(1.0, 400))
    assert valley(falling) == falling[0]
    single = np.sort(rng.normal(7.0, 1.0, 400))
    assert valley(single) == single[0]

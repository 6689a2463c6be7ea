"""Half sets: overlapping boxes together, both halves alike in size."""

import numpy as np

from cryoloom.extraction.halves import assign_halves


def _overlaps(micrograph, position, box):
    near = (np.abs(position[:, None] - position[None]) < box).all(-1)
    return near & (micrograph[:, None] == micrograph[None])


def test_overlapping_boxes_share_their_half():
    rng = np.random.default_rng(0)
    micrograph = rng.integers(0, 6, 300)
    position = rng.uniform(0, 3000, (300, 2))
    half, n_cut = assign_halves(micrograph, position, 150.0, seed=3)
    assert n_cut == 0
    i, j = np.nonzero(_overlaps(micrograph, position, 150.0))
    assert (half[i] == half[j]).all()


def test_halves_are_balanced_even_on_one_crowded_micrograph():
    rng = np.random.default_rng(1)
    position = rng.uniform(0, 500, (101, 2))
    half, n_cut = assign_halves(np.zeros(101), position, 100.0)
    assert abs(int((half == 1).sum()) - int((half == 2).sum())) <= 3
    assert n_cut == 1
    assert set(half.tolist()) == {1, 2}


def test_micrographs_do_not_overlap_each_other():
    position = np.zeros((10, 2))
    half, _ = assign_halves(np.arange(10), position, 100.0)
    assert (half == 1).sum() == (half == 2).sum() == 5


def test_the_seed_decides_and_repeats():
    rng = np.random.default_rng(2)
    position = rng.uniform(0, 5000, (200, 2))
    first, _ = assign_halves(np.zeros(200), position, 100.0, seed=1)
    again, _ = assign_halves(np.zeros(200), position, 100.0, seed=1)
    other, _ = assign_halves(np.zeros(200), position, 100.0, seed=2)
    assert (first == again).all()
    assert (first != other).any()

"""Half sets: what shares pixels shares its half, and both halves get their part."""

import numpy as np
import pytest

from cryoloom.data import Optics, ParticleSet
from cryoloom.data.halves import assign_halves, groups_in_both_halves, linked_groups


def make(position, micrograph=None, images=None, extra=None):
    n = len(position)
    return ParticleSet(
        image_path=np.full(n, "a.mrcs", dtype=object),
        image_index=np.arange(n) if images is None else np.asarray(images),
        micrograph=np.full(n, "m", dtype=object) if micrograph is None else np.asarray(micrograph, object),
        position_px=np.asarray(position, float), optics=(Optics(),), optics_index=np.zeros(n, int), extra=extra or {},
    )  # fmt: skip


def test_boxes_that_overlap_on_one_micrograph_are_linked():
    particles = make([[0, 0], [9, 9], [0, 10], [50, 50], [59, 41], [0, 0]], micrograph=["a"] * 5 + ["b"])
    assert linked_groups(particles, overlap_px=10).tolist() == [0, 0, 0, 1, 1, 2]
    assert linked_groups(particles, overlap_px=9).tolist() == [0, 1, 2, 3, 4, 5]


def test_copies_and_filaments_are_linked():
    particles = make(
        np.arange(6)[:, None] * [1000.0, 0],
        images=[0, 1, 1, 2, 3, 4],
        extra={"filament": np.array([1, 2, 3, 3, 3, 4])},
    )
    group = linked_groups(particles)
    assert group[1] == group[2] and group[2] == group[3] == group[4] and len(set(group)) == 3


@pytest.mark.parametrize("seed", range(5))
def test_no_link_crosses_the_halves_and_they_are_balanced(seed):
    rng = np.random.default_rng(seed)
    n = 2000
    particles = make(rng.uniform(0, 4000, (n, 2)), micrograph=(np.arange(n) // 40).astype(str))
    half = assign_halves(particles, rng, overlap_px=200)
    group = linked_groups(particles, overlap_px=200)
    for g in range(group.max() + 1):
        assert len(set(half[group == g])) == 1
    counts = np.bincount(half)
    assert counts[0] == 0 and abs(int(counts[1]) - int(counts[2])) <= np.bincount(group).max()
    again = assign_halves(particles, np.random.default_rng(seed), overlap_px=200)
    other = assign_halves(particles, np.random.default_rng(seed), overlap_px=200)
    assert np.array_equal(again, other)


def test_a_chain_of_everything_is_cut_rather_than_leaving_one_half_empty():
    particles = make([[i * 5.0, 0] for i in range(100)])
    half = assign_halves(particles, np.random.default_rng(0), overlap_px=8)
    assert np.bincount(half).tolist() == [0, 50, 50]


def test_unknown_positions_are_linked_to_nothing():
    particles = make([[np.nan, np.nan], [0, 0], [1, 1]])
    assert len(set(linked_groups(particles, overlap_px=10))) == 2


def test_one_crowded_micrograph_is_cut_once_across_its_longer_axis():
    rng = np.random.default_rng(1)
    particles = make(rng.uniform(0, 500, (101, 2)) * [1.0, 2.0])
    half = assign_halves(particles, np.random.default_rng(0), overlap_px=150, imbalance=0.03)
    group = linked_groups(particles, overlap_px=150)
    assert abs(int((half == 1).sum()) - int((half == 2).sum())) <= 3
    assert groups_in_both_halves(group, half) == 1
    inside = np.flatnonzero(group == np.bincount(group).argmax())
    first, second = (particles.position_px[inside, 1][half[inside] == h] for h in (1, 2))
    assert first.max() <= second.min() or second.max() <= first.min()


def test_copies_stay_together_where_a_chain_is_cut():
    images = np.repeat(np.arange(50), 2)
    particles = make([[i * 2.5, 0] for i in range(100)], images=images)
    half = assign_halves(particles, np.random.default_rng(0), overlap_px=8, imbalance=0.03)
    assert (half[::2] == half[1::2]).all() and abs(int((half == 1).sum()) - 50) <= 2


def test_the_seed_decides_and_repeats():
    particles = make(np.random.default_rng(2).uniform(0, 5000, (200, 2)))
    first, again, other = (assign_halves(particles, np.random.default_rng(s), overlap_px=100) for s in (1, 1, 2))
    assert (first == again).all() and (first != other).any()

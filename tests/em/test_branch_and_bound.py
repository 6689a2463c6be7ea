"""Branch and bound: its bound holds, and it ends where the exhaustive search does without looking at most of it."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from cryoloom.em import NoiseModel, best_of, estimate_image_power, search_poses
from cryoloom.em.branch_and_bound import search_by_bound, search_tree
from cryoloom.em.pose_tree import build_tree
from cryoloom.em.rings import reference_bank, ring_scores
from cryoloom.em.search import RingSearcher
from cryoloom.fourier.slices import extract_points, prepare_volume

N_RINGS = 14


def white_noise(data, source):
    return NoiseModel(np.full((1, source.points.radius + 1), (data.noise_sigma * data.box) ** 2))


def test_what_a_centre_sees_of_its_corners_is_the_correlation_of_their_slices(simulated):
    data = simulated(20, snr=0.3)
    source = data.source(normalise=False)
    grids = search_tree(4, "C1", 3.0, 1.0)
    searcher = RingSearcher(source, white_noise(data, source), 8, torch.zeros(1, 2), grids[-1].rotations, 1)
    plan = searcher.plan
    samples = [extract_points(prepare_volume(data.volume), g.rotations, plan.points) for g in grids]
    weight = plan.ring_weight * plan.n_samples
    tree = build_tree(plan, grids, samples, weight)
    share = [level.seen_share(weight[None])[0] for level in tree]
    assert all(s.shape == (len(g.rotations),) for s, g in zip(share, grids, strict=True))
    torch.testing.assert_close(share[-1], torch.ones_like(share[-1]), atol=1e-5, rtol=0)
    # the same grid on fewer rings: the share of the power within them
    n, power = tree[-2].n_rings, tree[-2].power * weight
    torch.testing.assert_close(share[-2], power[:, :n].sum(1) / power.sum(1), atol=1e-5, rtol=1e-5)
    assert share[0].median() < share[1].median() < share[2].median() < 1.0


def test_the_bound_is_missed_no_more_often_than_it_says(simulated):
    """At z = 1 an exact bound is missed by 16 % of the images; that of the worst member of a cell by fewer."""
    data = simulated(200, snr=0.2, shift_px=0.0)
    source = data.source(normalise=False)
    noise = white_noise(data, source)
    grids = search_tree(8, "C1", 3.0, 1.0)
    searcher = RingSearcher(source, noise, N_RINGS, torch.zeros(1, 2), grids[-1].rotations, 1)
    plan = searcher.plan
    reference = prepare_volume(data.volume)
    samples = [extract_points(reference, g.rotations, plan.points) for g in grids]
    tree = build_tree(plan, grids, samples, plan.ring_weight * plan.n_samples * 0.5 * searcher.inverse_noise.mean(0))
    truth = torch.from_numpy(data.truth.rotation)
    for level in tree[:2]:
        missed = []
        for rows in source.chunk_rows(np.arange(200)):
            chunk = source.chunk(rows)
            batch = searcher.batch(chunk, searcher.samples(chunk), np.arange(len(rows)), np.zeros((len(rows), 2)))
            # the score at the true pose and at the centre of the cell that holds it, by plain sums over the rings
            own = extract_points(reference, truth[rows], plan.points).reshape(len(rows), plan.n_rings, -1)
            cross = (own.conj() * batch.weighted).real.mean(2) * (plan.ring_weight * plan.n_samples)
            full = cross.sum(1) / ((own.abs() ** 2).mean(2) * batch.norm_weight).sum(1).sqrt()
            cell = (truth[rows][:, :, 2] @ level.grid.rotations[:, :, 2].T).argmax(1)
            share = level.seen_share(batch.norm_weight)[torch.arange(len(rows)), cell]
            turned = _centre_scores(plan, level, batch, reference)[torch.arange(len(rows)), cell]
            missed.append(full > turned / share.sqrt() + (1 / share - 1).sqrt())
        assert torch.cat(missed).float().mean() < norm.sf(1.0) + 0.05


def _centre_scores(plan, level, batch, reference):
    """Best score over the angles at each centre on the rings of the level, by the full table of another module."""
    keep = torch.arange(plan.n_rings) < level.n_rings
    samples = extract_points(reference, level.grid.rotations, plan.points)
    some = replace(batch, weighted=batch.weighted * keep[:, None], norm_weight=batch.norm_weight * keep)
    cross, power = ring_scores(some, reference_bank(plan, samples), plan, torch.zeros(1, 2))
    return cross[:, 0].amax(-1) / power.sqrt()


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_it_ends_where_the_exhaustive_search_does(simulated, executor, symmetry):
    data = simulated(40, snr=0.3, symmetry=symmetry, n_blobs=40 if symmetry == "C1" else 12)
    source = data.source(normalise=False)
    share, same, count = _both(data, source, white_noise(data, source), executor, 8, 0.5)
    assert same.all() and share < 0.3 and count.evaluated < count.exhaustive


def test_an_image_of_nothing_is_searched_whole_and_still_ends_there(simulated, executor):
    """Nothing can be ruled out where no pose stands out: the price of safety."""
    data = simulated(16, snr=1e-6)
    source = data.source()
    noise = estimate_image_power(source, executor, np.arange(16))
    share, same, _ = _both(data, source, noise, executor, 4, 1.0)
    assert same.all() and share > 0.5


def _both(data, source, noise, executor, n_side, step_px):
    rows = np.arange(len(source))
    reference = [prepare_volume(data.volume)]
    grids = search_tree(n_side, data.symmetry, 3.0, step_px)
    found, count = search_by_bound(
        source, reference, data.truth.half, rows, noise, executor, n_rings=N_RINGS, grids=grids
    )  # fmt: skip
    every = search_poses(
        source, reference, data.truth.half, rows, noise, executor, n_rings=N_RINGS,
        rotations=grids[-1].rotations, shifts_px=grids[-1].shifts_px, top=1,
    )  # fmt: skip
    best = found.select(best_of(found, found.log_likelihood))
    assert (best.row == rows).all() and (every.row == rows).all()
    # both report the highest score on the finest grid; sums in another order differ in the seventh digit
    return count.share, best.log_likelihood >= every.log_likelihood * (1 - 2e-6), count


@pytest.mark.slow
@pytest.mark.capability("REF-2")
def test_a_thousand_images_find_the_optimum_of_the_exhaustive_search(simulated, executor, measure):
    weighted = plain = exhaustive = 0.0
    same, notes = [], []
    for symmetry, n_blobs, n_side in (("C1", 40, 12), ("D2", 12, 24)):
        data = simulated(500, snr=0.1, symmetry=symmetry, n_blobs=n_blobs, scale_spread=0.1)
        source = data.source(normalise=False)
        noise = white_noise(data, source)
        rows = np.arange(len(source))
        for chunk in source.chunk_rows(rows):
            source.chunk(chunk)  # reading and transforming belongs to neither
        reference = [prepare_volume(data.volume)]
        start = time.process_time()
        grids = search_tree(n_side, symmetry, 3.0, 0.5)
        found, count = search_by_bound(
            source, reference, data.truth.half, rows, noise, executor, n_rings=N_RINGS, grids=grids
        )  # fmt: skip
        middle = time.process_time()
        every = search_poses(
            source, reference, data.truth.half, rows, noise, executor, n_rings=N_RINGS,
            rotations=grids[-1].rotations, shifts_px=grids[-1].shifts_px, top=1,
        )  # fmt: skip
        end = time.process_time()
        best = found.select(best_of(found, found.log_likelihood))
        same.append(best.log_likelihood >= every.log_likelihood * (1 - 2e-6))
        weighted, plain = weighted + count.weighted, plain + count.evaluated
        exhaustive += count.exhaustive
        notes.append(
            f"{symmetry}: {count.exhaustive / len(rows) / 1e6:.1f} million poses x shifts per image, rings "
            f"{'/'.join(map(str, count.n_rings))}, {100 * count.share:.2f} % ({count.evaluated / count.exhaustive:.1%} "
            f"unweighted), {middle - start:.1f} CPU s for {end - middle:.1f} of the exhaustive mode, best score "
            f"{np.sqrt(2 * every.log_likelihood).mean():.1f}, {same[-1].mean():.1%} the same"
        )
    agree = float(np.concatenate(same).mean())
    measure(
        round(100 * agree, 2), unit="% same optimum", threshold=">= 99.9, at <= 5 % of the evaluations",
        note=f"{100 * weighted / exhaustive:.2f} % of the evaluations weighted by rings "
        f"({100 * plain / exhaustive:.1f} % unweighted), SNR 0.1, box 48; " + "; ".join(notes),
    )  # fmt: skip
    assert agree >= 0.999
    assert weighted <= 0.05 * exhaustive

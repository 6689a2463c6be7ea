"""Insertion, symmetry and solve: what comes out of known poses."""

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import SerialExecutor, ThreadExecutor
from cryoloom.em import NoiseModel, accumulate, prepare_sums, single_candidates, solve
from cryoloom.em.symmetrise import split_group
from cryoloom.geometry import symmetry_matrices
from cryoloom.maps.fsc import fourier_shell_correlation


def _sums(data, executor, n_targets=1, radius=None):
    source = data.source(normalise=False)
    rows = np.arange(len(data.truth))
    noise = NoiseModel(np.ones((1, source.points.radius + 1)))
    found = single_candidates(rows, data.truth.rotation, data.truth.shift / data.pixel_size, data.truth.scale)
    target = data.truth.half - 1 if n_targets == 2 else np.zeros(len(rows), np.int64)
    return accumulate(source, found, target, n_targets, noise, executor, radius=radius or source.points.radius)


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D7", "O", "T", "I2"])
def test_a_group_is_its_cosets_times_its_exact_part(symmetry):
    cosets, exact = split_group(symmetry)
    products = np.einsum("cij,ejk->ceik", cosets, exact).reshape(-1, 3, 3)
    group = symmetry_matrices(symmetry).numpy()
    assert len(products) == len(group)
    for g in group:
        assert np.abs(products - g).max((1, 2)).min() < 1e-6


@pytest.mark.parametrize("symmetry, least", [("C1", 0.99), ("C3", 0.98), ("D2", 0.995), ("D7", 0.98), ("O", 0.995)])
def test_clean_images_give_the_map_back(simulated, executor, symmetry, least):
    n = {"C1": 500, "C3": 200}.get(symmetry, 100)
    n_blobs = {"C1": 40, "C3": 12}.get(symmetry, 5)
    data = simulated(n, snr=1e6, symmetry=symmetry, n_blobs=n_blobs, shift_px=1.0)
    volume = solve(prepare_sums(_sums(data, executor)[0], symmetry, executor), data.box, floor=1e-4)
    fsc = fourier_shell_correlation(volume, data.volume).numpy()
    assert fsc[2 : data.box // 3].min() > least


def test_threads_and_slabs_do_not_change_a_bit(simulated):
    data = simulated(60, seed=13)
    one = _sums(data, SerialExecutor(), 2)
    for workers in (2, 5):
        many = _sums(data, ThreadExecutor(workers), 2)
        assert all(torch.equal(a.sums, b.sums) for a, b in zip(one, many, strict=True))
        a = prepare_sums(one[0], "C3", SerialExecutor(), keep=True)
        b = prepare_sums(many[0], "C3", ThreadExecutor(workers), keep=True)
        assert torch.equal(a.sums, b.sums) and (a.mean_weight == b.mean_weight).all()


def test_sums_of_parts_add_up_to_the_whole(simulated, executor):
    data = simulated(80, seed=15)
    halves, whole = _sums(data, executor, 2), _sums(data, executor)
    torch.testing.assert_close(halves[0].sums + halves[1].sums, whole[0].sums, rtol=1e-4, atol=1e-2)
    assert whole[0].n_particles == 80


def test_regularisation_follows_the_signal_to_noise_ratio(simulated, executor):
    data = simulated(100, snr=1e4, seed=17)
    sums = prepare_sums(_sums(data, executor)[0], "C1", executor)
    full = solve(sums, data.box, np.full(30, 1e6), floor=0.0)
    damped = solve(sums, data.box, np.full(30, 1.0))
    power = lambda v: float((v**2).sum())  # noqa: E731
    assert power(damped) < 0.5 * power(full)
    assert power(solve(sums, data.box, np.full(30, 1e-3))) < 1e-4 * power(full)


@pytest.mark.parametrize("symmetry", ["C2", "D2", "O", "I2"])
def test_sharing_among_orbits_equals_the_plain_sum_over_the_group(executor, symmetry):
    from cryoloom.em.symmetrise import _share_exactly, _sum_over
    from cryoloom.fourier.slices import complete_sums, empty_sums

    sums = empty_sums(7)
    sums.copy_(torch.randn(sums.shape, generator=torch.Generator().manual_seed(0)))
    sums[..., 3] = 0
    complete_sums(sums)
    operators = split_group(symmetry)[1]
    plain = _sum_over(sums.numpy(), operators, executor)
    _share_exactly(sums.numpy(), operators, executor)
    np.testing.assert_allclose(sums.numpy(), plain, atol=1e-4)

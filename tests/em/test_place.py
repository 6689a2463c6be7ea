"""The engine does the same wherever it works: plain torch in double precision beside the compiled loops.

What runs on a GPU is the plain torch. Without one a pretended GPU shows that everything lies where it should; with one
at hand the same tests run there.
"""

import contextlib

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import SerialExecutor
from cryoloom.em import (
    NoiseModel,
    PosePriors,
    accumulate,
    estimate_noise,
    refine_poses,
    search_poses,
    single_candidates,
    tensor_kernels,
)
from cryoloom.em.channels import accumulate_channels
from cryoloom.em.defocus import fit_defocus
from cryoloom.em.halves import prepare_references
from cryoloom.em.marginal import marginal_sums
from cryoloom.em.place import Place, compiled
from cryoloom.em.poses import empty_poses
from cryoloom.em.products import slice_products
from cryoloom.em.search import search_directions, shift_grid
from cryoloom.geometry import axis_angle_to_matrix, rotation_angle
from pretend_gpu import PretendGpu


@pytest.fixture
def executor():
    """Work in this thread, which alone knows of a pretended GPU."""
    return SerialExecutor()


@pytest.fixture(params=["double precision", "GPU", "two GPUs"])
def both(request, simulated, executor):
    """A set, its noise, and for the compiled loops and the other place: source and references."""
    data = simulated(60, snr=0.2, scale_spread=0.1)
    n_gpus = {"double precision": 0, "GPU": 1, "two GPUs": 2}[request.param]
    place = Place(tuple(f"cuda:{i}" for i in range(n_gpus))) if n_gpus else Place(dtype=torch.float64)
    if 0 < torch.cuda.device_count() < n_gpus:
        pytest.skip("one GPU at hand: two are pretended where there is none")
    with PretendGpu() if n_gpus and not torch.cuda.is_available() else contextlib.nullcontext():
        sides = []
        for where in (Place(), place):
            source = data.source(normalise=False, place=where)
            source.chunk_size = 16  # so that every device gets some
            other = 0.9 * data.volume
            references = prepare_references([data.volume, other], executor, source.points.radius, where)
            assert compiled(references[0].values) == (where == Place())
            sides.append((source, references))
        noise = NoiseModel(np.full((1, sides[0][0].points.radius + 1), (data.noise_sigma * data.box) ** 2))
        yield data, noise, sides


def _near(data, spread=0.05):
    generator = torch.Generator().manual_seed(5)
    n = len(data.truth)
    turn = axis_angle_to_matrix(spread * torch.randn(n, 3, generator=generator, dtype=torch.float64))
    rotation = (torch.from_numpy(data.truth.rotation) @ turn).numpy()
    shift = data.truth.shift / data.pixel_size + 0.3 * torch.randn(n, 2, generator=generator).double().numpy()
    return single_candidates(np.arange(n), rotation, shift)


def _poses(data):
    poses = empty_poses(len(data.truth), data.truth.half)
    poses.rotation[:], poses.shift_px[:] = data.truth.rotation, data.truth.shift / data.pixel_size
    poses.scale[:] = np.linspace(0.8, 1.2, len(data.truth))
    return poses


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("points_at_once", [1 << 21, 5000])
def test_fits_end_at_the_same_poses(both, executor, monkeypatch, held, points_at_once):
    monkeypatch.setattr(tensor_kernels, "POINTS_AT_ONCE", points_at_once)
    data, noise, sides = both
    start = _near(data)
    priors = PosePriors(scale_sd=0.2)
    if held:
        priors = PosePriors(0.2, 1.5, 0.1, data.truth.rotation, data.truth.shift / data.pixel_size)
    a, b = (
        refine_poses(
            source, references, data.truth.half, start, noise, executor, radius=source.points.radius - 2, n_steps=6,
            priors=priors,
        )
        for source, references in sides
    )  # fmt: skip
    apart = rotation_angle(torch.from_numpy(a.rotation).mT @ torch.from_numpy(b.rotation))
    assert float(apart.max()) < 2e-3
    np.testing.assert_allclose(a.shift_px, b.shift_px, atol=5e-3)
    np.testing.assert_allclose(a.scale, b.scale, atol=2e-3)
    np.testing.assert_allclose(a.log_likelihood, b.log_likelihood, atol=0.02, rtol=1e-3)
    scale = np.sqrt(np.einsum("nii,njj->nij", a.information, a.information)) + 1e-9
    # a step more or less may be taken where the last gained about as much as is asked of a step
    apart = np.abs((a.information - b.information) / scale)
    assert np.median(apart) < 1e-4 and apart.max() < 0.05


def test_scores_without_steps_are_equal(both, executor):
    data, noise, sides = both
    a, b = (refine_poses(s, r, data.truth.half, _near(data), noise, executor, radius=12, n_steps=0) for s, r in sides)
    np.testing.assert_allclose(a.log_likelihood, b.log_likelihood, atol=1e-3, rtol=1e-4)
    np.testing.assert_array_equal(a.rotation, b.rotation)


def test_sums_are_equal(both, executor):
    data, noise, sides = both
    target = data.truth.half - 1
    a, b = (
        accumulate(source, _near(data), target, 2, noise, executor, radius=source.points.radius) for source, _ in sides
    )
    for one, other in zip(a, b, strict=True):
        assert one.n_particles == other.n_particles and other.sums.device.type == "cpu"
        largest = float(one.sums.abs().max())
        assert float((one.sums - other.sums).abs().max()) < 1e-5 * largest


def test_sums_are_added_to_those_given(both, executor):
    data, noise, sides = both
    results = []
    for source, _ in sides:
        first = accumulate(source, _near(data), data.truth.half - 1, 2, noise, executor, radius=10)
        results.append(accumulate(source, _near(data), data.truth.half - 1, 2, noise, executor, radius=10, into=first))
    a, b = results[0][1].sums, results[1][1].sums
    assert float((a - b).abs().max()) < 1e-5 * float(a.abs().max())


def test_noise_and_defocus_are_equal(both, executor):
    data, noise, sides = both
    rows = np.arange(len(data.truth))
    poses = _poses(data)
    a, b = (estimate_noise(s, r, poses, rows, noise, executor, radius=s.points.radius) for s, r in sides)
    np.testing.assert_allclose(a.power, b.power, rtol=1e-4)
    found = [fit_defocus(s, r, poses, rows, noise, executor, radius=s.points.radius) for s, r in sides]
    np.testing.assert_allclose(found[0][0], found[1][0], atol=0.5)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=0.5)


def test_searches_find_the_same(both, executor):
    data, noise, sides = both
    found = [
        search_poses(
            source, references, data.truth.half, np.arange(20), noise, executor, n_rings=8,
            rotations=search_directions(3, "C1"), shifts_px=shift_grid(2.0, 1.0), top=2,
        )
        for source, references in sides
    ]  # fmt: skip
    np.testing.assert_allclose(found[0].log_likelihood, found[1].log_likelihood, rtol=2e-3)
    same = rotation_angle(torch.from_numpy(found[0].rotation).mT @ torch.from_numpy(found[1].rotation)) < 0.02
    assert float(same.double().mean()) > 0.95


def test_whole_posteriors_are_equal(both, executor):
    data, noise, sides = both
    found = [
        marginal_sums(
            source, references, data.truth.half, np.arange(20), noise, executor, n_rings=5,
            rotations=search_directions(2, "C1"), shifts_px=shift_grid(2.0, 2.0), shift_sd_px=1.5,
        )
        for source, references in sides
    ]  # fmt: skip
    assert found[0].told == pytest.approx(found[1].told, abs=1e-3)
    assert found[0].gain == pytest.approx(found[1].gain, rel=1e-3)
    a, b = found[0].sums[0].sums, found[1].sums[0].sums
    assert float((a - b).abs().max()) < 1e-3 * float(a.abs().max())


def test_products_and_sums_of_many_volumes_are_equal(both, executor):
    data, noise, sides = both
    poses, rows = _poses(data), np.arange(30)
    rng = np.random.default_rng(0)
    first = rng.normal(size=(30, 2))
    second = first[:, :, None] * first[:, None]
    found = []
    for source, references in sides:
        products = slice_products(
            source, [references], np.zeros(30, np.int64), rows, poses.rotation[:30], poses.shift_px[:30], noise,
            executor, radius=12,
        )  # fmt: skip
        sums = accumulate_channels(
            source, rows, poses.rotation[:30], poses.shift_px[:30], poses.scale[:30], first, second, rows % 2, 2, noise,
            executor, radius=10,
        )  # fmt: skip
        found.append((*products, sums.numpy()))
    for one, other in zip(*found, strict=True):
        assert np.abs(one - other).max() < 1e-4 * np.abs(one).max()

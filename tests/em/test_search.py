"""The exhaustive search: its score is the likelihood's, and it finds poses."""

import numpy as np
import pytest
import torch

from cryoloom.em import (
    NoiseModel,
    PosePriors,
    estimate_image_power,
    refine_poses,
    search_directions,
    search_poses,
    shift_grid,
)
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry import direction_grid, pose_distance, symmetry_matrices


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2", "D7", "T", "O", "I1"])
def test_the_search_unit_reaches_every_direction_through_the_group(symmetry):
    unit = search_directions(6, symmetry)[:, :, 2]
    group = symmetry_matrices(symmetry)
    reached = torch.einsum("gij,dj->gdi", group, unit).reshape(-1, 3)
    everywhere = direction_grid(12)
    nearest = torch.rad2deg(torch.arccos((everywhere @ reached.T).amax(1).clamp(-1, 1)))
    assert nearest.max() < 10.0  # the spacing of the grid
    assert len(unit) < 3.2 * 432 / len(group) + 12


def test_a_shift_grid_holds_the_origin_and_stays_in_its_disc():
    grid = shift_grid(5.0, 2.0)
    assert (np.hypot(*grid.T) <= 5.0 + 1e-6).all() and ((grid == 0).all(1)).sum() == 1
    assert shift_grid(0.0, 1.0).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_search_finds_poses_and_shifts_to_within_its_grid(simulated, executor, symmetry, dtype):
    data = simulated(80, snr=0.3, symmetry=symmetry, n_blobs=40 if symmetry == "C1" else 12)
    source = data.source()
    noise = estimate_image_power(source, executor, np.arange(80))
    reference = prepare_volume(data.volume / data.noise_sigma)
    found = search_poses(
        source, [reference, reference], data.truth.half, np.arange(80), noise, executor,
        n_rings=9, rotations=search_directions(4, symmetry), shifts_px=shift_grid(3, 1.5), top=2, dtype=dtype,
    )  # fmt: skip
    assert (found.row == np.repeat(np.arange(80), 2)).all()
    first = found.select(np.arange(0, 160, 2))
    error = pose_distance(torch.from_numpy(data.truth.rotation), torch.from_numpy(first.rotation), symmetry)
    assert torch.rad2deg(error).median() < 10.0
    assert (torch.rad2deg(error) < 25).float().mean() > 0.95
    shift = np.linalg.norm(first.shift_px - data.truth.shift / data.pixel_size, axis=1)
    assert np.median(shift) < 1.3
    np.testing.assert_allclose(np.median(first.scale), 0.9, atol=0.2)


def test_its_score_is_the_likelihood_with_the_scale_solved_out(simulated, executor):
    data = simulated(60, snr=0.5, seed=11)
    source = data.source(normalise=False)
    noise = NoiseModel(np.full((1, source.points.radius + 1), (data.noise_sigma * data.box) ** 2))
    reference = [prepare_volume(data.volume)]
    found = search_poses(
        source, reference, data.truth.half, np.arange(60), noise, executor,
        n_rings=8, rotations=search_directions(4, "C1"), shifts_px=shift_grid(2, 1), top=1,
    )  # fmt: skip
    exact = refine_poses(
        source, reference, data.truth.half, found, noise, executor, radius=8, n_steps=0,
        priors=PosePriors(scale_sd=1e6),
    )  # fmt: skip
    # at the scale found, on Cartesian points instead of rings, and without the mask on the image
    assert np.corrcoef(exact.log_likelihood, found.log_likelihood)[0, 1] > 0.97
    assert abs(np.median(exact.log_likelihood / found.log_likelihood) - 1) < 0.12


def test_several_references_are_told_apart(simulated, executor):
    one, other = simulated(60, snr=0.5), simulated(60, snr=0.5, seed=9)
    source = one.source()
    noise = estimate_image_power(source, executor, np.arange(60))
    spectra = [prepare_volume(v / one.noise_sigma) for v in (other.volume, one.volume)]
    found = search_poses(
        source, [spectra], one.truth.half, np.arange(60), noise, executor,
        n_rings=8, rotations=search_directions(4, "C1"), shifts_px=shift_grid(2, 1), top=1,
    )  # fmt: skip
    assert (found.reference == 1).mean() > 0.95

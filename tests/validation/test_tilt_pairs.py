"""Tilt pairs gather at the planted tilt with the right map, and nowhere with a wrong one."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.em import refine_poses, search_directions, search_poses, shift_grid
from cryoloom.em.poses import best_of
from cryoloom.fourier import dft_to_image, frequency_grid
from cryoloom.fourier.slices import extract_slices, prepare_volume
from cryoloom.geometry import axis_angle_to_matrix, random_rotations, symmetry_matrices
from cryoloom.maps.filter import lowpass
from cryoloom.optics import ctf
from cryoloom.validation.held_out import fit_grey_scale
from cryoloom.validation.tilt_pairs import compare_tilt_pairs

sys.path.insert(0, str(Path(__file__).resolve().parent))
from validation_bed import make_bed

EXECUTOR = ThreadExecutor(1)
TILT, AXIS = 25.0, 60.0


def planted_pairs(n, symmetry="C1", wrong=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    untilted = random_rotations(n, generator).numpy()
    axis = np.deg2rad(TILT) * np.array([np.cos(np.deg2rad(AXIS)), np.sin(np.deg2rad(AXIS)), 0.0])
    stage = axis_angle_to_matrix(torch.from_numpy(axis)).numpy()
    noise = axis_angle_to_matrix(torch.from_numpy(np.deg2rad(3.0) * rng.normal(size=(n, 3)))).numpy()
    operators = symmetry_matrices(symmetry).numpy()
    pick = operators[rng.integers(len(operators), size=n)]
    tilted = pick @ untilted @ stage.T @ noise
    lost = rng.random(n) < wrong
    tilted[lost] = random_rotations(n, generator).numpy()[lost]
    return untilted, tilted


@pytest.mark.parametrize("symmetry, wrong", [("C1", 0.0), ("D2", 0.3), ("O", 0.0)])
def test_the_tilt_is_found_up_to_symmetry_and_with_lost_particles(symmetry, wrong):
    found = compare_tilt_pairs(
        *planted_pairs(60, symmetry, wrong), torch.Generator().manual_seed(1), symmetry=symmetry, n_random=99
    )
    assert found.tilt_deg == pytest.approx(TILT, abs=2) and found.axis_deg == pytest.approx(AXIS, abs=5)
    assert found.out_of_plane_deg < 5 and found.p == pytest.approx(0.01)
    assert found.agreeing > 0.9 * (1 - wrong)


def test_p_of_random_pairs_is_even():
    generator = torch.Generator().manual_seed(2)
    p = [
        compare_tilt_pairs(
            random_rotations(30, generator).numpy(), random_rotations(30, generator).numpy(), generator, n_random=39
        ).p
        for _ in range(60)
    ]
    assert np.mean(p) > 0.4 and np.mean(np.array(p) <= 0.1) < 0.25  # ties make it careful


def tilted_images(bed, truth_rotation, seed):
    """Second exposures of the particles of a bed, turned by the stage, with new noise."""
    n, box = len(bed.images), bed.images.shape[-1]
    grid = frequency_grid((box, box), bed.volume.pixel_size)
    optics, t = bed.truth.optics[0], bed.truth
    value = ctf(
        grid[..., 0], grid[..., 1], defocus_u=torch.from_numpy(t.defocus_u), defocus_v=torch.from_numpy(t.defocus_v),
        defocus_angle=torch.from_numpy(t.defocus_angle), voltage_kv=optics.voltage_kv, cs_mm=optics.cs_mm,
        amplitude_contrast=optics.amplitude_contrast,
    )  # fmt: skip
    spectrum = prepare_volume(torch.from_numpy(bed.volume.data))
    clean = dft_to_image(extract_slices(spectrum, torch.from_numpy(truth_rotation), (box, box)) * value, (box, box))
    signal = clean.numpy() / clean.numpy().std()
    noise = np.random.default_rng(seed).normal(size=(n, box, box))
    return (signal * np.sqrt(0.3) + noise).astype(np.float32)


def poses_against(bed, posed, volume):
    """Best pose of every particle in a map, found without any knowledge of it."""
    radius = 12
    volume = lowpass(volume, bed.volume.pixel_size, 14.0)
    scale = fit_grey_scale(posed, volume, posed.poses, EXECUTOR, radius)
    scale = scale if scale > 0 else 1.0 / float(volume.std())
    reference, every = prepare_volume(volume * scale, radius), np.ones(len(bed.images), np.int64)
    found = search_poses(
        posed.source, [reference], every, np.arange(len(every)), posed.noise, EXECUTOR, n_rings=radius,
        rotations=search_directions(6, "C1"), shifts_px=shift_grid(2.0, 1.0), top=4,
    )  # fmt: skip
    fitted = refine_poses(posed.source, [reference], every, found, posed.noise, EXECUTOR, radius=radius)
    return fitted.rotation[best_of(fitted, fitted.log_likelihood)]


@pytest.mark.slow
@pytest.mark.capability("VAL-3")
def test_images_of_tilt_pairs_gather_at_the_planted_tilt_and_a_wrong_map_gives_none(measure):
    n = 60
    bed, other = make_bed(n, seed=1, snr=0.3, shift=0.0), make_bed(2, seed=2)
    rotation = bed.truth.rotation
    axis = np.deg2rad(TILT) * np.array([np.cos(np.deg2rad(AXIS)), np.sin(np.deg2rad(AXIS)), 0.0])
    stage = axis_angle_to_matrix(torch.from_numpy(axis)).numpy()
    turned = rotation @ stage.T
    second = tilted_images(bed, turned, 3)
    first_set = bed.posed()
    second_set = bed.posed(particles=bed.truth.replace(rotation=turned, shift=np.zeros((n, 2))), images=second)
    results = {}
    for name, volume in (("right", bed.volume.data), ("wrong", other.volume.data)):
        poses = [poses_against(bed, posed, torch.from_numpy(volume)) for posed in (first_set, second_set)]
        results[name] = compare_tilt_pairs(*poses, torch.Generator().manual_seed(4))
    right, wrong = results["right"], results["wrong"]
    measure(abs(right.tilt_deg - TILT), "° off the planted tilt", "<= 3", note=f"p = {right.p}, {n} pairs")
    measure(wrong.p, "p of a wrong map", "> 0.05")
    assert abs(right.tilt_deg - TILT) <= 3 and abs(right.axis_deg - AXIS) <= 8 and right.p <= 0.01
    assert wrong.p > 0.05

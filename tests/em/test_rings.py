import math

import pytest
import torch

from cryoloom.em.rings import (
    angular_coefficients,
    image_batch,
    plan_rings,
    reference_bank,
    ring_samples,
    ring_scores,
    search_rings,
    shift_grid,
    shift_phases,
    turn_coefficients,
    turned_samples,
)
from cryoloom.fourier import dft_to_image, half_spectrum_weights, image_to_dft, shift_dft
from cryoloom.fourier.polar import PointSampler
from cryoloom.fourier.slices import extract_points, extract_slices, prepare_volume
from cryoloom.geometry import pose_distance, random_rotations, rotation_about_z
from cryoloom.optics import ctf

BOX = 48


def blob_volume(seed, n=BOX, extent=9.0, count=30):
    """Random Gaussians well inside the box: smooth, and with no symmetry."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(count, 3, generator=generator) * extent * 0.5
    x = torch.arange(n) - n // 2
    grid = torch.stack(torch.meshgrid(x, x, x, indexing="ij"), -1).float()
    volume = torch.zeros(n, n, n)
    for c in centre:
        volume += torch.exp(-((grid - c) ** 2).sum(-1) / (2 * 1.3**2))
    return volume


def ring_ctf(plan, defocus, pixel_size=2.5):
    k = plan.points.float() / (plan.box * pixel_size)
    return ctf(
        k[:, 1], k[:, 0], defocus_u=defocus, defocus_v=defocus, defocus_angle=0.0, voltage_kv=300.0, cs_mm=2.7,
        amplitude_contrast=0.1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plan():
    return plan_rings(BOX, 18, 36)


@pytest.fixture(scope="module")
def planted(plan):
    """Projections at known poses: reference direction, in-plane angle, shift."""
    spectrum = prepare_volume(blob_volume(0))
    generator = torch.Generator().manual_seed(1)
    directions = random_rotations(12, generator)
    reference = torch.randint(0, 12, (8,), generator=generator)
    psi = torch.rand(8, generator=generator, dtype=torch.float64) * 2 * math.pi
    shift = torch.randint(-2, 3, (8, 2), generator=generator).float() * 1.5
    rotations = directions[reference] @ rotation_about_z(psi)
    dft = shift_dft(extract_slices(spectrum, rotations, (BOX, BOX)), shift, (BOX, BOX))
    images = dft_to_image(dft, (BOX, BOX))
    references = extract_points(spectrum, directions, plan.points)
    return directions, references, reference, psi, shift, rotations, images


def test_a_planted_pose_is_found_with_the_projection_convention(plan, planted):
    directions, references, reference, psi, shift, rotations, images = planted
    batch = image_batch(plan, PointSampler(BOX, plan.points)(images))
    found = search_rings(batch, reference_bank(plan, references), plan, shift_grid(4.5, 1.5))
    assert (found.reference[:, 0] == reference).all()
    pose = directions[found.reference[:, 0]] @ rotation_about_z(found.psi[:, 0].double())
    assert pose_distance(pose, rotations).max() < math.radians(0.5)
    torch.testing.assert_close(found.shift_px[:, 0], shift, atol=0.1, rtol=0)
    torch.testing.assert_close(found.cross[:, 0] / found.norm[:, 0], torch.ones(8), atol=0.03, rtol=0)


def test_a_search_about_a_known_shift_finds_the_same_pose(plan, planted):
    directions, references, reference, psi, shift, rotations, images = planted
    samples = PointSampler(BOX, plan.points)(images)
    batch = image_batch(plan, samples, centre_px=shift + 0.75)
    found = search_rings(batch, reference_bank(plan, references), plan, shift_grid(1.5, 0.75))
    assert (found.reference[:, 0] == reference).all()
    torch.testing.assert_close(found.shift_px[:, 0], shift, atol=0.1, rtol=0)


def test_shifts_on_the_references_find_the_same_poses(plan, planted):
    _, references, reference, psi, shift, _, images = planted
    batch = image_batch(plan, PointSampler(BOX, plan.points)(images), centre_px=0.8 * shift)
    bank = reference_bank(plan, references, shifts_px=shift_grid(2.0, 0.5))
    found = search_rings(batch, bank, plan, top=2)
    assert (found.reference[:, 0] == reference).all()
    torch.testing.assert_close(found.psi[:, 0].double(), psi, atol=0.02, rtol=0)
    torch.testing.assert_close(found.shift_px[:, 0], shift, atol=0.12, rtol=0)


def test_shifts_between_the_grid_points_are_found(plan, planted):
    _, references, reference, _, _, _, images = planted
    moved = dft_to_image(shift_dft(image_to_dft(images), torch.tensor([0.4, -0.3]), (BOX, BOX)), (BOX, BOX))
    batch = image_batch(plan, PointSampler(BOX, plan.points)(moved), centre_px=planted[4])
    found = search_rings(batch, reference_bank(plan, references), plan, shift_grid(3, 1))
    expected = planted[4] + torch.tensor([0.4, -0.3])
    torch.testing.assert_close(found.shift_px[:, 0], expected, atol=0.15, rtol=0)


def test_cross_and_norm_terms_equal_sums_over_the_full_plane(plan, planted):
    _, references, reference, psi, shift, _, images = planted
    defocus = torch.linspace(10000, 20000, len(images))
    dft = image_to_dft(images)
    ky, kx = torch.fft.fftfreq(BOX), torch.fft.rfftfreq(BOX)
    value = ctf(
        ky[:, None] / 2.5, kx / 2.5, defocus_u=defocus, defocus_v=defocus, defocus_angle=0.0, voltage_kv=300.0,
        cs_mm=2.7, amplitude_contrast=0.1,
    )  # fmt: skip
    modulated = dft_to_image(dft * value, (BOX, BOX))
    samples = PointSampler(BOX, plan.points)(modulated)
    batch = image_batch(plan, samples, ring_ctf(plan, defocus), torch.full((plan.n_rings,), 0.5))
    found = search_rings(batch, reference_bank(plan, references), plan, shift_grid(4.5, 1.5))
    assert (found.reference[:, 0] == reference).all()
    # the same sum on the Cartesian half spectrum; data equal the model, so both terms are the model's power
    radius = torch.hypot(ky[:, None], kx) * BOX
    weight = half_spectrum_weights(BOX) * ((radius > 0.5) & (radius <= 18.5))
    power = (value**2 * dft.abs() ** 2 * weight).sum((-1, -2)) * 0.5
    torch.testing.assert_close(found.cross[:, 0], power, rtol=0.02, atol=0)
    torch.testing.assert_close(found.norm[:, 0], power, rtol=0.02, atol=0)


def test_every_score_equals_the_direct_ring_sum(plan, planted):
    _, references, _, _, _, _, images = planted
    shifts = shift_grid(1.0, 1.0)
    batch = image_batch(plan, PointSampler(BOX, plan.points)(images[:2]))
    cross, norm = ring_scores(batch, reference_bank(plan, references[:3]), plan, shifts)
    moved = batch.weighted[:, None] * shift_phases(plan, shifts)  # (b, t, rings, half)
    for angle in (0, 5, plan.n_angles // 2 + 3):
        psi = torch.full((3,), float(plan.angles[angle]))
        turned = turned_samples(plan, references[:3], psi)
        expected = torch.einsum("drh,btrh,r->btd", turned.conj(), moved, plan.ring_weight + 0j).real * 2
        scale = cross.abs().max()
        torch.testing.assert_close(cross[..., angle] / scale, expected / scale, atol=2e-4, rtol=0)
    power = (references[:3].reshape(3, plan.n_rings, -1).abs() ** 2).mean(-1)
    expected_norm = (plan.ring_weight * plan.n_samples * power).sum(-1).expand(2, 3)
    torch.testing.assert_close(norm, expected_norm, rtol=1e-4, atol=0)


def test_lists_are_sorted_and_blocks_do_not_matter(plan, planted):
    _, references, reference, _, _, _, images = planted
    batch = image_batch(plan, PointSampler(BOX, plan.points)(images))
    bank, shifts = reference_bank(plan, references), shift_grid(3, 1.5)
    whole = search_rings(batch, bank, plan, shifts, top=4)
    blocks = search_rings(batch, bank, plan, shifts, top=4, block_bytes=1 << 14)
    assert (whole.score.diff(dim=1) <= 0).all()
    assert (whole.reference == blocks.reference).all()
    torch.testing.assert_close(whole.psi, blocks.psi, atol=1e-4, rtol=0)


def test_the_scale_is_solved_out(plan, planted):
    _, references, reference, _, _, _, images = planted
    batch = image_batch(plan, PointSampler(BOX, plan.points)(images * 3.0))
    loud = references * torch.linspace(0.2, 5, len(references))[:, None]
    found = search_rings(batch, reference_bank(plan, loud), plan, shift_grid(4.5, 1.5))
    assert (found.reference[:, 0] == reference).all()
    fixed = search_rings(batch, reference_bank(plan, references), plan, shift_grid(4.5, 1.5), fit_scale=False,
                         scale=torch.full((8,), 3.0))  # fmt: skip
    assert (fixed.reference[:, 0] == reference).all()
    torch.testing.assert_close(fixed.score[:, 0], 3 * fixed.cross[:, 0] - 4.5 * fixed.norm[:, 0], rtol=1e-2, atol=0)


def test_bfloat16_ranks_the_same_first_candidate(plan, planted):
    _, references, reference, _, _, _, images = planted
    batch = image_batch(plan, PointSampler(BOX, plan.points)(images))
    found = search_rings(batch, reference_bank(plan, references, dtype=torch.bfloat16), plan, shift_grid(4.5, 1.5))
    assert (found.reference[:, 0] == reference).all()


def test_coefficients_give_the_samples_back_and_turn_into_the_frame_of_the_reference(plan, planted):
    references = planted[1]
    coefficients = angular_coefficients(plan, references)
    back = ring_samples(plan, coefficients).reshape(len(references), -1)
    error = (back - references).abs().pow(2).mean() / references.abs().pow(2).mean()
    assert error < 1e-4  # what lies beyond the largest angular frequency
    psi = torch.linspace(0.3, 5, len(references))
    turned = turned_samples(plan, back, psi)  # as the images see the references
    torch.testing.assert_close(
        turn_coefficients(plan, angular_coefficients(plan, turned), psi), coefficients,
        atol=1e-4 * float(coefficients.abs().max()), rtol=0,
    )  # fmt: skip


def test_a_spread_of_scales_lies_between_a_fixed_and_a_free_one(plan, planted):
    _, references, _, _, _, _, images = planted
    batch = image_batch(plan, PointSampler(BOX, plan.points)(images * 1.2))
    bank, shifts = reference_bank(plan, references), shift_grid(4.5, 1.5)
    fixed = search_rings(batch, bank, plan, shifts, fit_scale=False).score[:, 0]
    spread = search_rings(batch, bank, plan, shifts, fit_scale=False, scale_spread=0.01).score[:, 0]
    wide = search_rings(batch, bank, plan, shifts, fit_scale=False, scale_spread=100.0).score[:, 0]
    free = search_rings(batch, bank, plan, shifts).score[:, 0] ** 2 / 2
    assert (fixed < spread).all() and (spread < free * (1 + 1e-6)).all()
    torch.testing.assert_close(wide, free, rtol=1e-3, atol=1.0)


def test_few_rings_and_narrow_particles_work_and_wrong_radii_are_refused():
    assert plan_rings(32, 3, 10).n_rings == 3
    with pytest.raises(ValueError, match="radius"):
        plan_rings(32, 20, 10)

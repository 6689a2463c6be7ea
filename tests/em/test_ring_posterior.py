import math

import pytest
import torch

from cryoloom.em.ring_posterior import (
    PosteriorImages,
    add_posteriors,
    centred_coefficients,
    collect,
    empty_posterior_sums,
    posterior_bank,
    posterior_plan,
)
from cryoloom.em.rings import (
    angular_coefficients,
    image_batch,
    plan_rings,
    reference_bank,
    ring_samples,
    ring_scores,
    shift_grid,
    shift_phases,
    turn_coefficients,
    turned_samples,
)

BOX, RADIUS, DIAMETER = 32, 8, 20.0


@pytest.fixture(autouse=True, params=["all pairs", "likely pairs"])
def way(request, monkeypatch):
    """Every test holds for small banks, whose pairs are all summed, and for large ones."""
    if request.param == "likely pairs":
        monkeypatch.setattr("cryoloom.em.ring_posterior.DENSE", 0)


@pytest.fixture(scope="module")
def scene():
    """Three smooth references, four noisy images of them, rings that decide and rings that are summed."""
    insertion = plan_rings(BOX, RADIUS + 3, DIAMETER)
    search = plan_rings(BOX, RADIUS, DIAMETER, n_samples=insertion.n_samples, n_angles=insertion.n_angles)
    assert search.n_samples == insertion.n_samples
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(3, insertion.n_rings, len(insertion.q), 2, generator=generator)
    raw *= torch.exp(-0.15 * insertion.q.float())[:, None]
    references = ring_samples(insertion, raw)
    images = turned_samples(insertion, references[[0, 1, 2, 0]], torch.tensor([0.3, 1.0, 4.0, 5.5]))
    images = images + 0.5 * torch.randn(images.shape, dtype=torch.complex64, generator=generator)
    ctf = torch.cos(0.1 * insertion.points.norm(dim=-1)).float().expand(4, -1).reshape(images.shape)
    return insertion, search, references, images, ctf


def prepared(scene, noise=40.0, dtype=torch.float32):
    insertion, search, references, images, ctf = scene
    weight = torch.full((insertion.n_rings,), 1 / noise)
    shifts = shift_grid(1.0, 1.0)
    plan = posterior_plan(search, insertion, dtype)
    bank = posterior_bank(plan, references[:, : search.n_rings], shifts)
    coefficients = centred_coefficients(insertion, images, ctf, torch.zeros(4, 2))
    batch = PosteriorImages(coefficients * weight, (ctf**2).mean(-1) * weight, torch.zeros(4, 2))
    return plan, bank, batch, weight


def test_centring_and_weighting_equal_the_plain_formula(scene):
    insertion, _, _, images, ctf = scene
    shift = torch.tensor([[0.3, -1.2], [2.0, 0.4], [0.0, 0.0], [-3.1, 1.7]])
    expected = angular_coefficients(insertion, images * ctf * shift_phases(insertion, shift)).permute(0, 2, 3, 1)
    found = centred_coefficients(insertion, images, ctf, shift)
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)


def test_sums_equal_those_of_every_pose_inserted_with_its_probability(scene):
    insertion, search, references, images, ctf = scene
    plan, bank, batch, weight = prepared(scene)
    shifts = bank.shifts_px
    sums = empty_posterior_sums(plan, 3, len(shifts))
    found = add_posteriors(sums, batch, bank, plan)
    numerator, ring_weight = collect(sums, plan, shifts)
    # the same, pose by pose, with shifts of the references written out
    expected = torch.zeros_like(numerator)
    weights = torch.zeros_like(ring_weight)
    n = search.n_rings
    searched = image_batch(search, images[:, :n], ctf[:, :n], weight[:n])
    log_p = torch.empty(4, 3, len(shifts), search.n_angles)
    for t in range(len(shifts)):
        moved = references[:, :n] * shift_phases(search, -shifts[t : t + 1])
        cross, norm = ring_scores(searched, reference_bank(search, moved), search, torch.zeros(1, 2))
        log_p[:, :, t] = cross[:, 0] - 0.5 * norm[..., None]
    p = torch.softmax(log_p.reshape(4, -1), dim=1).reshape(log_p.shape)
    torch.testing.assert_close(found.share, p.sum((2, 3)), atol=1e-3, rtol=0)
    weighted = images * ctf * weight[:, None]
    for i in range(4):
        coefficients = angular_coefficients(insertion, weighted[i : i + 1])
        for d in range(3):
            weights[d] += float(p[i, d].sum()) * (ctf[i] ** 2).mean(-1).double() * weight.double()
            for t in range(len(shifts)):
                turned = turn_coefficients(insertion, coefficients.expand(search.n_angles, -1, -1, -1), search.angles)
                upright = (turned * p[i, d, t][:, None, None, None]).sum(0, keepdim=True)
                back = ring_samples(insertion, upright) * shift_phases(insertion, shifts[t : t + 1])
                expected[d] += angular_coefficients(insertion, back)[0]
    # low angular frequencies on far rings are all kept; a span leaves out what a particle of this size cannot hold
    for first, last, ring in insertion.spans:
        a, b = numerator[:, ring:, first:last], expected[:, ring:, first:last]
        torch.testing.assert_close(a, b, atol=2e-3 * float(expected.abs().max()), rtol=0)
    torch.testing.assert_close(ring_weight, weights, rtol=2e-3, atol=0)


def test_the_best_class_and_angle_are_reported(scene):
    plan, bank, batch, _ = prepared(scene, noise=2.0)
    sums = empty_posterior_sums(plan, 3, len(bank.shifts_px))
    found = add_posteriors(sums, batch, bank, plan)
    assert found.share.argmax(1).tolist() == [0, 1, 2, 0]
    difference = (found.psi - torch.tensor([0.3, 1.0, 4.0, 5.5]) + math.pi) % (2 * math.pi) - math.pi
    assert difference.abs().max() <= 1.01 * math.pi / plan.search.n_angles
    torch.testing.assert_close(found.shift_px, torch.zeros(4, 2))
    torch.testing.assert_close(sums.share, torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64), atol=0.02, rtol=0)
    assert (found.evidence.argmax(1) == found.share.argmax(1)).all()


@pytest.mark.parametrize("noise", [2.0, 40.0])
def test_short_numbers_in_the_first_step_change_next_to_nothing(scene, noise):
    shares = []
    for dtype in (torch.float32, torch.bfloat16):
        plan, bank, batch, _ = prepared(scene, noise, dtype)
        shares.append(add_posteriors(empty_posterior_sums(plan, 3, len(bank.shifts_px)), batch, bank, plan).share)
    torch.testing.assert_close(shares[0], shares[1], atol=2e-3, rtol=0)


def test_blocks_do_not_matter(scene):
    plan, bank, batch, _ = prepared(scene)
    whole, pieces = (empty_posterior_sums(plan, 3, len(bank.shifts_px)) for _ in range(2))
    a = add_posteriors(whole, batch, bank, plan)
    b = add_posteriors(pieces, batch, bank, plan, block_bytes=1)
    torch.testing.assert_close(a.share, b.share, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.evidence, b.evidence, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(whole.moved, pieces.moved, atol=1e-4 * float(whole.moved.abs().max()), rtol=0)


def test_images_of_weight_zero_leave_no_trace(scene):
    plan, bank, batch, _ = prepared(scene, noise=5.0)
    sums = empty_posterior_sums(plan, 3, len(bank.shifts_px))
    found = add_posteriors(sums, batch, bank, plan, weight=torch.tensor([1.0, 0.0, 0.5, 0.0]))
    assert abs(float(sums.share.sum()) - 1.5) < 1e-5
    torch.testing.assert_close(found.share.sum(1), torch.ones(4))


def test_a_high_temperature_flattens_the_posterior(scene):
    plan, bank, batch, _ = prepared(scene, noise=5.0)
    sharp, flat = (
        add_posteriors(empty_posterior_sums(plan, 3, len(bank.shifts_px)), batch, bank, plan, temperature=t)
        for t in (1.0, 20.0)
    )
    assert (flat.share.amax(1) <= sharp.share.amax(1) + 1e-6).all()

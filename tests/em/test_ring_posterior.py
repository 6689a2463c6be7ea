import math

import pytest
import torch

from cryoloom.em.ring_posterior import add_posteriors, collect, empty_posterior_sums
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


def prepared(scene, noise=40.0):
    insertion, search, references, images, ctf = scene
    weight = torch.full((insertion.n_rings,), 1 / noise)
    n = search.n_rings
    shifts = shift_grid(1.0, 1.0)
    bank = reference_bank(search, references[:, :n], shifts_px=shifts)
    b1 = image_batch(search, images[:, :n], ctf[:, :n], weight[:n])
    b2 = image_batch(insertion, images, ctf, weight)
    return shifts, bank, b1, b2, weight


def test_sums_equal_those_of_every_pose_inserted_with_its_probability(scene):
    insertion, search, references, images, ctf = scene
    shifts, bank, b1, b2, weight = prepared(scene)
    sums = empty_posterior_sums(insertion, 3, len(shifts))
    found = add_posteriors(sums, b1, bank, search, b2, insertion)
    numerator, ring_weight = collect(sums, insertion, shifts)
    # the same, pose by pose, with shifts of the references written out
    expected = torch.zeros_like(numerator)
    weights = torch.zeros_like(ring_weight)
    n = search.n_rings
    log_p = torch.empty(4, 3, len(shifts), search.n_angles)
    for t in range(len(shifts)):
        moved = references[:, :n] * shift_phases(search, -shifts[t : t + 1])
        cross, norm = ring_scores(b1, reference_bank(search, moved), search, torch.zeros(1, 2))
        log_p[:, :, t] = cross[:, 0] - 0.5 * norm[..., None]
    p = torch.softmax(log_p.reshape(4, -1), dim=1).reshape(log_p.shape)
    torch.testing.assert_close(found.share, p.sum((2, 3)), atol=1e-4, rtol=0)
    for i in range(4):
        coefficients = angular_coefficients(insertion, b2.weighted[i : i + 1])
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
    torch.testing.assert_close(ring_weight, weights, rtol=1e-4, atol=0)


def test_the_best_class_and_angle_are_reported(scene):
    insertion, search, _, _, _ = scene
    shifts, bank, b1, b2, _ = prepared(scene, noise=2.0)
    sums = empty_posterior_sums(insertion, 3, len(shifts))
    found = add_posteriors(sums, b1, bank, search, b2, insertion)
    assert found.share.argmax(1).tolist() == [0, 1, 2, 0]
    difference = (found.psi - torch.tensor([0.3, 1.0, 4.0, 5.5]) + math.pi) % (2 * math.pi) - math.pi
    assert difference.abs().max() <= 1.01 * math.pi / search.n_angles
    torch.testing.assert_close(found.shift_px, torch.zeros(4, 2))
    torch.testing.assert_close(sums.share, torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64), atol=0.02, rtol=0)


def test_blocks_do_not_matter(scene):
    insertion, search, _, _, _ = scene
    shifts, bank, b1, b2, _ = prepared(scene)
    whole, pieces = (empty_posterior_sums(insertion, 3, len(shifts)) for _ in range(2))
    a = add_posteriors(whole, b1, bank, search, b2, insertion)
    b = add_posteriors(pieces, b1, bank, search, b2, insertion, block_bytes=1)
    torch.testing.assert_close(a.share, b.share, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.evidence, b.evidence, atol=1e-3, rtol=1e-4)
    for x, y in zip(whole.moved, pieces.moved, strict=True):
        torch.testing.assert_close(x, y, atol=1e-4 * float(x.abs().max()), rtol=0)


def test_a_high_temperature_flattens_the_posterior(scene):
    insertion, search, _, _, _ = scene
    shifts, bank, b1, b2, _ = prepared(scene, noise=5.0)
    sharp, flat = (
        add_posteriors(empty_posterior_sums(insertion, 3, len(shifts)), b1, bank, search, b2, insertion, temperature=t)
        for t in (1.0, 20.0)
    )
    assert (flat.share.amax(1) <= sharp.share.amax(1) + 1e-6).all()

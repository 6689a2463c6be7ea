import math

import pytest
import torch

from cryoloom.compute import SerialExecutor, ThreadExecutor
from cryoloom.em.full_posterior import posterior_sums, ring_images, ring_references, samples_of_sums
from cryoloom.em.rings import plan_rings, shift_phases
from cryoloom.em.search import search_directions
from cryoloom.fourier.slices import extract_points, prepare_volume
from cryoloom.geometry import rotation_about_z

BOX, RADIUS = 48, 12


@pytest.fixture(scope="module")
def setting():
    """Views of an uneven blob, and images of some of them turned and shifted by known amounts."""
    generator = torch.Generator().manual_seed(0)
    centres = (torch.rand(25, 3, generator=generator) - 0.5) * 18 + BOX // 2
    grid = torch.stack(torch.meshgrid(*[torch.arange(BOX, dtype=torch.float32)] * 3, indexing="ij"), -1)
    volume = sum(torch.exp(-((grid - c) ** 2).sum(-1) / 5) for c in centres)
    plan = plan_rings(BOX, RADIUS, 26.0, radius_min=2)
    rotations = search_directions(3, "C1").to(torch.float32)
    spectrum = prepare_volume(volume, RADIUS + 1)
    samples = extract_points(spectrum, rotations, plan.points)
    shifts = torch.tensor([[0.0, 0.0], [1.5, 0.0], [0.0, -1.5]])
    planted = torch.tensor([[3, 5, 0], [40, 17, 1], [77, 30, 2], [100, 2, 1]])
    psi = plan.angles[planted[:, 1]].to(torch.float32)
    poses = rotations[planted[:, 0]] @ rotation_about_z(psi)
    images = torch.stack([extract_points(spectrum, pose[None], plan.points)[0] for pose in poses])
    moved = images.reshape(4, plan.n_rings, -1) * shift_phases(plan, shifts[planted[:, 2]]).conj()
    ctf = torch.linspace(-1, 1, plan.n_rings).sin()[:, None].expand(plan.n_rings, moved.shape[-1]).reshape(1, -1)
    ctf = ctf.repeat(4, 1)
    observed = moved.flatten(1) * ctf
    noise = torch.full((4, plan.n_rings), 1.0 / 20.0)
    shape = (4, plan.n_rings, -1)
    weighted = (observed * ctf).reshape(shape) * noise[..., None]
    inverse_variance = (ctf**2).reshape(shape).mean(-1) * noise
    ready = ring_images(plan, weighted, inverse_variance, torch.zeros(4, 2), shifts)
    return plan, ready, ring_references(plan, samples), planted, images, ctf, noise


def test_a_planted_view_angle_and_shift_is_found(setting):
    plan, images, references, planted, *_ = setting
    sums = posterior_sums(plan, images, references, torch.arange(4), SerialExecutor())
    assert torch.equal(sums.best, planted)
    torch.testing.assert_close(sums.shift_px, images.shifts_px[planted[:, 2]], atol=0.05, rtol=0)


def test_the_sums_of_a_sure_posterior_are_the_image_in_the_frame_of_its_view(setting):
    plan, images, references, planted, true_images, ctf, noise = setting
    sure = type(references)(references.coefficients * 30, references.power * 0)
    sums = posterior_sums(plan, images, sure, torch.tensor([0]), SerialExecutor())
    samples = samples_of_sums(plan, sums.numerator)[planted[0, 0]].reshape(plan.n_rings, -1)
    psi = float(plan.angles[planted[0, 1]])
    turned = torch.view_as_real(true_images[0].reshape(plan.n_rings, -1))
    assert sums.weight[planted[0, 0]].allclose(((ctf[0].reshape(plan.n_rings, -1) ** 2).mean(-1)) * noise[0], rtol=1e-3)
    # turn the image by hand: on a half ring a turn is a cyclic shift with conjugation past half a turn
    steps = round(psi / (2 * math.pi) * plan.n_samples)
    if abs(psi / (2 * math.pi) * plan.n_samples - steps) < 1e-6:
        complete = torch.view_as_complex(turned.contiguous())
        ring = torch.cat([complete, complete.conj()], -1).roll(steps, -1)[:, : complete.shape[-1]]
        expected = ring * (ctf[0].reshape(plan.n_rings, -1) ** 2) * noise[0][:, None]
        assert float((samples - expected).abs().max()) < 0.05 * float(expected.abs().max())
    total = sums.numerator.abs().sum((1, 2))
    assert int(total.argmax()) == int(planted[0, 0])


def test_results_do_not_depend_on_threads_or_blocks(setting):
    plan, images, references, *_ = setting
    one = posterior_sums(plan, images, references, torch.arange(4), SerialExecutor(), chunk=1)
    two = posterior_sums(plan, images, references, torch.arange(4), ThreadExecutor(2), chunk=1)
    assert torch.equal(one.numerator, two.numerator) and torch.equal(one.log_evidence, two.log_evidence)
    four = posterior_sums(plan, images, references, torch.arange(4), SerialExecutor(), chunk=4)
    torch.testing.assert_close(one.numerator, four.numerator, atol=1e-4, rtol=1e-4)


def test_evidence_is_the_mean_likelihood_over_all_candidates(setting):
    plan, images, references, *_ = setting
    flat = type(references)(references.coefficients * 0, references.power * 0)
    sums = posterior_sums(plan, images, flat, torch.arange(4), SerialExecutor(), n_groups=1)
    torch.testing.assert_close(sums.log_evidence, torch.zeros(4), atol=1e-5, rtol=0)
    n = len(references.power) * plan.n_angles * len(images.shifts_px)
    torch.testing.assert_close(sums.n_effective, torch.full((4,), float(n)), rtol=1e-3, atol=0)

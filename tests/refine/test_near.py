"""Local refinement of images that tell little: recognised, and brought nearer than by steps from the given poses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.em import ImageSource
from cryoloom.em.gauss_newton import PosePriors
from cryoloom.em.halves import prepare_references
from cryoloom.em.poses import best_of
from cryoloom.em.start import place_reference
from cryoloom.geometry import axis_angle_to_matrix, pose_distance
from cryoloom.io.particles import ParticleImages
from cryoloom.refine.finding import find_nearby
from cryoloom.refine.frames import Fit
from cryoloom.refine.near import ask_whether_weak_nearby
from cryoloom.refine.next_maps import n_folds
from cryoloom.refine.plan import Plan
from cryoloom.refine.state import begin

EXECUTOR = ThreadExecutor(2)
TURN = np.deg2rad(15.0)


def _begun(data, lowpass=30.0, **options):
    """The start of a local refinement about poses that are wrong by about 20 degrees."""
    torch.set_num_threads(1)
    n = len(data.particles)
    vectors = torch.from_numpy(TURN * np.random.default_rng(0).normal(size=(n, 3)))
    given = data.truth.rotation @ axis_angle_to_matrix(vectors).numpy()
    particles = data.particles.replace(rotation=given, shift=data.truth.shift.copy())
    source = ImageSource(ParticleImages(particles), particles, 1.1 * data.diameter)
    plan = Plan(
        symmetry="C1", diameter=1.1 * data.diameter, initial_lowpass=lowpass, local=True, turn_sd=TURN, shift_sd=4.0,
        **options,
    )  # fmt: skip
    reference = place_reference(data.volume, source.field, source.box, lowpass)
    return source, begin(source, reference, np.arange(n) % 2 + 1, plan, EXECUTOR), plan


def test_weak_images_are_recognised_where_a_prior_holds_them(small_set):
    source, state, plan = _begun(small_set(snr=0.03))
    weak = ask_whether_weak_nearby(source, state, plan, EXECUTOR)
    assert weak.weak and not weak.marginal and len(weak.volumes) == 2 * n_folds(weak)
    for other in (replace(plan, soft=False), replace(plan, turn_sd=0.0), replace(plan, local=False)):
        assert ask_whether_weak_nearby(source, state, other, EXECUTOR) is state


def test_clear_images_are_fitted_from_where_they_are(small_set):
    data = small_set(snr=2.0)
    source, state, plan = _begun(data)
    state.poses.rotation[:] = data.truth.rotation
    clear = ask_whether_weak_nearby(source, state, plan, EXECUTOR)
    assert not clear.weak and len(clear.volumes) == 2
    # the simulated images have a grey scale of their own: the reference is brought to it
    again = ask_whether_weak_nearby(source, clear, plan, EXECUTOR)
    assert not torch.equal(clear.volumes[0], state.volumes[0]) and again is clear


@pytest.mark.parametrize("at_once", [4096, 50])
def test_poses_about_those_given_reach_the_right_optimum(small_set, monkeypatch, at_once):
    monkeypatch.setattr("cryoloom.refine.finding.AT_ONCE_NEAR", at_once)
    data = small_set(snr=0.5)
    source, state, plan = _begun(data, lowpass=14.0)
    references = prepare_references(state.volumes, EXECUTOR, state.radius)
    priors = PosePriors(turn_sd=TURN, shift_sd_px=1.0, rotation=source.particles.rotation)
    fit = Fit(source, references, state.poses.half, state.noise, EXECUTOR, priors, np.deg2rad(5.0))
    near = find_nearby(fit, state, plan)
    single = fit(state.poses.candidates(np.arange(len(source))), state.radius, 10)
    lost = []
    for found in (near, single):
        best = found.select(best_of(found, found.log_likelihood))
        assert (best.row == np.arange(len(source))).all()
        angle = pose_distance(torch.from_numpy(best.rotation), torch.from_numpy(data.truth.rotation), "C1").numpy()
        lost.append(float(np.mean(np.rad2deg(angle) > 8.0)))
    assert lost[0] < 0.1 and lost[0] < 0.5 * lost[1]

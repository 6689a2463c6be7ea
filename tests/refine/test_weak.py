"""Images that are too noisy to choose their poses: recognised, shared among all poses, resumed after a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.em import ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.start import place_reference
from cryoloom.fourier import fourier_crop
from cryoloom.fourier.slices import empty_sums, sums_bytes
from cryoloom.io.particles import ParticleImages
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.refine.marginal import ask_whether_weak, iterate_marginal
from cryoloom.refine.next_maps import meets, n_folds, parts_to_sum
from cryoloom.refine.plan import Plan
from cryoloom.refine.schedule import iterate
from cryoloom.refine.state import begin, load_state, save_state

EXECUTOR = ThreadExecutor(2)


def _begun(data, **options):
    torch.set_num_threads(1)
    source = ImageSource(ParticleImages(data.particles), data.particles, 1.1 * data.diameter)
    reference = place_reference(data.volume, source.field, source.box, 40.0)
    plan = Plan(symmetry="C1", diameter=1.1 * data.diameter, shift_range=10.0, **options)
    return source, begin(source, reference, np.arange(len(source)) % 2 + 1, plan, EXECUTOR), plan


@pytest.fixture(scope="module")
def weak_set(small_set):
    return small_set(snr=0.05, n=600)


def test_clear_images_are_searched_at_once(small_set):
    source, state, plan = _begun(small_set())
    assert ask_whether_weak(source, state, plan, EXECUTOR) is state


def test_weak_images_are_recognised_unless_hard_poses_are_asked_for(weak_set):
    source, state, plan = _begun(weak_set)
    asked = ask_whether_weak(source, state, plan, EXECUTOR)
    assert asked.weak and asked.marginal and len(asked.volumes) == 2 * n_folds(asked)
    assert not ask_whether_weak(source, state, replace(plan, soft=False), EXECUTOR).weak


def test_the_map_of_weak_images_grows_by_itself(weak_set):
    source, state, plan = _begun(weak_set)
    state = ask_whether_weak(source, state, plan, EXECUTOR)
    start = state.radius
    said = []
    for _ in range(3):
        state = iterate_marginal(source, state, plan, EXECUTOR, said.append)
    assert state.radius > start and len(said) == 3
    assert state.history[-1]["evidence"] > state.history[0]["evidence"]
    # in the first shell beyond those of the start there is structure now, and it is right
    truth = fourier_crop(torch.from_numpy(weak_set.volume.data.copy()), state.volumes[0].shape)
    assert float(fourier_shell_correlation(state.volumes[0], truth)[start + 1]) > 0.4


def test_no_particle_meets_itself(weak_set):
    source, state, plan = _begun(weak_set)
    state = ask_whether_weak(source, state, plan, EXECUTOR)
    part, n = parts_to_sum(state, plan)
    side = meets(state, len(state.volumes))
    assert n == 2 * n_folds(state) == len(np.unique(part))
    np.testing.assert_array_equal(side, part + 1)  # the reference of a fold is made without that fold's sums
    np.testing.assert_array_equal(part // n_folds(state) + 1, state.poses.half)


def test_folds_are_as_many_as_memory_allows(weak_set):
    _, state, _ = _begun(weak_set)
    shells = {8: 79, 4: 127, 2: 250}
    for n, last in shells.items():
        assert n_folds(replace(state, noise=NoiseModel(np.ones((1, last + 1))))) == n
    assert sums_bytes(20) == empty_sums(20).numel() * 4


def test_a_killed_start_goes_on_to_the_same_bits(weak_set, tmp_path):
    source, state, plan = _begun(weak_set)
    state, _ = iterate(source, state, plan, EXECUTOR, lambda _: None)
    save_state(tmp_path / "state.npz", state)
    one, _ = iterate(source, state, plan, EXECUTOR, lambda _: None)
    other, _ = iterate(source, load_state(tmp_path / "state.npz"), plan, EXECUTOR, lambda _: None)
    assert one.radius == other.radius and one.n_marginal == other.n_marginal == 2
    for a, b in zip(one.volumes, other.volumes, strict=True):
        assert torch.equal(a, b)

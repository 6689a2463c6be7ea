import math

import numpy as np
import pytest
import torch
from bed_images import BOX, PIXEL_SIZE, Memory, particles, view_images

from cryoloom.class2d.classify import classify
from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.state import Plan
from cryoloom.class2d.sums import RingImages, class_samples
from cryoloom.compute.executor import SerialExecutor, ThreadExecutor
from cryoloom.em.images import ImageSource
from cryoloom.em.rings import plan_rings

DIAMETER = 22.0


def run(images, record, classes, *, executor=None, seed=0, **changes):
    source = ImageSource(Memory(images), record, DIAMETER * PIXEL_SIZE, cache_bytes=0)
    rings = plan_rings(BOX, 16, DIAMETER)
    plan = dict(n_classes=classes, diameter_px=DIAMETER, n_iterations=12, batch_size=10_000, shift_range_px=3.0,
                first_radius=4)  # fmt: skip
    state = classify(
        RingSource(source, rings), Plan(**(plan | changes)), executor or SerialExecutor(),
        torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return state, rings


def purity(view, found):
    """Share of images whose class belongs mostly to their own view."""
    right = 0
    for c in np.unique(found):
        right += np.bincount(view[found == c]).max()
    return right / len(view)


@pytest.fixture(scope="module")
def four_views():
    images, record, view, psi, shift = particles(500, 4, snr=0.4)
    return images, record, view, psi, shift, *run(images, record, 5)


def test_views_are_told_apart(four_views):
    _, _, view, _, _, state, _ = four_views
    assert purity(view, state.class_index) > 0.97


def test_angles_and_shifts_agree_with_truth_up_to_one_turn_and_one_shift_per_class(four_views):
    _, _, view, psi, shift, state, _ = four_views
    for c in range(5):
        mine = np.flatnonzero(state.class_index == c)
        if len(mine) < 40:
            continue
        mine = mine[view[mine] == np.bincount(view[mine]).argmax()]
        # ParticleSet.psi turns the average into the image; the search's angle is its negative
        difference = -state.psi[mine] - psi[mine]
        mean = np.angle(np.exp(1j * difference).mean())
        error = np.abs(np.angle(np.exp(1j * (difference - mean))))
        assert np.median(error) < math.radians(4)
        # centre of the average against that of the view: constant in the frame of the class
        moved = state.shift_px[mine] - shift[mine]
        turn = state.psi[mine]
        x = np.cos(turn) * moved[:, 1] - np.sin(turn) * moved[:, 0]
        y = np.sin(turn) * moved[:, 1] + np.cos(turn) * moved[:, 0]
        assert np.median(np.hypot(x - np.median(x), y - np.median(y))) < 0.4


def test_averages_look_like_the_views(four_views):
    _, _, view, _, _, state, rings = four_views
    averages = RingImages(rings, BOX).images(class_samples(rings, state.sums), 0.5 * DIAMETER)
    truth = view_images(4)
    largest = int(state.sums.total.argmax())
    mine = np.bincount(view[state.class_index == largest]).argmax()
    # compare what does not change with the turn: the sorted values of a low-passed picture, and its radial profile
    axis = torch.arange(BOX) - BOX // 2
    radius = torch.hypot(axis[:, None].float(), axis.float()).round().long().reshape(-1)
    profiles = []
    for picture in (averages[largest], truth[mine]):
        total = torch.bincount(radius, picture.reshape(-1).double())[:9]
        profiles.append(total / torch.bincount(radius)[:9])
    assert np.corrcoef(profiles[0].numpy(), profiles[1].numpy())[0, 1] > 0.9


def test_threads_do_not_change_the_result():
    images, record, *_ = particles(200, 3, snr=0.5)
    one, _ = run(images, record, 3, n_iterations=3)
    two, _ = run(images, record, 3, n_iterations=3, executor=ThreadExecutor(2))
    assert (one.class_index == two.class_index).all()
    np.testing.assert_array_equal(one.psi, two.psi)


def test_small_batches_reach_the_same_views():
    images, record, view, *_ = particles(900, 3, snr=0.5)
    state, _ = run(images, record, 4, batch_size=300, n_iterations=16)
    assert purity(view, state.class_index) > 0.95


def test_a_rare_view_keeps_its_class():
    images, record, view, *_ = particles(600, 2, snr=0.5, weights=[0.9, 0.1])
    state, _ = run(images, record, 4)
    rare = view == 1
    share = [np.bincount(view[state.class_index == c], minlength=2) for c in range(4)]
    own = [c for c in range(4) if share[c][1] > share[c][0]]
    kept = np.isin(state.class_index, own)
    assert kept[rare].mean() > 0.9
    assert rare[kept].mean() > 0.9

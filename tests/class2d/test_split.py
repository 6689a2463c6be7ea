import numpy as np
import pytest
import torch
from bed_images import BOX, PIXEL_SIZE, Memory, particles

from cryoloom.class2d.restart import classify_misfits, misfits
from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.split import empty_classes, fill_empty_classes
from cryoloom.class2d.state import Plan, State
from cryoloom.class2d.sums import contribute, empty_class_sums, solved
from cryoloom.compute.executor import SerialExecutor
from cryoloom.em.images import ImageSource
from cryoloom.em.rings import plan_rings, turn_coefficients

DIAMETER, N = 22.0, 160


@pytest.fixture
def one_class_of_two_views():
    """All images at their true poses in class 0, class 1 empty."""
    images, record, view, psi, shift = particles(N, 2, snr=0.5)
    rings = plan_rings(BOX, 10, DIAMETER)
    source = RingSource(ImageSource(Memory(images), record, DIAMETER * PIXEL_SIZE, cache_bytes=0), rings)
    plan = Plan(2, DIAMETER, 10, N, 3.0, 4)
    half = np.arange(N) % 2
    noise = torch.zeros(1, rings.n_rings, dtype=torch.float64)
    for rows in source.batches(np.arange(N)):
        noise[0] += source.chunk(rows).power.double().sum(0) / N

    def sums_of(chosen):
        sums = empty_class_sums(rings, 2)
        for rows in source.batches(chosen):
            chunk, b = source.chunk(rows), len(rows)
            sums.add(
                contribute(
                    rings, chunk.samples, chunk.ctf, chunk.ctf_power, (1 / noise).float().expand(b, -1),
                    half=torch.from_numpy(half[rows]), reference=torch.zeros(b, dtype=torch.int64),
                    psi=torch.from_numpy(-psi[rows]), shift_px=torch.from_numpy(shift[rows]), share=torch.ones(b),
                )
            )  # fmt: skip
        return sums

    state = State(
        iteration=3, radius=8, sums=sums_of(np.arange(N)), noise=noise, half=half, order=np.arange(N), cursor=0,
        random=np.zeros(0, np.uint8), class_index=np.zeros(N, np.int64), psi=-psi.astype(np.float64),
        shift_px=shift.astype(np.float64), gain=np.zeros(N), scale=np.ones(N), norm=np.ones(N), member=np.ones(N),
        posterior=np.ones(N), sharers=np.ones(N),
    )  # fmt: skip
    state.truth_view = view
    return source, plan, state, [solved(sums_of(np.flatnonzero(view == v)))[0] for v in (0, 1)]


def best_turn(average, view, rings):
    """Largest cosine of two averages over all turns; both are centred."""
    angles = torch.linspace(0, 2 * np.pi, 181)[:-1]
    return max(cosine(turn_coefficients(rings, average[None], angle[None])[0], view) for angle in angles)


def cosine(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


def test_an_empty_class_takes_over_one_of_two_views(one_class_of_two_views):
    source, plan, state, views = one_class_of_two_views
    before = state.sums.total.clone()
    assert fill_empty_classes(source, plan, state, SerialExecutor()) == 1
    torch.testing.assert_close(state.sums.total.sum(), before.sum())
    assert state.sums.total.min() > 0.3 * N
    found = solved(state.sums)
    table = np.array([[cosine(average, view) for view in views] for average in found])
    own = table.argmax(1)
    assert sorted(own) == [0, 1]
    assert (table[[0, 1], own] > 0.97).all() and (table[[0, 1], 1 - own] < 0.95).all()


def test_nothing_is_cut_while_no_class_is_empty(one_class_of_two_views):
    source, plan, state, _ = one_class_of_two_views
    state.sums.count[:, 1] = 0.3 * state.sums.count[:, 0]
    state.class_index[: N // 4] = 1
    assert fill_empty_classes(source, plan, state, SerialExecutor()) == 0


def test_a_faint_class_with_a_small_share_of_many_images_counts_as_empty_once_things_are_settled(
    one_class_of_two_views,
):
    _, plan, state, _ = one_class_of_two_views
    state.sums.count[:, 1] = 0.3 * state.sums.count[:, 0]
    assert empty_classes(plan, state) == [1]
    state.iteration = 2
    assert empty_classes(plan, state) == []


def test_images_that_fit_no_class_give_the_view_that_is_missing(one_class_of_two_views):
    source, plan, state, views = one_class_of_two_views
    lost = np.flatnonzero(state.truth_view == 1)[: N // 2]
    state.scale[lost] = 0.5
    state.norm[:] = 30.0
    assert set(misfits(state, len(lost))) == set(lost)
    generator = torch.Generator().manual_seed(0)
    assert classify_misfits(source, plan, state, SerialExecutor(), generator) == 1
    table = [best_turn(solved(state.sums)[1], view, source.plan) for view in views]
    assert table[1] > max(0.95, table[0])

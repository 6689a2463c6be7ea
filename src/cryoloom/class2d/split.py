"""Classes without particles take over a half of those that show two views.

Mixtures of averages end in local optima in which one class holds two views while another one is empty. As in divisive
clustering (CL2D; Sorzano et al. 2010, doi:10.1016/j.jsb.2010.03.011) a class is cut where that gains most: its images,
brought into its frame at the poses found, less the average, whitened, have a principal component whose sign divides
them; the square of its singular value, less what noise alone would give, is the log-likelihood gained, up to a factor.
Poses stay as they are while this is measured, and astigmatism counts by its mean over a ring; the next iterations
correct for both.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.class2d.rings_source import RingSource
from cryoloom.class2d.state import Plan, State
from cryoloom.class2d.sums import ClassSums, solved
from cryoloom.contract import Executor

MEMBERS = 300
"""Images of a class that are looked at."""
FEWEST = 20
"""Images that a class needs to be cut."""
EMPTY = 0.2
"""A class that holds less than this share of the mean class is taken for empty."""
SETTLED = 0.3
"""Part of the iterations after which it counts which class an image likes best."""


@dataclass(frozen=True)
class Cut:
    """How a class falls apart.

    Attributes
    ----------
    number
        The class.
    gain
        Explained by the cut, noise taken off.
    sums
        Of both parts, two classes.
    """

    number: int
    gain: float
    sums: ClassSums


def empty_classes(plan: Plan, state: State) -> list[int]:
    """Classes that hold next to nothing, or that few images like best: a faint average has a small share of many."""
    total = state.sums.total
    share = total / total.sum().clamp_min(1e-20)
    if state.iteration >= SETTLED * plan.n_iterations:
        liked = np.bincount(state.class_index[state.class_index >= 0], minlength=plan.n_classes)
        share = torch.minimum(share, torch.from_numpy(liked / max(liked.sum(), 1)))
    return (share * plan.n_classes < EMPTY).nonzero()[:, 0].tolist()


def fill_empty_classes(source: RingSource, plan: Plan, state: State, executor: Executor) -> int:
    """Cut classes in two while there are empty ones, and return how many were cut."""
    total = state.sums.total
    share = total / total.sum().clamp_min(1e-20) * plan.n_classes
    empty = empty_classes(plan, state)
    members = np.bincount(state.class_index[state.class_index >= 0], minlength=plan.n_classes)
    largest = [c for c in torch.argsort(share, descending=True, stable=True).tolist() if members[c] >= FEWEST]
    if not empty or not largest:
        return 0
    average = solved(state.sums).permute(0, 2, 3, 1)
    cuts = list(executor.map(lambda c: _cut(source, state, average[c], c), largest[: 2 * len(empty) + 6]))
    best = sorted((c for c in cuts if c.gain > 0), key=lambda c: -c.gain)[: len(empty)]
    for cut, place in zip(best, empty, strict=False):
        for part, target in enumerate((cut.number, place)):
            state.sums.numerator[:, target] = cut.sums.numerator[:, part]
            state.sums.weight[:, target] = cut.sums.weight[:, part]
            state.sums.count[:, target] = cut.sums.count[:, part]
    return len(best)


def _cut(source: RingSource, state: State, average: Tensor, number: int) -> Cut:
    rows = np.flatnonzero(state.class_index == number)
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MEMBERS)).astype(np.int64)]
    upright, precision, noise = (torch.cat(column) for column in zip(*_members(source, state, rows), strict=True))
    n_rings = min(state.radius, source.plan.n_rings)
    spread = (precision * noise).clamp_min(1e-20).sqrt()[:, None, None, :n_rings]
    pixels = (source.plan.ring_weight * source.plan.n_samples).sqrt()[:n_rings]  # root of the pixels of each ring
    residual = upright[..., :n_rings] - precision[:, None, None, :n_rings] * average[..., :n_rings]
    white = (residual / spread * pixels).flatten(1)[:, _within(source, n_rings)]
    left, singular, _ = torch.linalg.svd(white, full_matrices=False)
    m, p = white.shape
    power = singular.double() ** 2
    # the largest value of noise alone (Marčenko, Pastur 1967), its level from all but the first
    edge = power[1:].sum() / max(m - 1, 1) * (1 + (m / p) ** 0.5) ** 2
    side = (left[:, 0] > left[:, 0].median()).long() if _lopsided(left[:, 0]) else (left[:, 0] > 0).long()
    half = torch.from_numpy(state.half[rows])
    factor = float(state.sums.total[number]) / m
    weighted = upright / noise[:, None, None] * factor
    out = ClassSums(
        numerator=torch.zeros(2, 2, *state.sums.numerator.shape[2:]),
        weight=torch.zeros(2, 2, source.plan.n_rings, dtype=torch.float64),
        count=torch.zeros(2, 2, dtype=torch.float64),
    )
    for h in range(2):
        for s in range(2):
            mine = (half == h) & (side == s)
            out.numerator[h, s] = weighted[mine].sum(0).permute(2, 0, 1)
            out.weight[h, s] = (precision / noise)[mine].double().sum(0) * factor
            out.count[h, s] = float(mine.sum()) * factor
    return Cut(number, float(power[0] - edge), out)


def _members(source: RingSource, state: State, rows: np.ndarray) -> list[tuple[Tensor, Tensor, Tensor]]:
    """`C X` in the frame of the class `(b, n_q, 2, rings)`, `<C²>` and `σ²` `(b, rings)`, chunk by chunk."""
    out = []
    for some in source.batches(rows):
        chunk = source.chunk(some)
        centre = torch.from_numpy(state.shift_px[some].astype(np.float32))
        turn = torch.from_numpy(state.psi[some])[:, None] * source.plan.q
        c, s = turn.cos().float()[..., None], turn.sin().float()[..., None]
        a, b = source.coefficients(chunk, centre).unbind(2)
        upright = torch.stack([a * c + b * s, b * c - a * s], dim=2)
        out.append((upright, chunk.ctf_power, state.noise[chunk.group].float()))
    return out


def _within(source: RingSource, n_rings: int) -> Tensor:
    """Which coefficients `(n_q, 2, rings)` a particle of the mask's size can have, flat."""
    kept = torch.zeros(len(source.plan.q), 2, n_rings, dtype=torch.bool)
    for first, last, ring in source.plan.spans:
        kept[first:last, :, ring:] = True
    return kept.flatten()


def _lopsided(component: Tensor) -> bool:
    """Whether the sign of a component would leave less than a tenth on one side."""
    fraction = float((component > 0).double().mean())
    return min(fraction, 1 - fraction) < 0.1

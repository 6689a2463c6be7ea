"""The threshold that noise passes as often as is set.

Each of the N correlations of a micrograph (pixels times views times defoci) passes `t` with the probability Q(t) of a
normal deviate, so N Q(t) pass. Were all independent, that would be the number of false picks (Rickgauer et al. 2017,
doi:10.7554/eLife.25648). But neighbouring places and views look alike, and what passes comes in clumps, which are one
pick each. The number of clumps is N Q(t) times the probability that a value above t is the highest of its clump
(Aldous 1989, doi:10.1007/978-1-4757-6283-9). Given one value, its neighbours are normal with the correlations that the
templates themselves have, so this probability follows from the templates, without a single noise image: a few views
are drawn, the most similar neighbours of each, moved by a few pixels, are listed, and joint values are drawn. For a
coarse search it is 1, and the formula that of independent values.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from cryoloom.fourier import irfftn, rfftn
from cryoloom.geometry.symmetry import pose_distance

_REACH = 4  # pixels to either side within which neighbours are looked for
_NEAR = 24  # views beside one another
_NEIGHBOURS = 160
_LEAST = 0.1  # correlation of a neighbour that counts
_DRAWS = 4000


@dataclass(frozen=True)
class Clumps:
    """Correlations around a few views.

    Attributes
    ----------
    own
        Of each view with its neighbours, `(k,)` each.
    rest
        Draws of what the neighbours have beside that, given the view, `(draws, k)` each.
    """

    own: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]

    def share(self, t: float) -> float:
        """Probability that a value above `t` is the highest of its clump."""
        shares = []
        for own, rest in zip(self.own, self.rest, strict=True):
            if not len(own):
                shares.append(1.0)
                continue
            # values above t fall off as they do, drawn at even steps of their distribution
            tail = norm.sf(t) * (np.arange(len(rest)) + 0.5) / len(rest)
            value = torch.from_numpy(norm.isf(tail))
            highest = (value[:, None] * own + rest).amax(1)
            shares.append(float((highest < value).double().mean()))
        return sum(shares) / len(shares)


def threshold_for(false_picks: float, n_values: float, share: Callable[[float], float]) -> float:
    """The value that `false_picks` clumps of noise pass on average.

    Parameters
    ----------
    false_picks
        Per micrograph.
    n_values
        Pixels times views times defoci.
    share
        Probability that a value above its argument leads its clump.
    """

    def excess(t: float) -> float:
        return math.log(n_values) + float(norm.logsf(t)) + math.log(max(share(t), 1e-6)) - math.log(false_picks)

    if excess(1.0) < 0:
        return 1.0
    return float(brentq(excess, 1.0, 30.0, xtol=1e-3))


def measure_clumps(
    images_of: Callable[[Tensor], Tensor],
    rotations: Tensor,
    n_filters: int,
    symmetry: str,
    generator: torch.Generator,
    n_views: int = 8,
) -> Clumps:
    """Correlations around a few random views.

    Parameters
    ----------
    images_of
        Templates of unit length of some rotations, `(p, 3, 3)` to `(p * n_filters, box, box)`.
    rotations
        All views, `(n, 3, 3)`.
    n_filters
        Templates per view.
    symmetry
        Of the template: views across the border of the asymmetric unit are neighbours too.
    generator
        Draws views and deviates.
    """
    own, beside = [], []
    for _ in range(n_views):
        centre = int(torch.randint(len(rotations), (1,), generator=generator))
        middle = int(torch.randint(n_filters, (1,), generator=generator))
        distance = pose_distance(rotations[centre], rotations, symmetry)
        near = distance.argsort(stable=True)[:_NEAR]  # the view itself is the first
        rest = near[near != centre]
        images = images_of(torch.cat([rotations[centre][None], rotations[rest]])).double().cpu()
        first, covariance = _around(images, middle)
        own.append(first)
        given = covariance - first[:, None] * first[None, :]
        values, vectors = torch.linalg.eigh(given)
        root = vectors * values.clamp_min(0).sqrt()
        draws = torch.randn(_DRAWS, len(first), generator=generator, dtype=torch.float64)
        beside.append(draws @ root.T)
    return Clumps(tuple(own), tuple(beside))


def _around(images: Tensor, middle: int) -> tuple[Tensor, Tensor]:
    """Correlation of one template with its most similar neighbours, and their covariance, `(k,)` and `(k, k)`.

    A neighbour is a template, also the same one, moved by some pixels.
    """
    box = images.shape[-1]
    pad = box + 2 * _REACH
    dft = rfftn(torch.nn.functional.pad(images, (0, 2 * _REACH, 0, 2 * _REACH)), 2)
    moves = torch.arange(-_REACH, _REACH + 1)
    y, x = (part.reshape(-1) for part in torch.meshgrid(moves, moves, indexing="ij"))
    # value at a move d of template j is the correlation of the first with j moved by d
    products = irfftn(dft[middle].conj() * dft, (pad, pad))[:, -y % pad, -x % pad]  # (templates, moves)
    products[middle, (y == 0) & (x == 0)] = 0.0
    flat = products.reshape(-1)
    order = flat.abs().argsort(descending=True)[:_NEIGHBOURS]
    order = order[flat[order].abs() > _LEAST]
    template, move = order // len(y), order % len(y)
    shifted = torch.stack(
        [
            torch.nn.functional.pad(images[j], (_REACH,) * 4).roll((int(y[d]), int(x[d])), (0, 1)).reshape(-1)
            for j, d in zip(template.tolist(), move.tolist(), strict=True)
        ]
        or [torch.zeros(pad * pad, dtype=images.dtype)]
    )[: len(order)]
    return flat[order], shifted @ shifted.T

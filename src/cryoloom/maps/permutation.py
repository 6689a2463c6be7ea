"""Where two half maps agree by more than chance, from permutations of their own Fourier coefficients.

If a shell holds no signal, the coefficients of the two halves belong together no more than any other pairs of the shell
do: pairing them anew at random gives the distribution of the FSC under that hypothesis, without a formula for it
(Beckers and Sachse 2020, doi:10.1016/j.jsb.2020.107579). Behind a mask neighbouring coefficients are alike; as many are
drawn from the shell as are independent there. The probabilities of all shells are corrected for their number by the
rate of false discoveries (Benjamini and Yekutieli 2001, which holds for shells that depend on each other).

New pairs are the shifts of one random order against another: a group of permutations, all of whose sums one Fourier
transform gives.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import rfftn, shell_index
from cryoloom.maps.fsc import fourier_shell_correlation

FEWEST = 6
"""Coefficients below which a shell has too few pairings to tell anything."""

MOST = 20_000
"""Coefficients of a shell that are drawn at most; the spread of the FSC is scaled to their true number."""


@dataclass(frozen=True)
class PermutedFsc:
    """Significance of an FSC.

    Attributes
    ----------
    fsc
        Of the halves, `(n,)`.
    low, high
        Range that holds 95 % of the FSC of shells without signal, `(n,)`; NaN where a shell has too few coefficients.
    p
        Probability of an FSC as high without signal, corrected for the number of shells, `(n,)`.
    shell
        Last shell before the first one that is not significant; shells 1 and 2 are too small to end the curve.
    null
        FSC of the pairings of each shell, some hundred each; empty where a shell has too few coefficients.
    """

    fsc: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    shell: int
    null: tuple[np.ndarray, ...]


def permuted_fsc(
    half1: Tensor, half2: Tensor, generator: torch.Generator, *, effective_counts: np.ndarray, level: float = 0.01
) -> PermutedFsc:
    """Significance of the FSC of two volumes `(n, n, n)` by permutation.

    Parameters
    ----------
    half1, half2
        Behind their mask.
    generator
        Of the pairings.
    effective_counts
        Independent voxels of each full shell (`maps.freedom`), copies by symmetry counted once, `(n // 2 + 1,)`.
    level
        Rate of false discoveries at which a shell counts as significant.

    Raises
    ------
    ValueError
        If there is not one count per shell.
    """
    shape = tuple(half1.shape)
    fsc = fourier_shell_correlation(half1, half2).numpy()
    if len(effective_counts) != len(fsc):
        raise ValueError(f"effective_counts: expected {len(fsc)} values, got {len(effective_counts)}")
    index = shell_index(shape).reshape(-1)
    order = torch.argsort(index, stable=True)
    ends = torch.searchsorted(index[order], torch.arange(len(fsc) + 1))
    one, two = (rfftn(half.float(), 3).reshape(-1) for half in (half1, half2))
    low, high, p = np.full(len(fsc), np.nan), np.full(len(fsc), np.nan), np.ones(len(fsc))
    p[0] = 0.0
    kept = [np.zeros(0)] * len(fsc)
    for s in range(1, len(fsc)):
        own = order[ends[s] : ends[s + 1]]
        # a full shell of n voxels has n / 2 independent complex coefficients
        wanted = min(float(effective_counts[s]) / 2, len(own))
        n = int(min(max(round(wanted), 1), MOST))
        if n < FEWEST:
            continue
        null = _repaired(one[own], two[own], n, generator) * np.sqrt(n / max(wanted, 1.0))
        low[s], high[s] = np.quantile(null, [0.025, 0.975])
        kept[s] = null[:: max(1, len(null) // 1000)]
        # Beyond what the pairings reach, the tail is that of a normal distribution of their spread.
        counted = (1 + (null >= fsc[s]).sum()) / (1 + len(null))
        p[s] = counted if counted > 5 / len(null) else min(counted, _normal_tail(fsc[s] / null.std()))
    p = _corrected(p)
    failed = np.flatnonzero(p[3:] > level)
    return PermutedFsc(fsc, low, high, p, int(failed[0]) + 2 if len(failed) else len(fsc) - 1, tuple(kept))


def _repaired(a: Tensor, b: Tensor, n: int, generator: torch.Generator, least: int = 1000) -> np.ndarray:
    """FSC of random pairings of `n` coefficients of a shell, at least `least` of them."""
    found: list[np.ndarray] = []
    while sum(map(len, found)) < least:
        x, y = (v[torch.randperm(len(v), generator=generator)[:n]].to(torch.complex128) for v in (a, b))
        together = torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(y).conj()).real  # Σ Re(x_i conj(y_(i - shift)))
        found.append((together / (x.abs().norm() * y.abs().norm()).clamp_min(1e-300)).numpy())
    return np.concatenate(found)


def _normal_tail(z: float) -> float:
    return float(torch.special.erfc(torch.tensor(z / np.sqrt(2), dtype=torch.float64))) / 2


def _corrected(p: np.ndarray) -> np.ndarray:
    """Probabilities corrected for the rate of false discoveries under any dependence, `(n,)`."""
    n = len(p)
    order = np.argsort(p)
    scaled = p[order] * n * (1 / np.arange(1, n + 1)).sum() / np.arange(1, n + 1)
    out = np.empty(n)
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out

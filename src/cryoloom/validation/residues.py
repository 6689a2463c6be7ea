"""Residues whose side chain the map does not show: wrong residue, wrong rotamer, or a stretch out of register.

The Q-score of a side chain follows that of its backbone and its neighbourhood. What a residue falls short of that is
measured against the scatter among all residues. One bad side chain stands out alone; where the sequence has slipped
along the backbone, most side chains of a stretch are a little too bad, and their mean stands out.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cryoloom.data.model import BACKBONE, AtomicModel

ALONE, STRETCH = 3.0, 3.0
"""Standard deviations from which on a residue, and a stretch of residues, is told."""

WINDOW = 9
"""Residues of a stretch."""


@dataclass(frozen=True)
class ResidueScores:
    """Scores of each residue, `(n_residues,)`; NaN where a residue has no such atoms.

    Attributes
    ----------
    q, backbone, side_chain
        Mean Q-score of all atoms, of the backbone, and of the side chain beyond the beta carbon.
    shortfall
        Side chain against what its backbone and neighbours lead to expect, in standard deviations; negative is worse.
    stretch
        The same for the mean of the stretch around the residue.
    outlier
        Residues that do not fit by themselves or as part of a stretch.
    """

    q: np.ndarray
    backbone: np.ndarray
    side_chain: np.ndarray
    shortfall: np.ndarray
    stretch: np.ndarray
    outlier: np.ndarray


def score_residues(model: AtomicModel, atom_q: np.ndarray) -> ResidueScores:
    """Scores of all residues of a model from the Q-scores of its atoms, `(n,)`."""
    n = model.n_residues
    every = _mean_by(model.residue, atom_q, np.ones(len(model), bool), n)
    backbone = _mean_by(model.residue, atom_q, np.isin(model.atom_name, BACKBONE), n)
    side = _mean_by(model.residue, atom_q, model.is_side_chain, n)
    first = model.first_atom()
    protein = np.isfinite(side) & np.isfinite(backbone)
    protein &= np.array([bool(np.any(model.atom_name[model.residue == r] == "CA")) for r in range(n)])
    shortfall = np.full(n, np.nan)
    if protein.sum() >= 12:
        centre = np.stack(
            [_mean_by(model.residue, model.position[:, i], np.ones(len(model), bool), n) for i in range(3)]
        )
        expected = _expected(centre.T[protein], backbone[protein], side[protein])
        shortfall[protein] = _standardised(side[protein] - expected)
    stretch = _stretches(shortfall, model.chain[first], model.number[first])
    outlier = (np.nan_to_num(shortfall) < -ALONE) | (np.nan_to_num(stretch) < -STRETCH)
    return ResidueScores(every, backbone, side, shortfall, stretch, outlier)


def _mean_by(index: np.ndarray, values: np.ndarray, which: np.ndarray, n: int) -> np.ndarray:
    """Mean of the finite chosen values of each group, NaN where there is none."""
    good = which & np.isfinite(values)
    total = np.bincount(index[good], values[good], minlength=n)
    count = np.bincount(index[good], minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _expected(centre: np.ndarray, backbone: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Side-chain score to be expected: median of the 30 nearest residues, moved by the own backbone's difference."""
    near = cKDTree(centre).query(centre, k=min(31, len(centre)))[1][:, 1:]
    slope = float(np.clip(np.polyfit(backbone, side, 1)[0], 0.0, 1.5)) if np.ptp(backbone) > 1e-6 else 0.0
    return np.median(side[near], axis=1) + slope * (backbone - np.median(backbone[near], axis=1))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Deviation from the median over a spread that bad residues do not widen: that of the better side."""
    centre = np.median(values)
    upper = values[values > centre] - centre
    spread = max(1.4826 * float(np.median(upper)) if len(upper) else 0.0, 1e-6)
    lower = 1.4826 * float(np.median(np.abs(values - centre)))
    return (values - centre) / max(spread, 0.8 * lower)


def _stretches(shortfall: np.ndarray, chain: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Mean shortfall of the residues within half a window in the same chain, in its standard deviations."""
    out = np.full(len(shortfall), np.nan)
    clipped = np.clip(shortfall, -4.0, 2.0)
    for name in dict.fromkeys(chain.tolist()):
        rows = np.flatnonzero(chain == name)
        for row in rows:
            near = rows[np.abs(number[rows] - number[row]) <= WINDOW // 2]
            values = clipped[near][np.isfinite(clipped[near])]
            if len(values) >= 4:
                out[row] = values.mean() * np.sqrt(len(values))
    usable = np.isfinite(out)
    # The scatter of means is taken from the data: neighbours in a chain resemble each other.
    if usable.sum() >= 12:
        upper = out[usable][out[usable] > np.median(out[usable])] - np.median(out[usable])
        out[usable] = (out[usable] - np.median(out[usable])) / max(1.4826 * float(np.median(upper)), 1.0)
    return out

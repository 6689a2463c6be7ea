"""Picks against true positions."""

from dataclasses import dataclass

import numpy as np

from cryoloom.data import ParticleSet, PickSet
from cryoloom.scoring.matching import match_positions, stems


@dataclass(frozen=True)
class PickScore:
    """How well picks found particles.

    Attributes
    ----------
    n_picks, n_truth, n_matched
        Counts over the micrographs that were searched.
    precision, recall, f1
        Of the picks as they are.
    average_precision
        Area under the precision-recall curve by falling score; NaN without scores.
    offset_px
        Median distance of matched picks from the truth, pixels.
    matched_pick, matched_truth
        Rows of the pairs.
    """

    n_picks: int
    n_truth: int
    n_matched: int
    precision: float
    recall: float
    f1: float
    average_precision: float
    offset_px: float
    matched_pick: np.ndarray
    matched_truth: np.ndarray

    def summary(self) -> dict[str, float | int]:
        """The figures a report shows."""
        return {
            "n_picks": self.n_picks,
            "n_truth": self.n_truth,
            "n_matched": self.n_matched,
            "precision": round(self.precision, 4),
            "recall": round(self.recall, 4),
            "f1": round(self.f1, 4),
            "average_precision": round(self.average_precision, 4),
            "offset_px": round(self.offset_px, 3),
        }


def score_picks(picks: PickSet, truth: PickSet | ParticleSet, distance_px: float) -> PickScore:
    """Match picks to true positions on the same micrographs, each used once, within `distance_px`.

    Micrographs are known by their file names without suffix. Those that the picks' `micrographs` do not list (if it
    lists any) were not searched and do not count. Junk of the truth (class 0) is no particle.
    """
    assert truth.position_px is not None and truth.micrograph is not None
    names_a, names_b = stems(picks.micrograph), stems(truth.micrograph)
    count = np.ones(len(truth), bool) if truth.class_number is None else truth.class_number > 0
    if picks.micrographs:
        count &= np.isin(names_b, stems(np.asarray(picks.micrographs)))
    real = np.flatnonzero(count)
    a, b = match_positions(names_a, picks.position_px, names_b[real], truth.position_px[real], distance_px)
    b = real[b]
    n_picks, n_truth, n_matched = len(picks), len(real), len(a)
    precision = n_matched / n_picks if n_picks else 0.0
    recall = n_matched / n_truth if n_truth else 0.0
    hit = np.zeros(n_picks, bool)
    hit[a] = True
    offset = np.linalg.norm(picks.position_px[a] - truth.position_px[b], axis=1)
    return PickScore(
        n_picks=n_picks,
        n_truth=n_truth,
        n_matched=n_matched,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall) if n_matched else 0.0,
        average_precision=average_precision(hit, picks.score, n_truth),
        offset_px=float(np.median(offset)) if len(offset) else float("nan"),
        matched_pick=a,
        matched_truth=b,
    )


def average_precision(hit: np.ndarray, score: np.ndarray | None, n_truth: int) -> float:
    """Mean over the true particles of the precision at which each is found; 0 for those never found."""
    if score is None or not n_truth:
        return float("nan")
    order = np.argsort(-np.asarray(score), kind="stable")
    hits = hit[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].sum() / n_truth)

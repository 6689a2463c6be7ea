"""How a comparison is judged: the demonstration that all `compare` rows share.

A case is one set of data with known truth. Its error per method is the root mean square over its items. A gross error
is an error of one item by one method beyond `gross`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_RATIO = 1.05
LEAST_GOOD = 0.9
LEAST_HELD = 0.7
LEAST_CASES = 60


@dataclass(frozen=True)
class JudgedCase:
    """Absolute errors of the items of one case, `(n,)` each, and which are in dispute."""

    first: np.ndarray
    second: np.ndarray
    consensus: np.ndarray
    disagree: np.ndarray

    @property
    def ratio(self) -> float:
        """Error of the consensus over that of the better method."""
        single, other, both = (float(np.sqrt((e**2).mean())) for e in (self.first, self.second, self.consensus))
        return both / max(min(single, other), 1e-12)


@dataclass(frozen=True)
class Judgement:
    """Of all cases.

    Attributes
    ----------
    good
        Share of cases in which the error of the consensus is at most 1.05 times that of the better method.
    held
        Share of the gross errors of both methods that lie in items in dispute.
    disputed
        Share of items in dispute: what a person would have to look at.
    n_gross, n_cases
        Counts.
    """

    good: float
    held: float
    disputed: float
    n_gross: int
    n_cases: int

    @property
    def passes(self) -> bool:
        """What the rows ask."""
        return self.n_cases >= LEAST_CASES and self.good >= LEAST_GOOD and self.held >= LEAST_HELD

    def said(self) -> str:
        """For the record."""
        return (
            f"{self.n_cases} cases; {100 * self.held:.0f} % of {self.n_gross} gross errors lie in the "
            f"{100 * self.disputed:.0f} % of items in dispute (asked >= 70)"
        )


def figures_of(case: JudgedCase, gross: float) -> dict[str, float]:
    """What is kept of a case where cases are gathered in shards; `gross` is in the unit of the errors."""
    held = np.concatenate([case.disagree[e > gross] for e in (case.first, case.second)])
    return {
        "ratio": round(case.ratio, 4),
        "n_items": len(case.disagree),
        "n_disputed": int(case.disagree.sum()),
        "n_gross": len(held),
        "n_held": int(held.sum()),
    }


def judge_figures(figures: Sequence[dict[str, float]]) -> Judgement:
    """Judge a comparison by the figures of its cases."""
    n_gross = int(sum(f["n_gross"] for f in figures))
    return Judgement(
        good=float(np.mean([f["ratio"] <= LARGEST_RATIO for f in figures])),
        held=sum(f["n_held"] for f in figures) / n_gross if n_gross else 1.0,
        disputed=sum(f["n_disputed"] for f in figures) / sum(f["n_items"] for f in figures),
        n_gross=n_gross,
        n_cases=len(figures),
    )


def judge(cases: Sequence[JudgedCase], gross: float) -> Judgement:
    """Judge a comparison; `gross` is in the unit of the errors."""
    return judge_figures([figures_of(case, gross) for case in cases])

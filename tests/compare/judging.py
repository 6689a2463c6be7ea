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


def judge(cases: Sequence[JudgedCase], gross: float) -> Judgement:
    """Judge a comparison; `gross` is in the unit of the errors."""
    held = np.concatenate([c.disagree[e > gross] for c in cases for e in (c.first, c.second)])
    return Judgement(
        good=float(np.mean([c.ratio <= LARGEST_RATIO for c in cases])),
        held=float(held.mean()) if len(held) else 1.0,
        disputed=float(np.concatenate([c.disagree for c in cases]).mean()),
        n_gross=len(held),
        n_cases=len(cases),
    )

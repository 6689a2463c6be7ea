"""Class labels against true states."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln


@dataclass(frozen=True)
class ClassScore:
    """How well classes and states agree.

    Attributes
    ----------
    ami
        Adjusted mutual information: 1 for the same partition, 0 for what chance gives.
    purity
        Share of items whose state is the most frequent one of their class.
    accuracy
        Share of items that are right when each class stands for at most one state, in the best way.
    confusion
        Counts, `(states, classes)`.
    states, classes
        Labels of the rows and columns of `confusion`.
    populations
        Share of each state among the classes that stand for it, `(states,)`.
    """

    ami: float
    purity: float
    accuracy: float
    confusion: np.ndarray
    states: np.ndarray
    classes: np.ndarray
    populations: np.ndarray

    def summary(self) -> dict[str, object]:
        """The figures a report shows."""
        return {
            "ami": round(self.ami, 4),
            "purity": round(self.purity, 4),
            "accuracy": round(self.accuracy, 4),
            "populations": [round(float(p), 4) for p in self.populations],
            "confusion": self.confusion.tolist(),
        }


def score_classes(estimated: np.ndarray, truth: np.ndarray) -> ClassScore:
    """Compare labels `(n,)` with true states `(n,)`; any integers."""
    estimated, truth = np.asarray(estimated), np.asarray(truth)
    if estimated.shape != truth.shape or estimated.ndim != 1 or not len(truth):
        raise ValueError(f"estimated: expected the shape of the truth {truth.shape}, got {estimated.shape}")
    states, i = np.unique(truth, return_inverse=True)
    classes, j = np.unique(estimated, return_inverse=True)
    confusion = np.zeros((len(states), len(classes)), np.int64)
    np.add.at(confusion, (i, j), 1)
    rows, columns = linear_sum_assignment(-confusion)
    dominant = confusion.argmax(0)
    populations = np.asarray([confusion[:, dominant == s].sum() for s in range(len(states))]) / len(truth)
    return ClassScore(
        ami=adjusted_mutual_information(confusion),
        purity=float(confusion.max(0).sum() / len(truth)),
        accuracy=float(confusion[rows, columns].sum() / len(truth)),
        confusion=confusion,
        states=states,
        classes=classes,
        populations=populations,
    )


def adjusted_mutual_information(confusion: np.ndarray) -> float:
    """AMI of a table of counts, normalised by the mean entropy (Vinh, Epps, Bailey 2010, JMLR 11:2837)."""
    a, b = confusion.sum(1), confusion.sum(0)
    a, b = a[a > 0], b[b > 0]
    n = int(confusion.sum())
    if len(a) == 1 and len(b) == 1:
        return 1.0
    filled = confusion[confusion > 0] / n
    outer = np.outer(confusion.sum(1), confusion.sum(0))[confusion > 0] / n**2
    information = float((filled * np.log(filled / outer)).sum())
    mean_entropy = 0.5 * (_entropy(a / n) + _entropy(b / n))
    chance = _expected_information(a, b, n)
    return float((information - chance) / (mean_entropy - chance)) if abs(mean_entropy - chance) > 1e-12 else 0.0


def _entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())


def _expected_information(a: np.ndarray, b: np.ndarray, n: int) -> float:
    """Mutual information of random partitions of the same sizes (hypergeometric)."""
    total = 0.0
    for ai in a:
        for bj in b:
            low, high = max(1, int(ai + bj - n)), int(min(ai, bj))
            if high < low:
                continue
            x = np.arange(low, high + 1)
            log_p = (
                gammaln(ai + 1) + gammaln(bj + 1) + gammaln(n - ai + 1) + gammaln(n - bj + 1) - gammaln(n + 1)
                - gammaln(x + 1) - gammaln(ai - x + 1) - gammaln(bj - x + 1) - gammaln(n - ai - bj + x + 1)
            )  # fmt: skip
            total += float((x / n * np.log(n * x / (ai * bj)) * np.exp(log_p)).sum())
    return total

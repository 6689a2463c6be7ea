"""Two answers to one question: how far they lie apart, what they say together, where they disagree.

The consensus is the mean of least variance of the two (`maps.combine`), from the errors that they state. Where they
disagree by more than a tolerance, one of them is wrong and a mean would be wrong too: the answer that other data
support better is taken, if that is known. An item that one method could not answer has the other's answer and counts
as disagreement.
"""

from dataclasses import dataclass

import numpy as np

from cryoloom.maps.combine import error_of_mean, weight_of_first


@dataclass(frozen=True)
class Answers:
    """What one method says of every item.

    Attributes
    ----------
    method
        Its name in words, such as `FSC in a window`.
    values
        `(n,)` or `(n, m)`: `m` numbers per item in the unit of the comparison; NaN where the method has no answer.
    error
        Standard error of each of these numbers as the method states it, `(n,)`: in the unit of the values, or relative
        (of their logarithms) if the comparison is relative.
    support
        How well data that neither method was fitted to support the answer, higher is better, `(n,)`; None if unknown.
    """

    method: str
    values: np.ndarray
    error: np.ndarray
    support: np.ndarray | None = None


@dataclass(frozen=True)
class Comparison:
    """Two methods held together.

    Attributes
    ----------
    quantity, unit
        What is compared, in words, and its unit.
    items
        Names of the items, `(n,)`.
    first, second
        Answers of both methods.
    relative
        Whether distance, errors and tolerance are those of logarithms (0.1 is about 10 %).
    tolerance
        Largest distance that counts as agreement.
    distance
        Between the two answers of each item, `(n,)`; NaN where one is missing.
    disagree
        Items whose distance exceeds the tolerance, or that one method could not answer or not for sure, `(n,)` bool.
    consensus
        Like the values, `(n,)` or `(n, m)`.
    error
        Standard error of the consensus where the methods agree, half their distance where they do not, `(n,)`.
    """

    quantity: str
    unit: str
    items: np.ndarray
    first: Answers
    second: Answers
    relative: bool
    tolerance: float
    distance: np.ndarray
    disagree: np.ndarray
    consensus: np.ndarray
    error: np.ndarray


def compare_answers(
    quantity: str,
    unit: str,
    items: np.ndarray,
    first: Answers,
    second: Answers,
    *,
    tolerance: float,
    correlation: np.ndarray | float = 0.0,
    relative: bool = False,
    distance: np.ndarray | None = None,
    margin: float = 0.0,
    groups: np.ndarray | None = None,
    unsure: np.ndarray | None = None,
) -> Comparison:
    """Hold the answers of two methods together.

    Parameters
    ----------
    quantity, unit
        What is compared, and its unit.
    items
        Names of the items, `(n,)`.
    first, second
        Answers of both methods, of equal shape.
    tolerance
        Largest distance that counts as agreement, in the unit of the values or relative.
    correlation
        Of the errors of the two methods, which see the same data, in [-1, 1]: one number, or one per item `(n,)`.
    relative
        Compare logarithms of the values, which must then be positive.
    distance
        Distances where the root mean square over the `m` numbers is not the right one, `(n,)`.
    margin
        Difference of the support up to which it does not decide; the mean is taken then.
    groups
        Number of the group of each item, `(n,)` int. Items of one group were answered and are supported as one (frames
        of a movie): where the support decides one of them it decides them all. None: each item by itself.
    unsure
        Items for which a method would not stand by its own answer, `(n,)` bool: they count as disagreement, wherever
        the answers lie.

    Raises
    ------
    ValueError
        If the shapes do not agree, an error is negative, or values of a relative comparison are not positive.
    """
    a, b = (np.asarray(answers.values, np.float64) for answers in (first, second))
    if a.shape != b.shape or a.ndim not in (1, 2) or len(a) != len(items):
        raise ValueError(f"values: expected {len(items)} items of both methods, got {a.shape} and {b.shape}")
    s1, s2 = (np.asarray(answers.error, np.float64) for answers in (first, second))
    if s1.shape != (len(a),) or s2.shape != (len(a),) or (s1 < 0).any() or (s2 < 0).any():
        raise ValueError(f"error: expected {len(a)} errors, none below 0, got {s1.shape} and {s2.shape}")
    if relative:
        if (a <= 0).any() or (b <= 0).any():
            raise ValueError("values: expected positive numbers in a relative comparison")
        a, b = np.log(a), np.log(b)
    rows = (len(a), -1)
    apart = np.sqrt(((a - b).reshape(rows) ** 2).mean(1)) if distance is None else np.asarray(distance, np.float64)
    lacks1, lacks2 = (~np.isfinite(x.reshape(rows)).all(1) for x in (a, b))
    lacks = lacks1 | lacks2
    apart = np.where(lacks, np.nan, apart)
    disagree = lacks | (apart > tolerance)

    s1, s2 = (np.where(np.isfinite(s), s, 0.0) for s in (s1, s2))  # of answers that are missing
    weight = weight_of_first(s1, s2, correlation)
    if first.support is not None and second.support is not None:
        ahead = np.asarray(first.support) - np.asarray(second.support)
        decided = disagree & ~lacks & ~(np.abs(ahead) < margin)
        if groups is not None:
            decided = (np.bincount(groups, decided) > 0)[groups] & ~lacks & ~(np.abs(ahead) < margin)
        weight = np.where(decided, (ahead >= 0).astype(np.float64), weight)
    weight = np.where(lacks1, 0.0, np.where(lacks2, 1.0, weight))
    w = weight if a.ndim == 1 else weight[:, None]
    together = w * np.where(w > 0, a, 0.0) + (1 - w) * np.where(w < 1, b, 0.0)
    neither = lacks1 & lacks2
    together[neither] = np.nan
    error = error_of_mean(weight, s1, s2, correlation)
    error = np.where(disagree & ~lacks, np.maximum(error, 0.5 * apart), error)
    return Comparison(
        quantity=quantity,
        unit=unit,
        items=np.asarray(items),
        first=first,
        second=second,
        relative=relative,
        tolerance=tolerance,
        distance=apart,
        disagree=disagree if unsure is None else disagree | np.asarray(unsure, bool),
        consensus=np.exp(together) if relative else together,
        error=error,
    )

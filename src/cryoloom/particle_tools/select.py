"""Rows of a set by conditions: values of a column, extremes, numbers, chance."""

import re

import numpy as np

from cryoloom.contract import InputError
from cryoloom.particle_tools.merge import text_codes


def rows_with_values(column: np.ndarray, values: str) -> np.ndarray:
    """Rows `(n,)` bool whose column equals one of the comma-separated values; numbers compare as numbers."""
    words = [word.strip() for word in values.split(",") if word.strip()]
    if column.dtype.kind in "iufb":
        try:
            numbers = np.array([float(word) for word in words])
        except ValueError as error:
            raise InputError(f"--values: the column holds numbers, got {values!r}.") from error
        return np.isin(column.astype(np.float64), numbers)
    return np.isin(column.astype(str), words)


def rows_between(column: np.ndarray, least: float | None, most: float | None) -> np.ndarray:
    """Rows `(n,)` bool whose column lies between two limits, limits included; NaN lies nowhere."""
    if column.dtype.kind not in "iufb":
        raise InputError("--least, --most: the column holds text; use --values.")
    keep = ~np.isnan(column.astype(np.float64))
    if least is not None:
        keep &= column >= least
    if most is not None:
        keep &= column <= most
    return keep


def extreme_rows(column: np.ndarray, n: int, *, highest: bool, allowed: np.ndarray) -> np.ndarray:
    """The `n` allowed rows with the highest or lowest values, `(n,)` bool; of equal ones the first."""
    if column.dtype.kind not in "iufb":
        raise InputError("--highest, --lowest: the column holds text, numbers are needed.")
    rows = np.flatnonzero(allowed & ~np.isnan(column.astype(np.float64)))
    values = column[rows].astype(np.float64)
    order = np.argsort(-values if highest else values, kind="stable")[:n]
    keep = np.zeros(len(column), bool)
    keep[rows[order]] = True
    return keep


def rows_by_number(text: str, n: int) -> np.ndarray:
    """Rows `(n,)` bool named by numbers from 1 and ranges, `5,9,20-30`."""
    keep = np.zeros(n, bool)
    for word in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if not match:
            raise InputError(f"--rows: expected numbers and ranges such as 5,9,20-30, got {word!r}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= n:
            raise InputError(f"--rows: {word} is outside of the {n} rows, which count from 1.")
        keep[first - 1 : last] = True
    return keep


def equal_parts(n: int, n_parts: int, together: np.ndarray | None, random: np.random.Generator | None) -> np.ndarray:
    """Part of each row from 0, `(n,)` int64, parts of equal size up to one row (or up to the largest group).

    Parameters
    ----------
    together
        Rows of equal value stay in one part.
    random
        Decides which rows go where; None keeps them in their order.
    """
    groups = np.arange(n) if together is None else text_codes(together)
    n_groups = int(groups.max()) + 1 if n else 0
    size = np.bincount(groups, minlength=n_groups)
    if random is None:  # in the order of their first row, cut where a share is full
        first = np.full(n_groups, n)
        np.minimum.at(first, groups, np.arange(n))
        order = np.argsort(first, kind="stable")
        middle = np.cumsum(size[order]) - size[order] / 2
        part = np.empty(n_groups, np.int64)
        part[order] = np.minimum((middle * n_parts / max(n, 1)).astype(np.int64), n_parts - 1)
        return part[groups]
    if together is None:
        part = np.empty(n, np.int64)
        part[random.permutation(n)] = np.arange(n) * n_parts // max(n, 1)
        return part
    order = random.permutation(n_groups)
    order = order[np.argsort(-size[order], kind="stable")]
    filled = np.zeros(n_parts, np.int64)
    part = np.empty(n_groups, np.int64)
    for group in order:
        smallest = int(filled.argmin())
        part[group] = smallest
        filled[smallest] += size[group]
    return part[groups]

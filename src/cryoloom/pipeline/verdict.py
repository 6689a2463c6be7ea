"""One verdict for a whole run: as sure as the least sure of the steps that make and measure the map.

Doubts of earlier steps (a movie without signal, a class that is junk) are told among the reasons; what they leave out
does not make the map less sure.
"""

from collections.abc import Mapping, Sequence
from typing import Any

_ORDER = ("found", "doubtful", "not found")
_DECIDING = ("abinitio", "refine", "postprocess", "resolution")


def join_verdicts(steps: Sequence[tuple[str, Mapping[str, Any]]], *, has_map: bool) -> tuple[str, list[str]]:
    """The verdict of a run and its reasons.

    Parameters
    ----------
    steps
        Stage name and summary of each step, in order; the last of each stage counts.
    has_map
        Whether the way ended in a map.

    Returns
    -------
    verdict
        `found`, `doubtful` or `not found`.
    reasons
        The reasons of the steps that decided, each with the name of its step.
    """
    worst = "found"
    reasons: list[str] = []
    for stage, summary in steps:
        verdict = summary.get("verdict", "found")
        if stage not in _DECIDING and verdict == "found":
            continue
        if stage in _DECIDING and _ORDER.index(verdict) > _ORDER.index(worst):
            worst = verdict
        if stage in _DECIDING or verdict != "found":
            reasons += [f"{stage}: {reason}" for reason in summary.get("reasons", [])]
    if not has_map:
        worst = "not found"
        if not reasons:
            reasons.append("no map was made: the steps before it found no particles")
    return worst, reasons

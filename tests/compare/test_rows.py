"""The demonstrations of the comparisons of maps: consensus and disputes, on 60 cases of planted truth each."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cryoloom.compare.local_resolution import compare_places
from cryoloom.compare.sharpening import compare_bfactors, sharpening_window
from cryoloom.maps.global_resolution import resolution_behind
from cryoloom.maps.local_resolution import default_window
from cryoloom.maps.mask import MaskFromMap
from cryoloom.maps.windowed import WindowedHalves

sys.path.insert(0, str(Path(__file__).resolve().parent))
from judging import LEAST_CASES, JudgedCase, figures_of, judge_figures
from local_bed import PIXEL, local_case
from sharpening_bed import sharpening_case

SEEDS = range(200, 200 + LEAST_CASES)
GROSS_RATIO, GROSS_B = 0.3, 80.0
"""A local resolution wrong by 30 %, and a B-factor wrong by 80 Å2 (twice the tolerance), are gross errors."""


def windowed(half1, half2, mask, pixel_size, window_of):
    """Halves with the window that the stages choose, and their global resolution."""
    known = resolution_behind(half1, half2, pixel_size, MaskFromMap(mask, 0.0, 0.0, 0.0, 0.0, 0.0, 0))
    window = window_of(known.resolution, pixel_size)
    return WindowedHalves(half1, half2, pixel_size, mask, window), known


def judged_resolution(seed: int) -> JudgedCase:
    case = local_case(seed)
    pair, _ = windowed(case.half1, case.half2, case.mask, PIXEL, default_window)
    _, found, places = compare_places(pair)
    truth = case.truth[tuple(places.T)]
    first, second, both = (
        np.abs(np.log(values / truth)) for values in (found.first.values, found.second.values, found.consensus)
    )
    # the row asks for items on which the methods disagree, not for those that the consensus contradicts
    return JudgedCase(first, second, both, ~(found.distance <= found.tolerance))


def judged_bfactor(seed: int) -> JudgedCase:
    case = sharpening_case(seed)
    pair, known = windowed(case.half1, case.half2, case.mask, case.pixel_size, sharpening_window)
    both = compare_bfactors(pair, known)
    found, truth = both.comparison, case.bfactor[tuple(both.places.T)]
    first, both_error = np.abs(found.first.values - truth), np.abs(found.consensus - truth)
    # a place where the local method has no answer speaks neither for nor against it
    second = np.where(np.isfinite(found.second.values), np.abs(found.second.values - truth), first)
    return JudgedCase(first, second, both_error, found.disagree)


def gathered(evidence, judged, gross):
    """The judgement over all cases, those of this shard computed where they are missing."""
    i, n = evidence.shard
    done = {case["seed"] for case in evidence.cases()}
    for seed in list(SEEDS)[i - 1 :: n]:
        if seed not in done:
            evidence.append(seed=seed, outcome="measured", **figures_of(judged(seed), gross))
    return judge_figures(evidence.cases())


@pytest.mark.slow
@pytest.mark.capability("CMP-8")
def test_local_resolution_by_both_methods_is_as_good_as_the_better_one(measure, evidence):
    found = gathered(evidence, judged_resolution, GROSS_RATIO)
    note = f"FSC in a window, significance of the signal; {found.said()}"
    measure(round(100 * found.good, 1), "% of cases within 1.05 of the better method", ">= 90", note=note)
    assert found.passes, found


@pytest.mark.slow
@pytest.mark.capability("CMP-9")
def test_the_b_factor_of_both_methods_is_as_good_as_the_better_one(measure, evidence):
    found = gathered(evidence, judged_bfactor, GROSS_B)
    note = f"Guinier fit, local fit; {found.said()}"
    measure(round(100 * found.good, 1), "% of cases within 1.05 of the better method", ">= 90", note=note)
    assert found.passes, found

"""The comparisons of maps as stages."""

import sys
from pathlib import Path

import numpy as np

from cryoloom.compare.local_resolution import compare_local_resolution
from cryoloom.compare.settings import CompareResolutionSettings, CompareSharpeningSettings
from cryoloom.compare.sharpening import (
    compare_bfactors,
    compare_sharpening,
    largest_nearby,
    sharpening_window,
    true_spread,
)
from cryoloom.data import VolumeMap
from cryoloom.maps.global_resolution import resolution_behind
from cryoloom.maps.mask import MaskFromMap
from cryoloom.maps.windowed import WindowedHalves

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from local_bed import PIXEL, local_case
from memory_run import MemoryRun
from sharpening_bed import sharpening_case


def test_local_resolution_by_two_methods(tmp_path):
    case, run = local_case(10), MemoryRun(tmp_path)
    maps = [VolumeMap(x.numpy(), PIXEL) for x in (case.half1, case.half2, case.mask)]
    found = compare_local_resolution(*maps, CompareResolutionSettings(), run)
    inside = case.mask.numpy() > 0.5
    for name in ("local_consensus", "local_resolution", "local_significance"):
        assert abs(np.median(np.log(found[name].data[inside] / case.truth[inside]))) < 0.08
    assert run.summary["n_in"] > 100 and run.summary["relative"] and run.summary["median_difference"] < 0.1
    assert {"methods", "differences", "where"} <= {figure.name for figure in run.figures}
    assert (tmp_path / "comparison.json").exists()


def test_sharpening_by_two_methods(tmp_path):
    case, run = sharpening_case(11), MemoryRun(tmp_path)
    maps = [VolumeMap(x.numpy(), case.pixel_size) for x in (case.half1, case.half2, case.mask)]
    found = compare_sharpening(*maps, CompareSharpeningSettings(), run)
    inside = case.mask.numpy() > 0.9
    low, high = (np.median(found["bfactor_consensus"].data[inside & part]) for part in (case.sharp, ~case.sharp))
    assert high > low + 20 and run.summary["bfactor_spread"] > 10
    assert np.isfinite(found["map_consensus"].data).all() and any("quantitative" in w for w in run.warnings)


def test_the_true_spread_is_what_errors_do_not_explain():
    rng = np.random.default_rng(0)
    error = rng.uniform(10, 30, 20_000)
    values = 100 + 25 * rng.normal(size=20_000) + error * rng.normal(size=20_000)
    assert abs(true_spread(values, error, 100.0) - 25) < 1.5
    assert true_spread(100 + error * rng.normal(size=20_000), error, 100.0) < 5


def test_one_b_factor_everywhere_is_that_of_the_whole_map_and_differences_are_local():
    for seed, alike in ((0, True), (1, False)):
        case = sharpening_case(seed)
        known = resolution_behind(case.half1, case.half2, case.pixel_size, MaskFromMap(case.mask, 0, 0, 0, 0, 0, 0))
        window = sharpening_window(known.resolution, case.pixel_size)
        pair = WindowedHalves(case.half1, case.half2, case.pixel_size, case.mask, window)
        both = compare_bfactors(pair, known)
        own = both.local.drawn_to(both.guinier.bfactor, 1e4)
        nearer = (both.together - own).abs() < (both.together - both.guinier.bfactor).abs()
        assert bool(nearer[case.mask > 0.9].float().mean() > 0.9) is not alike
        at = tuple(both.places.T)
        np.testing.assert_allclose(both.comparison.consensus, both.together.numpy()[at], rtol=0.02, atol=1.0)


def test_the_largest_value_nearby_is_found_and_a_missing_one_stays_missing():
    positions = np.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [5.5, 0, 0]])
    found = largest_nearby(np.array([1.0, 3.0, 2.0, np.nan]), positions, 2.0)
    np.testing.assert_array_equal(found, [3.0, 3.0, 2.0, np.nan])

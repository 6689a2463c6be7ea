"""The comparisons of maps as stages."""

import sys
from pathlib import Path

import numpy as np
import torch

from cryoloom.compare.local_resolution import compare_local_resolution
from cryoloom.compare.settings import CompareResolutionSettings, CompareSharpeningSettings
from cryoloom.compare.sharpening import compare_sharpening, true_spread
from cryoloom.data import VolumeMap

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


def test_the_consensus_of_sharpening_is_that_of_the_contract():
    from cryoloom.compare.agreement import Answers, compare_answers
    from cryoloom.maps.local_filter import SlopeFit

    fit = SlopeFit(torch.zeros(4))
    for k, value in ((0.1, 1.0), (0.2, 0.2), (0.25, -0.5)):
        fit.add(k, torch.full((4,), value), torch.full((4,), 0.5), torch.ones(4), 50.0)
    alone, error = (x.numpy().astype(np.float64) for x in fit.alone())
    both = compare_answers(
        "B", "Å²", np.arange(4), Answers("g", np.full(4, 80.0), np.full(4, 20.0)), Answers("l", alone, error),
        tolerance=1e9,
    )  # fmt: skip
    np.testing.assert_allclose(fit.drawn_to(80.0, 20.0).numpy(), both.consensus, rtol=1e-4)


def test_a_place_whose_bands_share_nothing_has_no_local_answer():
    from cryoloom.maps.local_filter import SlopeFit

    fit = SlopeFit(torch.zeros(3))
    for k in (0.1, 0.2):
        alive = torch.tensor([1.0, float(k < 0.15), 0.0])
        fit.add(k, torch.full((3,), -k), torch.full((3,), 0.5), alive, 50.0)
    alone, error = fit.alone()
    assert torch.isfinite(alone).tolist() == [True, False, False] and torch.isinf(error).tolist() == [False, True, True]
    np.testing.assert_allclose(fit.drawn_to(90.0, 20.0)[1:].numpy(), 90.0, rtol=1e-5)

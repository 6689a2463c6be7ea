"""The comparison of templates and a network that look for particles."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cryoloom.compare.picking import TwoPickers, compare_pickers, two_pickers
from cryoloom.io.records import read_picks
from cryoloom.picking.calibrate import calibrate
from cryoloom.picking.consensus.pool import SUREST, pool
from cryoloom.picking.consensus.views import Views
from cryoloom.picking.looked_for import MicrographImages, look_for
from cryoloom.picking.settings import PickSettings
from cryoloom.project.runner import run_stage

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from judging import LEAST_CASES, JudgedCase, figures_of, judge_figures
from memory_run import MemoryRun
from picking_groups import PIXEL, make_group

PER_GROUP, GROSS = 6, 0.5
"""Micrographs of one particle; half of them train the network that the others are judged with. A gross error is the
wrong verdict: a probability on the wrong side of one half."""


class EachRun(MemoryRun):
    """A run whose items are done one after the other."""

    def each(self, items, fn, key=None, label=""):
        return [fn(item) for item in items]

    def log(self, text):
        pass


def judged_micrographs(folder: Path, seed: int) -> tuple[list[JudgedCase], bool]:
    """Cases of one particle: each micrograph is one, judged by a network that has not seen it; whether there is one."""
    group = make_group(folder, seed, PER_GROUP)
    run = EachRun(folder)
    load, settings = MicrographImages(group.micrographs, run), PickSettings(method="consensus")
    what = look_for(group.micrographs, load, group.references, None, settings, run, profile=True)
    found = two_pickers(group.micrographs, load, what, settings, run)
    comparison = compare_pickers(np.arange(len(found.row)), found, ("templates", "network"), 0.2)
    cases = []
    for i, places in enumerate(group.places):
        own = found.row == i
        away = np.linalg.norm(found.position_px[own][:, None] - places[None], axis=-1).min(1)
        truth = (away < 0.35 * group.diameter / PIXEL).astype(float)
        answers = (comparison.first.values, comparison.second.values, comparison.consensus)
        cases.append(JudgedCase(*(np.abs(values[own] - truth) for values in answers), comparison.disagree[own]))
    return cases, found.trained


@pytest.mark.slow
@pytest.mark.capability("CMP-3")
def test_picks_by_both_methods_are_as_good_as_those_of_the_better_one(tmp_path, measure, evidence):
    i, n = evidence.shard
    done = {case["seed"] // PER_GROUP for case in evidence.cases()}
    for group in range(i - 1, LEAST_CASES // PER_GROUP, n):
        if group in done:
            continue
        cases, trained = judged_micrographs(tmp_path, group)
        for number, case in enumerate(cases):
            # without a network the answer is that of the templates, and all of it is in dispute
            outcome = "measured" if trained else "no network"
            evidence.append(seed=PER_GROUP * group + number, outcome=outcome, **figures_of(case, GROSS))
    found = judge_figures(evidence.cases())
    note = (
        f"templates, network trained on other micrographs; {LEAST_CASES // PER_GROUP} particles of 70 kDa to 1.5 MDa, "
        f"SNR 0.04-0.1, each on {PER_GROUP} micrographs, two of them with carbon, ice and aggregates; {found.said()}"
    )
    measure(round(100 * found.good, 1), "% of cases within 1.05 of the better method", ">= 90", note=note)
    assert found.passes, found


def test_places_where_the_methods_or_the_looks_disagree_are_in_dispute():
    alone = np.asarray([[0.9, 0.95], [0.9, 0.1], [0.9, 0.95], [0.05, 0.1]])
    pooled, together = np.asarray([0.97, 0.5, 0.97, 0.02]), np.asarray([0.95, 0.5, 0.1, 0.05])
    both = compare_pickers(np.arange(4), TwoPickers(np.zeros(4, int), np.zeros((4, 2)), alone, pooled, together),
                           ("a", "b"), 0.2)  # fmt: skip
    assert both.disagree.tolist() == [False, True, True, False]
    assert np.array_equal(both.consensus, pooled)


def test_without_a_network_the_first_method_answers_and_all_is_in_dispute():
    alone = np.asarray([[0.9, np.nan], [0.3, np.nan], [0.001, np.nan]])
    found = TwoPickers(np.zeros(3, int), np.zeros((3, 2)), alone, alone[:, 0], np.asarray([0.9, 0.3, 0.1]))
    both = compare_pickers(np.arange(3), found, ("a", "b"), 0.2)
    assert not found.trained and both.disagree.all()
    assert np.allclose(both.consensus, [0.9, 0.3, SUREST])


def test_pooled_odds_follow_the_picker_that_separates_on_these_micrographs():
    # of 600 candidates, 200 are particles; the first picker tells them apart, the second cannot
    rng = np.random.default_rng(5)
    truth = np.arange(600) < 200
    scores = np.column_stack([rng.normal(4, 0.7, 600) + 3.0 * truth, rng.normal(4, 0.7, 600)])
    decoys = rng.normal(4, 0.7, (400, 2))

    def views(values: np.ndarray) -> Views:
        n, no = len(values), np.zeros(len(values), bool)
        return Views(rng.uniform(0, 900, (n, 2)), values, np.zeros((n, 6)), no, no, np.ones(n))

    def error(chance: np.ndarray) -> float:
        return float(np.sqrt(((chance - truth) ** 2).mean()))

    places, noise = views(scores), views(decoys)
    pooled = pool(places, noise, np.arange(600) % 6, np.arange(400) % 6)
    single = calibrate(scores[:, 0], decoys[:, 0], false_picks=0.5, least_probability=0.0).probability(scores[:, 0])
    assert error(pooled) < 1.05 * error(np.clip(single, SUREST, 1 - SUREST)) < 0.25
    beaten = Views(places.position_px, scores, places.looks, places.masked, np.arange(600) == 0, places.border)
    assert pool(beaten, noise, np.arange(600) % 6, np.arange(400) % 6)[0] <= SUREST < pooled[0]


@pytest.mark.slow
def test_both_methods_look_at_a_set_and_the_places_in_dispute_are_named(tmp_path):
    group = make_group(tmp_path, 3, 2, size=768)
    inputs = {"micrographs": group.micrographs, "references": group.references}
    done = run_stage("compare picking", inputs, {"steps": 40}, out=tmp_path / "compare", threads=1)
    picks = read_picks(done["picks"])
    assert done.summary["n_in"] > len(picks) > 0.5 * sum(len(p) for p in group.places)
    assert (done.folder / "comparison.json").exists() and set(picks.class_number) <= {1, 2}

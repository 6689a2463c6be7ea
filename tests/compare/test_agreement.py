"""Two answers to one question: consensus, disputes, and what is left of them on the disk."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cryoloom.compare.agreement import Answers, compare_answers
from cryoloom.compare.show import show_comparison

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun


def names(n):
    return np.array([f"item {i}" for i in range(n)])


def test_the_consensus_has_the_least_variance_of_all_means():
    rng = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.8], [0.8, 4.0]])
    values = rng.multivariate_normal([0, 0], covariance, size=20_000)
    first, second = (Answers(m, values[:, i], np.full(20_000, np.sqrt(covariance[i, i]))) for i, m in enumerate("ab"))
    found = compare_answers("x", "", names(20_000), first, second, tolerance=100.0, correlation=0.4)
    spread = [np.std(w * values[:, 0] + (1 - w) * values[:, 1]) for w in np.linspace(0, 1, 101)]
    assert np.std(found.consensus) == pytest.approx(min(spread), rel=1e-3)
    np.testing.assert_allclose(found.error, np.std(found.consensus), rtol=0.02)


def test_items_in_dispute_follow_the_support_of_other_data():
    first = Answers("a", np.array([1.0, 1.0, 1.0]), np.full(3, 0.1), np.array([5.0, 5.0, 1.0]))
    second = Answers("b", np.array([1.2, 9.0, 9.0]), np.full(3, 0.1), np.array([1.0, 1.0, 5.0]))
    found = compare_answers("x", "Å", names(3), first, second, tolerance=1.0)
    assert found.disagree.tolist() == [False, True, True]
    np.testing.assert_allclose(found.consensus, [1.1, 1.0, 9.0])
    assert found.error[1] == pytest.approx(4.0)


def test_an_answer_that_is_missing_is_a_dispute_and_the_other_is_taken():
    first = Answers("a", np.array([[1.0, 2.0], [np.nan, 2.0], [np.nan, np.nan]]), np.ones(3))
    second = Answers("b", np.array([[3.0, 2.0], [5.0, 6.0], [np.nan, 1.0]]), np.ones(3))
    found = compare_answers("x", "Å", names(3), first, second, tolerance=2.0)
    assert found.disagree.tolist() == [False, True, True]
    np.testing.assert_allclose(found.distance, [np.sqrt(2), np.nan, np.nan])
    np.testing.assert_allclose(found.consensus, [[2.0, 2.0], [5.0, 6.0], [np.nan, np.nan]])


def test_a_relative_comparison_works_on_logarithms():
    first, second = Answers("a", np.array([2.0]), np.array([0.1])), Answers("b", np.array([8.0]), np.array([0.1]))
    found = compare_answers("x", "Å", names(1), first, second, tolerance=0.2, relative=True)
    assert found.consensus[0] == pytest.approx(4.0) and found.distance[0] == pytest.approx(np.log(4))
    with pytest.raises(ValueError, match="positive"):
        compare_answers(
            "x", "Å", names(1), first, Answers("b", np.array([-1.0]), np.ones(1)), tolerance=1, relative=True
        )


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="values"):
        compare_answers(
            "x", "", names(2), Answers("a", np.ones(2), np.ones(2)), Answers("b", np.ones(3), np.ones(3)), tolerance=1
        )
    with pytest.raises(ValueError, match="error"):
        compare_answers(
            "x", "", names(2), Answers("a", np.ones(2), -np.ones(2)), Answers("b", np.ones(2), np.ones(2)), tolerance=1
        )


def test_what_is_shown_names_the_disputes(tmp_path):
    run, rng = MemoryRun(tmp_path), np.random.default_rng(1)
    values = rng.normal(size=(40, 3))
    other = values + 0.01
    other[[3, 7, 8, 9, 30]] += 5.0
    found = compare_answers(
        "shift", "Å", names(40), Answers("a", values, np.ones(40)), Answers("b", other, np.ones(40)), tolerance=1.0
    )
    show_comparison(found, run, pixel_size=1.5)
    assert run.summary["verdict"] == "doubtful" and run.summary["n_disagree"] == 5 and run.warnings
    assert run.summary["disagree"] == [f"item {i}" for i in (3, 7, 8, 9, 30)] and run.summary["pixel_size"] == 1.5
    assert {figure.name for figure in run.figures} == {"differences", "disputed"}
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["disagree"] for row in written["items"]] == found.disagree.tolist()
    assert written["items"][3]["consensus"] == pytest.approx(found.consensus[3].tolist(), abs=1e-5)


def test_support_that_hardly_differs_does_not_decide():
    first = Answers("a", np.array([1.0, 1.0]), np.full(2, 0.1), np.array([5.0, 5.0]))
    second = Answers("b", np.array([9.0, 9.0]), np.full(2, 0.1), np.array([5.5, 8.0]))
    found = compare_answers("x", "Å", names(2), first, second, tolerance=1.0, margin=1.0)
    np.testing.assert_allclose(found.consensus, [5.0, 9.0])
    np.testing.assert_allclose(found.error, [4.0, 4.0])


def test_what_was_answered_as_one_is_decided_as_one():
    first = Answers("a", np.array([1.0, 1.0, 1.0, 1.0]), np.full(4, 0.1), np.array([9.0, 9.0, 5.0, 5.0]))
    second = Answers("b", np.array([9.0, 1.2, 1.2, 1.2]), np.full(4, 0.1), np.array([2.0, 2.0, 9.0, 9.0]))
    found = compare_answers("x", "Å", names(4), first, second, tolerance=1.0, groups=np.array([0, 0, 1, 1]))
    assert found.disagree.tolist() == [True, False, False, False]
    np.testing.assert_allclose(found.consensus, [1.0, 1.0, 1.1, 1.1])


def test_what_a_method_would_not_stand_by_is_in_dispute_wherever_the_answers_lie():
    first = Answers("a", np.array([1.0, 1.0]), np.full(2, 0.1))
    second = Answers("b", np.array([1.2, 1.2]), np.full(2, 0.1))
    found = compare_answers("x", "Å", names(2), first, second, tolerance=1.0, unsure=np.array([True, False]))
    assert found.disagree.tolist() == [True, False]
    np.testing.assert_allclose(found.consensus, [1.1, 1.1])

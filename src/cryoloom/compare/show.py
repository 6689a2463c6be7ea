"""What a comparison leaves behind: `comparison.json`, the figures of the summary, and pictures."""

import json
from typing import Any

import numpy as np

from cryoloom.compare.agreement import Comparison
from cryoloom.contract import Figure, Run
from cryoloom.io.atomic import write_whole

MOST_DISAGREEMENT = 0.1
"""Share of items on which two methods may disagree before the comparison is called doubtful."""

MOST_ROWS = 20_000
MOST_NAMED = 30


def show_comparison(comparison: Comparison, run: Run, **figures: Any) -> None:
    """Write items, summary and figures of a comparison.

    Parameters
    ----------
    comparison
        What to show.
    run
        Of the stage.
    **figures
        More figures for the summary.
    """
    n, apart = len(comparison.items), int(comparison.disagree.sum())
    known = comparison.distance[np.isfinite(comparison.distance)]
    median, high = (float(q) for q in np.quantile(known, [0.5, 0.95])) if len(known) else (np.nan, np.nan)
    said = (
        f"{comparison.first.method} and {comparison.second.method} agree on {n - apart} of {n} items within "
        f"{_say(comparison, comparison.tolerance)}; the median difference is {_say(comparison, median)}."
    )
    reasons = [said]
    doubtful = apart > MOST_DISAGREEMENT * n
    if doubtful:
        reasons.append(f"They disagree on {100 * apart / n:.0f} % of the items: look at these before you use them.")
        run.warn(reasons[-1])
    _write_items(comparison, run)
    run.summarise(
        verdict="doubtful" if doubtful or not len(known) else "found",
        reasons=reasons,
        n_in=n,
        n_out=n - apart,
        quantity=comparison.quantity,
        unit=comparison.unit,
        methods=[comparison.first.method, comparison.second.method],
        relative=comparison.relative,
        tolerance=comparison.tolerance,
        median_difference=_number(median),
        difference_95_percent=_number(high),
        n_disagree=apart,
        disagree=[str(name) for name in comparison.items[comparison.disagree][:MOST_NAMED]],
        **figures,
    )
    _draw(comparison, known, run)


def _say(comparison: Comparison, distance: float) -> str:
    return f"{100 * distance:.1f} %" if comparison.relative else f"{distance:.3g} {comparison.unit}"


def _number(value: float) -> float | None:
    return round(value, 5) if np.isfinite(value) else None


def _write_items(comparison: Comparison, run: Run) -> None:
    rows = []
    chosen = np.arange(len(comparison.items))
    if len(chosen) > MOST_ROWS:  # those in dispute first, the others thinned out
        rest = chosen[~comparison.disagree]
        room = max(MOST_ROWS - int(comparison.disagree.sum()), 1)
        chosen = np.sort(np.concatenate([chosen[comparison.disagree], rest[:: len(rest) // room + 1]]))
    for i in chosen:
        rows.append(
            {
                "item": str(comparison.items[i]),
                "first": _list(comparison.first.values[i]),
                "first_error": _number(float(comparison.first.error[i])),
                "second": _list(comparison.second.values[i]),
                "second_error": _number(float(comparison.second.error[i])),
                "distance": _number(float(comparison.distance[i])),
                "disagree": bool(comparison.disagree[i]),
                "consensus": _list(comparison.consensus[i]),
                "error": _number(float(comparison.error[i])),
            }
        )
    head = {
        "quantity": comparison.quantity,
        "unit": comparison.unit,
        "first": comparison.first.method,
        "second": comparison.second.method,
        "relative": comparison.relative,
        "tolerance": comparison.tolerance,
        "n_items": len(comparison.items),
    }
    with write_whole(run.folder / "comparison.json") as file:
        file.write(json.dumps(head | {"items": rows}, indent=1).encode() + b"\n")


def _list(value: Any) -> Any:
    """A number or a list of them; None for what is not finite."""
    array = np.asarray(value, np.float64)
    return _number(float(array)) if array.ndim == 0 else [_number(float(v)) for v in array]


def _draw(comparison: Comparison, known: np.ndarray, run: Run) -> None:
    thin = slice(None, None, max(1, len(comparison.items) // 5000))
    first, second = (np.asarray(answers.values) for answers in (comparison.first, comparison.second))
    if first.ndim == 1:
        run.show(
            Figure(
                name="methods",
                kind="scatter",
                title="One method against the other",
                caption="Each point is an item; bright ones are in dispute. Points far from the diagonal are where one "
                "method is wrong.",
                x_label=f"{comparison.first.method} ({comparison.unit})",
                y_label=f"{comparison.second.method} ({comparison.unit})",
                data={
                    "x": first[thin],
                    "y": second[thin],
                    "values": comparison.disagree[thin].astype(np.float64),
                    "equal": True,
                },
            )
        )
    scale, unit = (100.0, "%") if comparison.relative else (1.0, comparison.unit)
    run.show(
        Figure(
            name="differences",
            kind="histogram",
            title="Difference between the methods",
            caption="Of all items. Right of the line the methods disagree.",
            x_label=f"difference in {comparison.quantity} ({unit})",
            y_label="items",
            data={"values": scale * known, "lines": {"tolerance": scale * comparison.tolerance}},
        )
    )
    worst = np.argsort(-np.nan_to_num(comparison.distance, nan=np.inf), kind="stable")
    worst = worst[comparison.disagree[worst]][:MOST_NAMED]
    if len(worst):
        run.show(
            Figure(
                name="disputed",
                kind="table",
                title="Items on which the methods disagree",
                caption="The worst first.",
                data={
                    "columns": {
                        "item": [str(name) for name in comparison.items[worst]],
                        f"{comparison.first.method} ({comparison.unit})": [_list(v) for v in first[worst]],
                        f"{comparison.second.method} ({comparison.unit})": [_list(v) for v in second[worst]],
                        f"difference ({unit})": [_number(float(scale * d)) for d in comparison.distance[worst]],
                        f"consensus ({comparison.unit})": [_list(v) for v in comparison.consensus[worst]],
                    }
                },
            )
        )

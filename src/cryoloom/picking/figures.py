"""Figures of a picking job: picks on a few micrographs, the histogram of scores, and the picks of each template."""

from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, Run
from cryoloom.data import MicrographSet, PickSet
from cryoloom.data.names import stem_of as stem_of
from cryoloom.picking.decide import Decision
from cryoloom.picking.reduce import flatten_background, reduce_micrograph

N_FIGURES = 4


def show_picks(micrographs: MicrographSet, decision: Decision, diameter: float, unit: str, load: Any, run: Run) -> None:
    """Picks on a few micrographs, and the histogram of scores with the threshold; `unit` is that of the scores."""
    picks, scores, usable = decision.picks, decision.scores, decision.searched
    lines = {"threshold": decision.threshold} if np.isfinite(decision.threshold) else {}
    if len(scores):
        run.show(
            Figure(
                name="scores",
                kind="histogram",
                title="Scores of all candidates",
                caption="Candidates right of the threshold are picks. A good threshold lies in the valley between "
                "noise (left) and particles (right).",
                x_label=f"Score ({unit})",
                y_label="Candidates",
                data={"values": scores, "lines": lines},
            )
        )
    if picks.class_number is not None and len(picks):
        run.show(_by_class(picks))
    for number, i in enumerate(np.unique(np.linspace(0, len(usable) - 1, N_FIGURES).astype(int)) if usable else []):
        row = usable[i]
        image, pixel_size = load(row)
        h = image.shape[0]
        reduced = reduce_micrograph(image, pixel_size, max(pixel_size, h * pixel_size / 1024), dark=False)
        flat = flatten_background(reduced.image, 2 * diameter / reduced.mean_pixel_size)
        own = picks.select(picks.micrograph == micrographs.path[row])
        points = reduced.from_micrograph(torch.from_numpy(np.asarray(own.position_px, dtype=np.float64)))
        run.show(
            Figure(
                name=f"picks_{number + 1}",
                kind="image",
                title=f"{stem_of(str(micrographs.path[row]))}: {len(own)} picks",
                caption="Circles have the diameter that was found or given; colour is the probability of each pick.",
                data={
                    "image": flat.cpu().numpy(),
                    "pixel_size": reduced.mean_pixel_size,
                    "points": points.cpu().numpy(),
                    "values": own.probability,
                    "radius": 0.5 * diameter / reduced.mean_pixel_size,
                },
            )
        )


def _by_class(picks: PickSet) -> Figure:
    """How many picks each template has, and how sure they are."""
    assert picks.class_number is not None
    classes, row, counts = np.unique(picks.class_number, return_inverse=True, return_counts=True)
    columns: dict[str, Any] = {"template": classes.tolist(), "picks": counts.tolist()}
    for name, values in (("median score", picks.score), ("median probability", picks.probability)):
        if values is not None:
            columns[name] = [round(float(np.median(values[row == i])), 3) for i in range(len(classes))]
    return Figure(
        name="classes",
        kind="table",
        title="Picks by template",
        caption="A template that few or unlikely picks look like is no view of this particle.",
        data={"columns": columns},
    )

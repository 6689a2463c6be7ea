"""Figures of a picking job: picks on a few micrographs, and the histogram of scores."""

from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, Run
from cryoloom.data import MicrographSet
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

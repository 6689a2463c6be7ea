"""The diameter and the contrast that a set of micrographs agrees on; see `scale`."""

from typing import Any

import numpy as np

from cryoloom.contract import Figure, Run
from cryoloom.data import MicrographSet
from cryoloom.picking.learn import transfer_of
from cryoloom.picking.matched import scales
from cryoloom.picking.scale import Scale, decide_scale
from cryoloom.picking.search import survey_scales
from cryoloom.picking.settings import PickSettings


def survey_micrographs(
    micrographs: MicrographSet, load: Any, name_of: Any, diameter: float | None, settings: PickSettings, run: Run
) -> Scale:
    """Diameter and contrast that the micrographs agree on; a given diameter is only looked around."""
    finest = max(group.pixel_size for group in micrographs.optics)
    if diameter is None:
        diameters, most = scales(max(settings.diameter_min, 8 * finest), settings.diameter_max), 100
    else:
        diameters, most = [diameter / 1.25, diameter, 1.25 * diameter], 8
    n = len(micrographs)
    chosen = [int(row) for row in np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))]

    def survey(row: int) -> dict[str, Any]:
        image, pixel_size = load(row)
        bright, dark = survey_scales(
            image, pixel_size, transfer_of(micrographs, row), diameters, exclude=settings.exclude
        )
        return {"bright": np.round(bright, 2), "dark": np.round(dark, 2)}

    stored = run.each(chosen, survey, key=name_of, label="Finding the size")
    done = [entry for entry in stored if entry is not None]
    scale = decide_scale(diameters, *(np.asarray([entry[side] for entry in done]) for side in ("bright", "dark")))
    run.log(f"diameter {scale.diameter:.0f} Å, particles {'dark' if scale.dark else 'bright'}, clear: {scale.clear}")
    if diameter is None:
        run.summarise(diameter_evidence={"diameter": [round(d, 1) for d in diameters], "votes": scale.votes})
        run.show(
            Figure(
                name="diameter",
                kind="curves",
                title="Which diameter fits the particles",
                caption="Each particle votes for the diameter of the round filter that fits it best; what is inverted "
                "votes against. The diameter is the upper end of the main peak, since some views are narrow.",
                x_label="Diameter (Å)",
                y_label="Votes",
                data={"x": np.asarray(diameters), "y": {"all micrographs": scale.votes}},
            )
        )
    return scale

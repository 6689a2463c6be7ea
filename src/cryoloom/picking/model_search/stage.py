"""Stage `search-model`: micrographs and a model in, the places and poses at which it is seen out."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, InputError, Run, WorkFailed, stage
from cryoloom.data import MicrographSet, PickSet
from cryoloom.fourier import good_size
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry.rotation import matrix_to_euler
from cryoloom.io.images import read_micrograph
from cryoloom.io.records import write_coordinates
from cryoloom.optics.delocalisation import displacement
from cryoloom.picking.figures import stem_of
from cryoloom.picking.learn import transfer_of
from cryoloom.picking.matched import Transfer
from cryoloom.picking.model_search.match import BYTES_PER_PIXEL, search, template_filters, view_images, whiten
from cryoloom.picking.model_search.settings import SEARCH_MODEL, SearchModelSettings
from cryoloom.picking.model_search.template import SearchTemplate, in_box, load_template, search_views
from cryoloom.picking.model_search.threshold import measure_clumps, threshold_for
from cryoloom.picking.peaks import find_peaks

_APART = 0.5  # smallest distance of two picks, diameters
_LOCAL = 3.0  # diameters, standard deviation of the neighbourhood whose mean and deviation scores are counted from
_MOST_AT_ONCE = 64
_POSE = ("cryoloomModelRot", "cryoloomModelTilt", "cryoloomModelPsi")


@stage(SEARCH_MODEL)
def search_model(
    micrographs: MicrographSet, model: Path, settings: SearchModelSettings, run: Run
) -> dict[str, PickSet]:
    """Search micrographs with a model; see `SearchModelSettings`."""
    defocus = micrographs.defocus_u
    if defocus is None:
        raise InputError("The search needs the CTF of each micrograph; run `ctf` first.")
    finest = max(group.pixel_size for group in micrographs.optics)
    working = max(finest, (settings.resolution or 0.0) / 2)
    template = load_template(model, working, settings.map_pixel_size)
    step = math.radians(settings.angle_step_deg) if settings.angle_step_deg else 2 * working / template.diameter
    views = search_views(step, settings.symmetry)
    offsets = defocus_offsets(settings.defocus_range, settings.defocus_step)

    def name_of(row: int) -> str:
        return str(micrographs.path[row])

    def look(row: int) -> dict[str, Any]:
        optics = micrographs.optics[int(micrographs.optics_index[row])]
        if not np.isfinite(defocus[row]):
            raise InputError(f"{micrographs.path[row]}: its defocus is not known; run `ctf` first.")
        transfer = transfer_of(micrographs, row)
        image = torch.from_numpy(read_micrograph(micrographs.path[row])).to(run.device)
        generator = run.generator("clumps", name_of(row))
        return search_one(
            image, optics.pixel_size, transfer, template, views, offsets, settings, generator,
            memory=run.memory_budget // max(1, run.executor.n_workers),
        )  # fmt: skip

    rows = list(range(len(micrographs)))
    found = run.each(rows, look, key=name_of, label="Searching with the model")
    if not any(entry is not None for entry in found):
        raise WorkFailed("No micrograph could be searched; the causes are in run.log.")
    picks = _picks(micrographs, found, template.diameter)
    for row in rows:
        if found[row] is not None:
            own = picks.select(picks.micrograph == str(micrographs.path[row]))
            write_coordinates(own, run.folder / "coordinates" / f"{stem_of(name_of(row))}.star")
    done = [entry for entry in found if entry is not None]
    expected = settings.false_picks * len(done)
    run.summarise(
        verdict="found" if len(picks) > expected + 3 * math.sqrt(expected) else "not found",
        reasons=[] if len(picks) > expected + 3 * math.sqrt(expected) else ["no more picks than noise gives"],
        n_in=len(micrographs),
        n_out=len(picks),
        expected_false_picks=round(expected, 2),
        threshold=round(float(np.median([entry["threshold"] for entry in done])), 3),
        n_views=len(views),
        n_defoci=len(offsets),
        angle_step_deg=round(math.degrees(step), 2),
        working_pixel_size=round(done[0]["pixel_size"], 3),
        diameter=round(template.diameter, 1),
    )
    _show(done, run)
    return {"picks": picks}


def search_one(
    image: torch.Tensor,
    pixel_size: float,
    transfer: Transfer,
    template: SearchTemplate,
    views: torch.Tensor,
    offsets: list[float],
    settings: SearchModelSettings,
    generator: torch.Generator,
    *,
    memory: int,
) -> dict[str, Any]:
    """Picks of one micrograph `(h, w)` as lists: position in its pixels, score, Euler angles, offset of the defocus."""
    white = whiten(image, pixel_size, template.pixel_size, template.diameter)
    h, w = white.shape
    box = min(_box_for(template, transfer, max(offsets, default=0.0)), 2 * (min(h, w) // 2))
    filters = template_filters(white, transfer, box, offsets, settings.bfactor)
    spectrum = prepare_volume(in_box(template, box).to(white.dft.device))
    at_once = max(1, min(_MOST_AT_ONCE, memory // (BYTES_PER_PIXEL * h * w)))
    views = views.to(white.dft.device)
    searched = search(white, spectrum, views, filters, at_once=at_once)
    clumps = measure_clumps(
        lambda r: view_images(spectrum, r, filters), views, len(filters), settings.symmetry, generator
    )
    threshold = threshold_for(settings.false_picks, float(h) * w * searched.n, clumps.share)
    window = template.diameter / white.pixel_size
    score = searched.score(_LOCAL * window)
    place, value = find_peaks(score, _APART * window, lowest=threshold)
    at = np.clip(np.rint(place).astype(int), 0, np.array([h, w]) - 1)
    which = searched.which.cpu().numpy()[at[:, 0], at[:, 1]].astype(np.int64)
    euler = np.rad2deg(matrix_to_euler(views[which // len(filters)]).cpu().numpy()).reshape(-1, 3)
    position = white.reduced.to_micrograph(torch.from_numpy(place)).numpy()
    return {
        "position": position.tolist(),
        "score": value.tolist(),
        "euler": np.round(euler, 3).tolist(),
        "defocus_offset": [offsets[i] for i in which % len(filters)],
        "threshold": threshold,
        "pixel_size": white.pixel_size,
        "highest": float(score.max()),
        "clump_share": clumps.share(threshold),
    }


def defocus_offsets(reach: float, step: float) -> list[float]:
    """Offsets in Å from `-reach` to `reach`, 0 among them."""
    n = math.floor(reach / step + 1e-9)
    return [step * i for i in range(-n, n + 1)]


def _box_for(template: SearchTemplate, transfer: Transfer, offset: float) -> int:
    """Side of the templates in pixels: the particle, and what the defocus displaces beyond its edge."""
    k = np.linspace(0, 0.5 / template.pixel_size, 256)
    defocus = 0.5 * (transfer.defocus_u + transfer.defocus_v) + offset
    beyond = float(displacement(k, defocus, transfer.voltage_kv, transfer.cs_mm).max())
    return good_size(math.ceil((template.diameter + 2 * min(beyond, template.diameter)) / template.pixel_size))


def _picks(micrographs: MicrographSet, found: list[dict[str, Any] | None], diameter: float) -> PickSet:
    done = [(str(path), entry) for path, entry in zip(micrographs.path, found, strict=True) if entry is not None]

    def column(key: str, width: int | None = None) -> np.ndarray:
        values = np.asarray([v for _, entry in done for v in entry[key]], np.float64)
        return values if width is None else values.reshape(-1, width)

    euler = column("euler", 3)
    names = np.asarray([name for name, entry in done for _ in entry["score"]], dtype=object)
    return PickSet(
        position_px=column("position", 2),
        micrograph=names,
        score=column("score"),
        diameter=diameter,
        micrographs=tuple(name for name, _ in done),
        extra={label: euler[:, i] for i, label in enumerate(_POSE)}
        | {"cryoloomDefocusOffset": column("defocus_offset")},
    )


def _show(done: list[dict[str, Any]], run: Run) -> None:
    scores = np.asarray([s for entry in done for s in entry["score"]])
    threshold = float(np.median([entry["threshold"] for entry in done]))
    if len(scores):
        run.show(
            Figure(
                name="scores",
                kind="histogram",
                title="Scores of the picks",
                caption="In standard deviations of noise. Noise alone gives scores just above the threshold.",
                x_label="Score",
                y_label="Picks",
                data={"values": scores, "lines": {"threshold": threshold}},
            )
        )

"""Stage `trace-filaments`: micrographs in, segments of filaments with helical priors out."""

import math
from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, Run, WorkFailed, stage
from cryoloom.data import MicrographSet, PickSet
from cryoloom.io.filaments import segment_columns, write_start_end
from cryoloom.io.images import read_micrograph
from cryoloom.io.records import write_coordinates
from cryoloom.picking.figures import stem_of
from cryoloom.picking.filaments.oriented import Oriented, oriented_scores, prepare_for_filaments
from cryoloom.picking.filaments.segments import cut_filaments
from cryoloom.picking.filaments.settings import TRACE_FILAMENTS, TraceFilamentsSettings
from cryoloom.picking.filaments.trace import Filament, certain_score, trace_ridges
from cryoloom.picking.learn import transfer_of
from cryoloom.picking.matched import Transfer, scales

_LENGTH, _SPACING = 4.0, 1 / 3  # diameters
_SURVEYED = 4  # micrographs on which the diameter is found
_CLEAREST = 0.01  # share of a micrograph whose scores tell how well a diameter fits
N_FIGURES = 4


@stage(TRACE_FILAMENTS)
def trace_filaments(micrographs: MicrographSet, settings: TraceFilamentsSettings, run: Run) -> dict[str, PickSet]:
    """Trace filaments on all micrographs; see `TraceFilamentsSettings`."""

    def name_of(row: int) -> str:
        return str(micrographs.path[row])

    def load(row: int) -> tuple[torch.Tensor, float]:
        image = torch.from_numpy(read_micrograph(micrographs.path[row])).to(run.device)
        return image, micrographs.optics[int(micrographs.optics_index[row])].pixel_size

    rows = list(range(len(micrographs)))
    diameter = settings.diameter
    if diameter is None:
        some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SURVEYED)).astype(int)).tolist()

        def survey(row: int) -> dict[str, Any]:
            return {"fit": fit_of_diameters(*load(row), transfer_of(micrographs, row), settings)}

        fits = run.each(some, survey, key=name_of, label="Finding the diameter")
        total = np.mean([entry["fit"] for entry in fits if entry is not None] or [[0.0]], axis=0)
        diameter = float(tried_diameters(settings)[int(total.argmax())])
    spacing = settings.spacing or _SPACING * diameter

    def trace(row: int) -> dict[str, Any]:
        image, pixel_size = load(row)
        found = trace_micrograph(image, pixel_size, transfer_of(micrographs, row), diameter, settings)
        return {"points": [f.points.tolist() for f in found], "score": [f.score for f in found]}

    stored = run.each(rows, trace, key=name_of, label="Tracing filaments")
    if not any(entry is not None for entry in stored):
        raise WorkFailed("No micrograph could be searched; the causes are in run.log.")
    parts: list[PickSet] = []
    lengths: list[float] = []
    for row, entry in zip(rows, stored, strict=True):
        if entry is None:
            continue
        filaments = [
            Filament(np.asarray(p).reshape(-1, 2), s) for p, s in zip(entry["points"], entry["score"], strict=True)
        ]
        pixel_size = micrographs.optics[int(micrographs.optics_index[row])].pixel_size
        lengths += [f.length_px * pixel_size for f in filaments]
        picks = _segments_of(name_of(row), filaments, pixel_size, spacing)
        write_coordinates(picks, run.folder / "coordinates" / f"{stem_of(name_of(row))}.star")
        ends = np.asarray([[f.points[0], f.points[-1]] for f in filaments]).reshape(-1, 2, 2)
        write_start_end(run.folder / "start_end" / f"{stem_of(name_of(row))}.star", ends)
        parts.append(picks)
    picks = _joined(parts, diameter)
    n = len(lengths)
    run.summarise(
        verdict="found" if n else "not found",
        reasons=[] if n else ["nothing on these micrographs is long, thin and clearer than noise"],
        n_in=len(micrographs),
        n_out=len(picks),
        filaments=n,
        length_median=round(float(np.median(lengths)), 1) if n else None,
        length_total=round(float(np.sum(lengths)), 1),
        diameter=round(diameter, 1),
        spacing=round(spacing, 2),
    )
    _show(micrographs, picks, diameter, load, run)
    return {"picks": picks}


def trace_micrograph(
    image: torch.Tensor, pixel_size: float, transfer: Transfer, diameter: float, settings: TraceFilamentsSettings
) -> list[Filament]:
    """Filaments of one micrograph `(h, w)`, points in its pixels."""
    oriented = _scores(image, pixel_size, transfer, diameter, settings)
    found = trace_ridges(
        oriented,
        diameter,
        certain=certain_score(tuple(oriented.score.shape), settings.false_filaments),
        least_length=settings.least_length or _LENGTH * diameter,
        bend=math.radians(settings.bend_deg),
    )
    to_micrograph = oriented.prepared.reduced.to_micrograph
    return [Filament(to_micrograph(torch.from_numpy(f.points)).numpy(), f.score) for f in found]


def tried_diameters(settings: TraceFilamentsSettings) -> list[float]:
    """Diameters in Å from the smallest to the largest."""
    return list(scales(settings.diameter_min, settings.diameter_max, per_octave=4))


def fit_of_diameters(
    image: torch.Tensor, pixel_size: float, transfer: Transfer, settings: TraceFilamentsSettings
) -> list[float]:
    """Mean score of the clearest places of a micrograph, for each diameter that is tried."""
    fits = []
    for diameter in tried_diameters(settings):
        best = _scores(image, pixel_size, transfer, diameter, settings).score.amax(0).reshape(-1)
        fits.append(float(best.topk(max(1, int(_CLEAREST * best.numel()))).values.mean()))
    return fits


def _scores(
    image: torch.Tensor, pixel_size: float, transfer: Transfer, diameter: float, settings: TraceFilamentsSettings
) -> Oriented:
    prepared = prepare_for_filaments(image, pixel_size, transfer, diameter, exclude=settings.exclude)
    return oriented_scores(prepared, diameter)


def _segments_of(name: str, filaments: list[Filament], pixel_size: float, spacing: float) -> PickSet:
    cut = cut_filaments(filaments, pixel_size, spacing)
    return PickSet(
        position_px=cut.position_px,
        micrograph=np.full(len(cut.filament), name, dtype=object),
        score=cut.score,
        micrographs=(name,),
        extra=segment_columns(cut.filament, cut.direction, cut.along),
    )


def _joined(parts: list[PickSet], diameter: float) -> PickSet:
    labels = parts[0].extra
    return PickSet(
        position_px=np.concatenate([p.position_px for p in parts]),
        micrograph=np.concatenate([p.micrograph for p in parts]),
        score=np.concatenate([np.asarray(p.score) for p in parts]),
        diameter=diameter,
        micrographs=tuple(name for p in parts for name in p.micrographs),
        extra={label: np.concatenate([p.extra[label] for p in parts]) for label in labels},
    )


def _show(micrographs: MicrographSet, picks: PickSet, diameter: float, load: Any, run: Run) -> None:
    searched = [row for row, path in enumerate(micrographs.path) if str(path) in picks.micrographs]
    for number, i in enumerate(np.unique(np.linspace(0, len(searched) - 1, N_FIGURES).astype(int))):
        row = searched[i]
        image, pixel_size = load(row)
        prepared = prepare_for_filaments(image, pixel_size, transfer_of(micrographs, row), diameter, exclude=False)
        own = picks.select(picks.micrograph == str(micrographs.path[row]))
        points = prepared.reduced.from_micrograph(torch.from_numpy(np.asarray(own.position_px, np.float64)))
        run.show(
            Figure(
                name=f"filaments_{number + 1}",
                kind="image",
                title=f"{stem_of(str(micrographs.path[row]))}: {len(np.unique(own.extra['filament']))} filaments",
                caption="Circles are segments and have the diameter of the filament; colours tell filaments apart.",
                data={
                    "image": prepared.flat.cpu().numpy(),
                    "pixel_size": prepared.pixel_size,
                    "points": points.cpu().numpy(),
                    "values": np.asarray(own.extra["filament"], np.float64),
                    "radius": 0.5 * diameter / prepared.pixel_size,
                },
            )
        )

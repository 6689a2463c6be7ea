"""The stage `score`: what kind of result it is, and the scores that suit it."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import FscCurve, MicrographSet, ParticleSet, PickSet, VolumeMap
from cryoloom.io.map_file import read_map
from cryoloom.io.motion_tracks import read_motion_tracks
from cryoloom.io.records import read_micrographs, read_particles, read_picks
from cryoloom.scoring.classes import score_classes
from cryoloom.scoring.defocus import score_defocus
from cryoloom.scoring.maps import score_map
from cryoloom.scoring.matching import match_particles, stems
from cryoloom.scoring.motion import score_motion, true_tracks
from cryoloom.scoring.picks import score_picks
from cryoloom.scoring.poses import score_poses
from cryoloom.scoring.settings import SCORE, ScoreSettings

_MAP_SUFFIXES = (".mrc", ".map", ".ccp4", ".rec", ".gz", ".bz2")
Record = ParticleSet | MicrographSet | PickSet


@stage(SCORE)
def score_result(
    result: Path, truth: Path, mask: VolumeMap | None, settings: ScoreSettings, run: Run
) -> dict[str, Any]:
    """Score a result; every figure goes to the summary under the name of what was scored."""
    if result.suffix.lower() in _MAP_SUFFIXES:
        return _score_map_file(result, truth, mask, settings, run)
    found, true = read_record(result), read_record(truth)
    scores: dict[str, Any] = {}
    if isinstance(found, PickSet):
        if isinstance(true, MicrographSet):
            raise InputError(f"{truth}: picks are compared with true particles or coordinates, not with micrographs.")
        scores["picks"] = score_picks(found, true, _distance_px(settings.distance, true, found)).summary()
    elif isinstance(found, MicrographSet):
        if not isinstance(true, MicrographSet):
            raise InputError(f"{truth}: micrographs are compared with truth_micrographs.star of the simulation.")
        scores |= _micrograph_scores(found, true, truth.parent, run)
    else:
        if not isinstance(true, ParticleSet):
            raise InputError(f"{truth}: particles are compared with truth.star of the simulation.")
        scores |= _particle_scores(found, true, settings, run)
    if not scores:
        raise InputError(f"{result}: nothing in it can be compared with {truth.name}.")
    run.summarise(
        verdict="found", reasons=[f"scored: {', '.join(scores)}"], n_in=len(found), n_out=len(found), **scores
    )
    return {}


def read_record(path: Path) -> Record:
    """A STAR file as particles, micrographs or picks, whichever it is."""
    for reader in (read_particles, read_micrographs, read_picks):
        try:
            return reader(path)
        except InputError as error:
            last = error
    raise InputError(f"{path}: neither particles, micrographs nor picks ({last})")


def _score_map_file(
    result: Path, truth: Path, mask: VolumeMap | None, settings: ScoreSettings, run: Run
) -> dict[str, Any]:
    volume, true = read_map(result), read_map(truth)
    score = score_map(
        volume,
        true,
        None if mask is None else mask.data,
        hands=settings.either_hand,
        superposed=settings.superposed,
    )
    run.summarise(verdict="found", reasons=["scored: map"], n_in=1, n_out=1, map=score.summary())
    run.show(
        Figure(
            "fsc_to_truth",
            "curves",
            "FSC with the true map",
            f"Falls below 0.5 at {score.resolution:.2f} Å.",
            x_label="resolution",
            y_label="FSC",
            data={"x": score.frequency, "y": {"FSC": score.fsc}, "lines": {"0.5": 0.5}, "resolution_axis": True},
        )
    )
    return {"fsc": FscCurve(score.frequency, score.fsc), "aligned": score.aligned}


def _particle_scores(
    found: ParticleSet, true: ParticleSet, settings: ScoreSettings, run: Run
) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = {}
    distance_px = _distance_px(settings.distance, true)
    try:
        rows, true_rows = match_particles(found, true, distance_px=distance_px)
    except InputError as error:
        run.warn(str(error))
        rows = true_rows = np.zeros(0, np.int64)
    if len(rows):
        pair = found.select(rows), _renamed(true.select(true_rows), found.select(rows))
        if found.rotation is not None and true.rotation is not None:
            scores["poses"] = score_poses(*pair, settings.symmetry).summary()
        if found.defocus_u is not None and true.defocus_u is not None:
            scores["defocus"] = score_defocus(*pair).summary()
        if found.class_number is not None and true.class_number is not None:
            states = true.class_number[true_rows]
            if len(np.unique(states)) > 1:
                scores["classes"] = score_classes(found.class_number[rows], states).summary()
    if found.position_px is not None and true.position_px is not None and found.micrograph is not None:
        picks = PickSet(micrograph=found.micrograph, position_px=found.position_px, score=found.pick_score)
        scores["picks"] = score_picks(picks, true, distance_px).summary()
    return scores


def _renamed(true: ParticleSet, found: ParticleSet) -> ParticleSet:
    """True particles under the image names of the rows they were matched with."""
    return true.replace(image_path=found.image_path, image_index=found.image_index)


def _micrograph_scores(found: MicrographSet, true: MicrographSet, folder: Path, run: Run) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = {}
    if found.defocus_u is not None and true.defocus_u is not None:
        scores["defocus"] = score_defocus(found, true).summary()
    if found.motion_path is None:
        return scores
    parts = []
    for name, path, pixel_size in zip(
        stems(found.path), found.motion_path, _frame_pixel_size(true, found), strict=True
    ):
        record = folder / "truth" / f"{name}.json"
        if not path or not Path(path).exists() or not record.exists():
            continue
        true_record = json.loads(record.read_text(encoding="utf-8"))
        trajectory, places, tracks = read_motion_tracks(path)
        if not len(places):
            h, w = true_record["recipe"]["shape"]
            places, tracks = np.array([[0.5 * (h - 1), 0.5 * (w - 1)]]), trajectory[None]
        used = np.isfinite(tracks).all((0, 2))  # frames that were left out have no shift
        parts.append(score_motion(tracks[:, used] * pixel_size, true_tracks(true_record, places)[:, used]))
    if parts:
        scores["motion"] = {
            "n_movies": len(parts),
            "rms": round(float(np.sqrt(np.mean([p.rms**2 for p in parts]))), 4),
            "rms_axis": round(float(np.sqrt(np.mean([p.rms_axis**2 for p in parts]))), 4),
            "global_only_rms": round(float(np.sqrt(np.mean([p.global_only_rms**2 for p in parts]))), 4),
        }
    elif not scores:
        run.warn("No motion file has a true record beside the truth.")
    return scores


def _frame_pixel_size(true: MicrographSet, found: MicrographSet) -> np.ndarray:
    place = {name: i for i, name in enumerate(stems(true.path))}
    sizes = true.per_row("pixel_size")
    return np.asarray([sizes[place[n]] if n in place else np.nan for n in stems(found.path)])


def _distance_px(distance: float, true: Record, found: Record | None = None) -> float:
    """The distance in pixels of the micrographs."""
    for record in (true, found):
        optics = getattr(record, "optics", ())
        if optics:
            return distance / (optics[0].original_pixel_size or optics[0].pixel_size)
    return distance

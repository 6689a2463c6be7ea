"""Stage `extract`: picks or refined particles in, particle images out."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from cryoloom.contract import Figure, InputError, Run, WorkFailed, stage
from cryoloom.data import MicrographSet, Optics, ParticleSet, PickSet
from cryoloom.data.halves import assign_halves, groups_in_both_halves, linked_groups
from cryoloom.data.names import match_rows, stem_of
from cryoloom.extraction.contrast import contrast_evidence
from cryoloom.extraction.cut import cut_particles, inside_micrograph
from cryoloom.extraction.geometry import BoxPlan, aimed_resolution, box_remark, defocus_spread, plan_box
from cryoloom.extraction.local_defocus import particle_defocus
from cryoloom.extraction.normalise import background_mask, normalise_images
from cryoloom.extraction.orientation import (
    SYMMETRIES,
    decide_symmetry,
    inside,
    symmetry_name,
    transform_positions,
)
from cryoloom.extraction.settings import EXTRACT, ExtractSettings
from cryoloom.io.denoised import refuse_denoised
from cryoloom.io.images import read_micrograph
from cryoloom.io.stack import StackWriter

CHUNK = 64  # boxes in memory at a time
BACKGROUND = 1.15  # circle outside which lies background, in diameters
_CTF_COLUMNS = ("defocus_u", "defocus_v", "defocus_angle", "phase_shift")


@dataclass(frozen=True)
class Wanted:
    """Where boxes shall be cut: rows of micrographs and exact centres, and the source rows they came from."""

    micrograph_row: np.ndarray
    position_px: np.ndarray
    source: PickSet | ParticleSet


@stage(EXTRACT)
def extract_particles(
    micrographs: MicrographSet,
    picks: PickSet | None,
    particles: ParticleSet | None,
    settings: ExtractSettings,
    run: Run,
) -> dict[str, ParticleSet]:
    """Cut particle images; see `ExtractSettings`."""
    if (picks is None) == (particles is None):
        raise InputError("Give either --picks or --particles (to cut out again at refined centres).")
    wanted = _from_picks(micrographs, picks) if picks is not None else _from_particles(micrographs, particles)
    if len(wanted.position_px) == 0:
        raise WorkFailed("There is nothing to extract: the picks are empty or belong to other micrographs.")
    for row in np.unique(wanted.micrograph_row):
        refuse_denoised(micrographs.path[row])
    diameter = settings.diameter or (picks.diameter if picks is not None else None)
    finest = min(group.pixel_size for group in micrographs.optics)
    target = settings.target_pixel_size or (settings.bin or 1.0) * finest
    plans = [_plan(group, micrographs, diameter, target, settings) for group in micrographs.optics]
    if len({plan.box for plan in plans}) > 1:  # one box for all groups, so that the set can be refined together
        box = max(plan.box for plan in plans)
        plans = [
            plan_box(g.pixel_size, diameter, box=box, target_pixel_size=max(target, g.pixel_size))
            for g in micrographs.optics
        ]
    for plan, group in zip(plans, micrographs.optics, strict=True):
        if diameter is not None and plan.box * plan.pixel_size < diameter:
            raise InputError(
                f"--box {plan.box} is {plan.box * plan.pixel_size:.0f} Å at {plan.pixel_size:.3f} Å per pixel, smaller "
                f"than the particle ({diameter:.0f} Å, optics group {group.name}); take a larger box."
            )
    _check_spread(micrographs, plans, diameter, settings, run)
    wanted, sign = _look_at_contrast(micrographs, wanted, plans, diameter, settings, run)

    def extract(row: int) -> dict[str, Any]:
        return _extract_one(micrographs, wanted, row, plans, diameter, sign, settings, run)

    rows = sorted(set(wanted.micrograph_row.tolist()))
    stored = run.each(rows, extract, key=lambda r: str(micrographs.path[r]), label="Extracting particles")
    found, n_edge, n_flat = _gather(micrographs, wanted, rows, stored, plans, settings, run)
    if len(found) == 0:
        raise WorkFailed("No particle is left: all boxes reach over the edge of their micrograph; take a smaller box.")
    _show(found, run)
    counts = np.bincount(np.asarray(found.half), minlength=3)
    plan = plans[0]
    run.summarise(
        verdict="found",
        n_in=len(wanted.position_px),
        n_out=len(found),
        n_left_out_at_edge=n_edge,
        n_mirrored_at_edge=sum(int(entry["n_mirrored"]) for entry in stored if entry is not None),
        n_left_out_flat=n_flat,
        box=plan.box,
        pixel_size=plan.pixel_size,
        cut=plan.cut,
        contrast_inverted=sign < 0,
        half1=int(counts[1]),
        half2=int(counts[2]),
        diameter=None if diameter is None else round(float(diameter), 1),
    )
    return {"particles": found}


def _plan(
    group: Optics, micrographs: MicrographSet, diameter: float | None, target: float, settings: ExtractSettings
) -> BoxPlan:
    spread = 0.0
    if micrographs.defocus_u is not None and np.isfinite(micrographs.defocus_u).any():
        defocus = float(np.nanquantile(micrographs.defocus_u, 0.9))
        finest = aimed_resolution(max(target, group.pixel_size))
        spread = defocus_spread(defocus, group.voltage_kv, group.cs_mm, finest)
    if settings.box is None and diameter is None:
        raise InputError("The size of the particle is not known; add --diameter or --box.")
    return plan_box(group.pixel_size, diameter, box=settings.box, target_pixel_size=target, spread=spread)


def _check_spread(
    micrographs: MicrographSet, plans: list[BoxPlan], diameter: float | None, settings: ExtractSettings, run: Run
) -> None:
    """Say what the defocus displaces over the edges of the boxes of most micrographs.

    A box that was given is judged by what its pixels allow, one that was found by what it aimed at; that one is a
    compromise, which the log tells of.
    """
    if diameter is None or micrographs.defocus_u is None or not np.isfinite(micrographs.defocus_u).any():
        return
    defocus = float(np.nanmedian(micrographs.defocus_u))
    for plan, group in zip(plans, micrographs.optics, strict=True):
        aim = aimed_resolution(plan.pixel_size) if settings.box is None else None
        held, remark = box_remark(plan, diameter, defocus, group.voltage_kv, group.cs_mm, aim)
        run.summarise(resolution_held=round(held, 2) if np.isfinite(held) else None)
        if remark and settings.box is not None:
            run.warn(remark)
        elif remark:
            run.log(remark)


def _from_picks(micrographs: MicrographSet, picks: PickSet) -> Wanted:
    row, known = match_rows(micrographs.path, picks.micrograph)
    return Wanted(row[known], np.asarray(picks.position_px, dtype=np.float64)[known], picks.select(known))


def _from_particles(micrographs: MicrographSet, particles: ParticleSet | None) -> Wanted:
    assert particles is not None
    if particles.micrograph is None or particles.position_px is None:
        raise InputError("These particles do not say where on which micrograph they lie; they cannot be cut out again.")
    row, known = match_rows(micrographs.path, particles.micrograph)
    source = particles.select(known)
    position = np.asarray(source.position_px, dtype=np.float64)
    if source.shift is not None:
        micrograph_px = np.asarray([group.pixel_size for group in micrographs.optics])
        size = micrograph_px[micrographs.optics_index[row[known]]]
        position = position + np.nan_to_num(source.shift) / size[:, None]
    return Wanted(row[known], position, source)


def _look_at_contrast(
    micrographs: MicrographSet,
    wanted: Wanted,
    plans: list[BoxPlan],
    diameter: float | None,
    settings: ExtractSettings,
    run: Run,
) -> tuple[Wanted, int]:
    """Coordinates with their axes put right, and -1 when particles are dark and have to be inverted, else +1."""
    foreign = isinstance(wanted.source, PickSet) and settings.axes == "auto"
    known = -1 if settings.contrast == "dark" else 1
    if settings.contrast != "auto" and not foreign:
        return wanted, known
    rows = np.unique(wanted.micrograph_row)
    contrasts: list[list[np.ndarray]] = [[] for _ in SYMMETRIES]
    shapes: dict[int, tuple[int, int]] = {}
    n = 0
    for row in rows[np.unique(np.linspace(0, len(rows) - 1, 6).astype(int))]:
        image = torch.from_numpy(read_micrograph(micrographs.path[row])).to(run.device)
        index = int(micrographs.optics_index[row])
        size = micrographs.optics[index].pixel_size
        extent = diameter / size if diameter is not None else 0.6 * plans[index].cut
        position = wanted.position_px[wanted.micrograph_row == row]
        shape = shapes[int(row)] = (int(image.shape[0]), int(image.shape[1]))
        n += len(position)
        moved = [transform_positions(position, shape, each) for each in (SYMMETRIES if foreign else SYMMETRIES[:1])]
        seen = [places[inside(places, shape)] for places in moved]
        ends = np.cumsum([len(places) for places in seen])
        parts = np.split(contrast_evidence(image, np.concatenate(seen), extent), ends[:-1])
        for own, part in zip(contrasts, parts, strict=False):
            own.append(part)
    each = [np.concatenate(own) if own else np.zeros(0) for own in contrasts]
    best, z = decide_symmetry(each, n) if foreign else (0, np.zeros(1))
    if best:
        run.warn(
            f"The coordinates show no particles as given (z = {z[0]:.1f}) but do with {symmetry_name(best)} "
            f"(z = {z[best]:.1f}); they are used like that. Add --axes as-given to keep them."
        )
        wanted = _turned(micrographs, wanted, SYMMETRIES[best], shapes)
    evidence = float(each[best].sum()) / max(n, 1)
    run.log(f"contrast: {evidence:+.3f} noise deviations per particle")
    run.summarise(contrast_evidence=round(evidence, 4), axes=symmetry_name(best))
    return wanted, (-1 if evidence <= 0 else 1) if settings.contrast == "auto" else known


def _turned(
    micrographs: MicrographSet,
    wanted: Wanted,
    symmetry: tuple[bool, bool, bool],
    shapes: dict[int, tuple[int, int]],
) -> Wanted:
    """The same wish with the axes of all coordinates put right."""
    position = np.array(wanted.position_px)
    for row in np.unique(wanted.micrograph_row):
        shape = shapes.get(int(row))
        if shape is None:
            image = read_micrograph(micrographs.path[row])
            shape = (int(image.shape[0]), int(image.shape[1]))
        own = wanted.micrograph_row == row
        position[own] = transform_positions(position[own], shape, symmetry)
    return replace(wanted, position_px=position)


def _extract_one(
    micrographs: MicrographSet,
    wanted: Wanted,
    row: int,
    plans: list[BoxPlan],
    diameter: float | None,
    sign: int,
    settings: ExtractSettings,
    run: Run,
) -> dict[str, Any]:
    """Write the stack of one micrograph; say which of its wanted boxes are in it, in order."""
    image = torch.from_numpy(read_micrograph(micrographs.path[row])).to(run.device)
    index = int(micrographs.optics_index[row])
    plan = plans[index]
    members = np.flatnonzero(wanted.micrograph_row == row)
    position = wanted.position_px[members]
    subpixel = settings.subpixel and isinstance(wanted.source, ParticleSet)
    on_image = inside_micrograph(np.rint(position).astype(np.int64), plan.cut, (image.shape[0], image.shape[1]))
    shape = (image.shape[0], image.shape[1])
    usable = on_image
    if settings.edge == "mirror":
        circle = int(diameter / micrographs.optics[index].pixel_size) if diameter is not None else plan.cut // 2
        usable = inside_micrograph(np.rint(position).astype(np.int64), min(circle, plan.cut), shape)
    background = background_mask(plan.box, _background_px(plan, diameter, settings), device=run.device)
    centres, kept = [], []
    path = run.folder / "particles" / stack_name(micrographs.path, row)
    chosen = members[usable]
    if len(chosen) == 0:
        return {"kept": [], "centre": [], "n_edge": len(members), "n_mirrored": 0, "n_flat": 0}
    dtype = np.float16 if settings.float16 else np.float32
    with StackWriter(path, (plan.box, plan.box), plan.pixel_size, dtype=dtype) as writer:
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            boxes, centre = cut_particles(image, wanted.position_px[part], plan.cut, plan.box, subpixel=subpixel)
            if sign < 0:
                boxes = -boxes
            sound = torch.ones(len(part), dtype=torch.bool)
            if settings.normalise:
                boxes, spread = normalise_images(boxes, background, dust_sigma=settings.dust_sigma)
                sound = (spread > 0).cpu()
            if bool(sound.any()):
                writer.append(boxes[sound.to(boxes.device)].cpu().numpy())
            kept.append(part[sound.numpy()])
            centres.append(centre[sound.numpy()])
        if writer.n == 0:
            raise WorkFailed("all of its boxes are constant; the micrograph holds no image there.")
    done = np.concatenate(kept)
    return {
        "kept": done,
        "centre": np.concatenate(centres),
        "n_edge": int(len(members) - len(chosen)),
        "n_mirrored": int((usable & ~on_image).sum()),
        "n_flat": int(len(chosen) - len(done)),
    }


def _background_px(plan: BoxPlan, diameter: float | None, settings: ExtractSettings) -> float:
    """Diameter in pixels of the circle outside which the image is background; a tenth of the box stays outside."""
    extent = settings.background_diameter or (BACKGROUND * diameter if diameter is not None else None)
    largest = 0.95 * plan.box
    return min(largest, extent / plan.pixel_size) if extent is not None else 0.75 * plan.box


def _gather(
    micrographs: MicrographSet,
    wanted: Wanted,
    rows: list[int],
    stored: list[dict[str, Any] | None],
    plans: list[BoxPlan],
    settings: ExtractSettings,
    run: Run,
) -> tuple[ParticleSet, int, int]:
    """What was written, as one particle set."""
    done = [(row, entry) for row, entry in zip(rows, stored, strict=True) if entry is not None]
    n_edge = sum(int(entry["n_edge"]) for _, entry in done)
    n_flat = sum(int(entry["n_flat"]) for _, entry in done)
    done = [(row, entry) for row, entry in done if len(entry["kept"])]
    kept = np.concatenate([np.asarray(e["kept"], dtype=np.int64) for _, e in done] or [np.zeros(0, np.int64)])
    centre = np.concatenate([np.asarray(e["centre"], dtype=np.float64) for _, e in done] or [np.zeros((0, 2))])
    row = np.concatenate([np.full(len(e["kept"]), r) for r, e in done] or [np.zeros(0)]).astype(np.int64)
    index = np.concatenate([np.arange(len(e["kept"])) for _, e in done] or [np.zeros(0, np.int64)]).astype(np.int64)
    stack = {r: str(run.folder / "particles" / stack_name(micrographs.path, r)) for r, _ in done}
    optics = tuple(
        replace(
            group,
            pixel_size=plan.pixel_size,
            original_pixel_size=group.pixel_size,
            box=plan.box,
            extra=dict(group.extra) | {"cryoloomContrast": "bright"},
        )
        for group, plan in zip(micrographs.optics, plans, strict=True)
    )
    fields: dict[str, Any] = {
        "image_path": np.asarray([stack[r] for r in row], dtype=object),
        "image_index": index,
        "micrograph": np.asarray(micrographs.path, dtype=object)[row],
        "position_px": centre,
        "optics": optics,
        "optics_index": np.asarray(micrographs.optics_index)[row],
    }
    source = wanted.source.select(kept)
    for name in _CTF_COLUMNS:
        own = getattr(source, name, None) if isinstance(source, ParticleSet) else None
        column = getattr(micrographs, name)
        if own is not None:
            fields[name] = own
        elif column is not None:
            fields[name] = np.asarray(column)[row]
    if getattr(source, "defocus_u", None) is None and fields.keys() >= {"defocus_u", "defocus_v"}:
        fields |= _local_defocus(micrographs, row, centre, fields, run)
    if isinstance(source, ParticleSet):
        if source.shift is not None:
            size = np.asarray([g.pixel_size for g in micrographs.optics])[micrographs.optics_index[row]]
            fields["shift"] = (wanted.position_px[kept] - centre) * size[:, None]
        merged = source.replace(**{k: v for k, v in fields.items() if k not in ("optics", "optics_index")})
        merged = merged.replace(optics=optics, optics_index=fields["optics_index"])
        if merged.half is not None and np.isin(merged.half, (1, 2)).all():
            return merged, n_edge, n_flat
        result = merged
    else:
        result = ParticleSet(**fields, pick_score=source.score, extra=source.extra)
    cut = np.asarray([plan.cut for plan in plans], dtype=np.float64)[result.optics_index]
    half = assign_halves(result, np.random.default_rng(run.seed), overlap_px=cut, imbalance=0.03)
    n_cut = groups_in_both_halves(linked_groups(result, overlap_px=cut), half)
    result = result.replace(half=half)
    if n_cut:
        run.warn(
            f"Clusters of overlapping boxes that were cut to balance the half sets: {n_cut}. Neighbours along the cuts "
            "share noise between the halves."
        )
    return result, n_edge, n_flat


def _local_defocus(
    micrographs: MicrographSet, row: np.ndarray, centre: np.ndarray, fields: dict[str, Any], run: Run
) -> dict[str, np.ndarray]:
    """Both defoci moved to those of the places of the particles, where the micrographs have maps of them."""
    difference = particle_defocus(micrographs, row, centre)
    run.summarise(
        n_with_local_defocus=int((difference != 0).sum()),
        local_defocus_spread=round(float(difference.std()), 1) if len(difference) else 0.0,
    )
    if difference.any():
        run.log(f"defocus of {(difference != 0).sum()} particles from maps of it: {difference.std():.0f} Å of spread")
    return {name: fields[name] + difference for name in ("defocus_u", "defocus_v")}


def _show(found: ParticleSet, run: Run) -> None:
    """A gallery of particles spread over the set, slightly smoothed."""
    from cryoloom.io.particles import ParticleImages

    chosen = np.unique(np.linspace(0, len(found) - 1, 40).astype(int))
    reader = ParticleImages(found)
    images = torch.from_numpy(reader.read(chosen))
    reader.close()
    step = max(1, images.shape[-1] // 64)
    small = torch.nn.functional.avg_pool2d(images[:, None], step)[:, 0]
    run.show(
        Figure(
            name="particles",
            kind="gallery",
            title="Particles",
            caption="Particles spread over all micrographs; they are bright and centred.",
            data={"images": small.numpy(), "columns": 10},
        )
    )


def stack_name(paths: np.ndarray, row: int) -> str:
    """Name of the stack of a micrograph; micrographs of equal stem are told apart by their row."""
    stem = stem_of(str(paths[row]))
    same = [i for i, path in enumerate(paths) if stem_of(str(path)) == stem]
    return f"{stem}.mrcs" if len(same) == 1 else f"{stem}_{row + 1:05d}.mrcs"

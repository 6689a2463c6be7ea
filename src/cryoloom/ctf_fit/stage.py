"""Stage `ctf`: micrographs in, micrographs with their CTF out; bad ones are named and left out."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryoloom.contract import Failure, Figure, Run, WorkFailed, stage
from cryoloom.ctf_fit.defocus_map import map_defocus
from cryoloom.ctf_fit.estimate import CtfEstimate, estimate_image_ctf
from cryoloom.ctf_fit.model import Beam
from cryoloom.ctf_fit.picture import ring_picture
from cryoloom.ctf_fit.pixel_size import chosen_for_scale, pixel_scale, scale_costs
from cryoloom.ctf_fit.quality import rings_end_before
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.ctf_fit.settings import CTF, CtfSettings
from cryoloom.ctf_fit.tilt import fit_tilt
from cryoloom.ctf_fit.verdict import K_NEEDED, MIN_GAIN, doubts, reason_to_exclude
from cryoloom.data import MicrographSet
from cryoloom.io.defocus_map import write_defocus_map
from cryoloom.io.images import read_micrograph
from cryoloom.io.mrc import read_mrc, write_mrc

PICTURE_SIZE = 320
MAX_FIGURES = 24


@stage(CTF)
def estimate_ctf(micrographs: MicrographSet, settings: CtfSettings, run: Run) -> dict[str, MicrographSet]:
    """Fit the CTF of every micrograph; see `CtfSettings`."""
    names = _picture_names(micrographs)
    where = _search_range(settings)
    asked = set() if settings.fit_phase_shift else chosen_for_scale(len(micrographs))

    def fit_one(i: int) -> dict[str, Any]:
        optics = micrographs.optics[int(micrographs.optics_index[i])]
        contrast = optics.amplitude_contrast if settings.amplitude_contrast is None else settings.amplitude_contrast
        beam = Beam(optics.voltage_kv, optics.cs_mm, contrast)
        image = load_image(image_path(micrographs, i), run.device)
        estimate = estimate_image_ctf(
            image,
            optics.pixel_size,
            beam,
            where,
            k_min=1 / settings.resolution_min,
            k_max=1 / settings.resolution_max,
            tile_extent=settings.tile_extent,
            fit_phase_shift=settings.fit_phase_shift,
            with_thickness=settings.fit_thickness,
        )
        result = _plain(estimate)
        result["faded"] = rings_end_before(estimate.curves, beam, estimate.defocus, K_NEEDED)
        if i in asked and estimate.gain >= MIN_GAIN:
            result["scale_costs"] = np.round(scale_costs(estimate, beam), 3).tolist()
        supposed = None
        if settings.fit_tilt:
            shape = (int(image.shape[0]), int(image.shape[1]))
            plane = fit_tilt(estimate.fit, estimate.spectra, shape)
            supposed = plane.at(estimate.spectra.centre_px, shape, optics.pixel_size)
            result |= {
                "tilt": plane.tilt,
                "tilt_axis": plane.axis,
                "gradient_y": float(plane.gradient[0]),
                "gradient_x": float(plane.gradient[1]),
            }
        if settings.defocus_map:
            places = map_defocus(estimate.fit, estimate.spectra, supposed)
            path = run.folder / "defocus_maps" / f"{names[i]}.star"
            write_defocus_map(path, places.place_px, places.defocus, places.error)
        picture = run.folder / "ctf_images" / f"{names[i]}_ctf.mrc"
        write_mrc(picture, ring_picture(estimate, beam, size=PICTURE_SIZE), optics.pixel_size)
        return result

    results = run.each(list(range(len(micrographs))), fit_one, key=lambda i: str(micrographs.path[i]), label="ctf")
    if len(micrographs) and not any(results):
        raise WorkFailed("No micrograph could be read; the causes are in run.log.")
    return _collect(micrographs, results, names, settings, run)


def _collect(
    micrographs: MicrographSet,
    results: list[dict[str, Any] | None],
    names: list[str],
    settings: CtfSettings,
    run: Run,
) -> dict[str, MicrographSet]:
    """Columns, exclusion with reasons, figures and summary."""
    n = len(micrographs)
    table = {
        name: np.asarray([r[name] if r else math.nan for r in results], np.float64).reshape(n)
        for name in ("defocus_u", "defocus_v", "defocus_angle", "phase_shift", "defocus_error", "ctf_score")
    }
    resolution = [r["ctf_resolution"] or math.nan if r else math.nan for r in results]
    pictures = [
        str(run.folder / "ctf_images" / f"{name}_ctf.mrc") if r else "" for name, r in zip(names, results, strict=True)
    ]
    maps = [
        str(run.folder / "defocus_maps" / f"{name}.star") if r else "" for name, r in zip(names, results, strict=True)
    ]
    filled = micrographs.replace(
        **table,
        defocus_map=np.asarray(maps, dtype=str) if settings.defocus_map else None,
        ctf_resolution=np.asarray(resolution, np.float64),
        ctf_image=np.asarray(pictures, dtype=str),
        extra=dict(micrographs.extra) | _more_columns(results),
    )
    kept = np.zeros(n, bool)
    excluded: dict[str, str] = {}
    for i, result in enumerate(results):
        item = str(micrographs.path[i])
        if result is None:
            continue
        reason = reason_to_exclude(result, settings.worst_resolution)
        if reason and not settings.keep_all:
            excluded[item] = reason
            run.fail(Failure(item, reason))
            continue
        kept[i] = True
        for doubt in ([reason] if reason else []) + doubts(result, settings):
            run.warn(doubt, item=item)
    _show(filled, results, kept, run)
    good = [r for r, keep in zip(results, kept, strict=True) if keep and r]
    reasons = []
    n_failed = sum(r is None for r in results)
    if excluded:
        reasons.append(f"{len(excluded)} of {n} micrographs were excluded: " + "; ".join(
            f"{Path(item).name}: {reason}" for item, reason in list(excluded.items())[:20]
        ))  # fmt: skip
    if n_failed:
        reasons.append(f"{n_failed} of {n} micrographs could not be read or fitted")
    costs = [r.get("scale_costs") if r else None for r in results]
    scales = [
        pixel_scale([c for c, g in zip(costs, micrographs.optics_index, strict=True) if c and g == group])
        for group in range(len(micrographs.optics))
    ]
    said = [s.said(o.pixel_size, o.cs_mm) for s, o in zip(scales, micrographs.optics, strict=True)]
    for words in (w for w, s in zip(said, scales, strict=True) if s.is_wrong):
        run.warn(words)
    verdict = "found" if kept.sum() >= 0.5 * n and kept.any() else "doubtful" if kept.any() else "not found"
    run.summarise(
        verdict=verdict,
        reasons=reasons,
        n_in=n,
        n_out=int(kept.sum()),
        excluded=excluded,
        defocus_median=_median([0.5 * (r["defocus_u"] + r["defocus_v"]) for r in good]),
        defocus_range=[_extreme(good, min), _extreme(good, max)],
        astigmatism_median=_median([r["defocus_u"] - r["defocus_v"] for r in good]),
        defocus_error_median=_median([r["defocus_error"] for r in good]),
        half_difference_median=_median([abs(r["half_difference"]) for r in good if r["half_difference"] is not None]),
        ctf_resolution_median=_median([r["ctf_resolution"] for r in good if r["ctf_resolution"]]),
        ctf_score_median=_median([r["ctf_score"] for r in good]),
        pixel_size_check=said,
    )
    out = {"micrographs": filled.select(kept)}
    if not kept.all():
        out["excluded"] = filled.select(~kept)
    return out


def _more_columns(results: list[dict[str, Any] | None]) -> dict[str, np.ndarray]:
    """Figures without a field of their own; they travel along as columns of the STAR file."""
    columns = {
        "ice_ring": ("ice_ring", 1.0),
        "cryoloomDefocusUError": ("defocus_u_error", 1.0),
        "cryoloomDefocusVError": ("defocus_v_error", 1.0),
        "cryoloomDefocusAngleError": ("angle_error", math.degrees(1.0)),
        "cryoloomPhaseShiftError": ("phase_shift_error", math.degrees(1.0)),
        "cryoloomDefocusHalfDifference": ("half_difference", 1.0),
        "cryoloomSpecimenThickness": ("thickness", 1.0),
        "cryoloomTilt": ("tilt", math.degrees(1.0)),
        "cryoloomTiltAxis": ("tilt_axis", math.degrees(1.0)),
        "cryoloomDefocusGradientY": ("gradient_y", 1.0),
        "cryoloomDefocusGradientX": ("gradient_x", 1.0),
        "cryoloomCtfEvidence": ("gain", 1.0),
        "cryoloomSpectrumAnisotropy": ("anisotropy", 1.0),
    }
    return {
        label: np.asarray([scale * r[name] if r and r[name] is not None else math.nan for r in results], np.float64)
        for label, (name, scale) in columns.items()
        if any(r and r.get(name) is not None for r in results)
    }


def _plain(estimate: CtfEstimate) -> dict[str, Any]:
    """What is kept of one estimate, as JSON values."""
    u, v, angle = estimate.defocus.uv_angle
    curves = estimate.curves
    return {
        "defocus_u": u,
        "defocus_v": v,
        "defocus_angle": angle,
        "phase_shift": estimate.defocus.phase_shift % math.pi,
        "defocus_error": estimate.defocus_error,
        "defocus_u_error": estimate.defocus_u_error,
        "defocus_v_error": estimate.defocus_v_error,
        "angle_error": estimate.angle_error,
        "phase_shift_error": estimate.phase_shift_error,
        "ctf_score": estimate.score,
        "ctf_resolution": 1 / estimate.k_limit if estimate.k_limit > 0 else None,
        "half_difference": None if math.isnan(estimate.half_difference) else estimate.half_difference,
        "thickness": None if math.isnan(estimate.thickness) else estimate.thickness,
        "gain": estimate.gain,
        "anisotropy": estimate.anisotropy,
        "anisotropy_angle": estimate.anisotropy_angle,
        "ice_ring": None if math.isnan(estimate.ice_ring) else estimate.ice_ring,
        "curves": {
            "k": np.round(curves.k, 6).tolist(),
            "measured": np.round(curves.measured, 5).tolist(),
            "fitted": np.round(curves.fitted, 5).tolist(),
        },
    }


def _show(filled: MicrographSet, results: list[dict[str, Any] | None], kept: np.ndarray, run: Run) -> None:
    """Rings and curves of some micrographs (all that are excluded first), and the spread over the set."""
    order = [i for i in np.argsort(kept, kind="stable") if results[i]]
    chosen = sorted(order[:MAX_FIGURES])
    if not chosen:
        return
    assert filled.ctf_image is not None
    pictures = [read_mrc(filled.ctf_image[i])[0].reshape(PICTURE_SIZE, PICTURE_SIZE) for i in chosen]
    stems = [Path(str(filled.path[i])).stem for i in chosen]
    run.show(
        Figure(
            "ctf_rings",
            "gallery",
            "Rings and their fit",
            caption="Left half: measured spectrum over the depth of its rings. Right half: the fit, up to where rings "
            "are seen. Rings should run on across the middle.",
            data={
                "images": np.stack(pictures),
                "labels": [s if kept[i] else f"{s} (excluded)" for s, i in zip(stems, chosen, strict=True)],
                "columns": 4,
            },
        )
    )
    for stem, i in zip(stems, chosen, strict=True):
        result = results[i]
        assert result is not None
        curves = result["curves"]
        fitted = np.asarray(curves["fitted"])
        reach = 1.5 * float(np.percentile(np.abs(fitted), 97)) + 0.02
        run.show(
            Figure(
                f"ctf_curve_{i:04d}",
                "curves",
                stem,
                caption=_caption(result, bool(kept[i])),
                x_label="resolution (Å)",
                y_label="power over background - 1",
                data={
                    "x": np.asarray(curves["k"]),
                    "y": {
                        "measured": np.clip(curves["measured"], -reach, reach),
                        "fit": np.clip(fitted, -reach, reach),
                    },
                    "resolution_axis": True,
                },
            )
        )
    mean = 0.5 * (np.asarray(filled.defocus_u) + np.asarray(filled.defocus_v))[kept] / 1e4
    if len(mean):
        run.show(Figure("defocus", "histogram", "Defocus", x_label="mean defocus (µm)", data={"values": mean}))
        run.show(
            Figure(
                "ctf_resolution",
                "histogram",
                "Rings reach to",
                x_label="resolution (Å)",
                data={"values": np.asarray(filled.ctf_resolution)[kept]},
            )
        )


def _caption(result: dict[str, Any], kept: bool) -> str:
    """The figures of one micrograph in a sentence."""
    reach = f"rings to {result['ctf_resolution']:.1f} Å" if result["ctf_resolution"] else "no rings"
    defoci = f"Defocus {result['defocus_u']:.0f} and {result['defocus_v']:.0f} Å (± {result['defocus_error']:.0f} Å)"
    return f"{defoci}, {reach}" + ("." if kept else "; excluded.")


def _search_range(settings: CtfSettings) -> SearchRange:
    """Where the search looks."""
    if settings.fit_phase_shift:
        phases = tuple(math.radians(p) for p in range(0, 180, 12))
    else:
        phases = (math.radians(settings.phase_shift_deg),)
    return SearchRange(settings.defocus_min, settings.defocus_max, settings.astigmatism_max, phases)


def load_image(path: str, device: str) -> torch.Tensor:
    """One micrograph as float32 `(h, w)` on the device; broken ones are refused with their cause."""
    image = read_micrograph(path)
    if image.min() == image.max():
        raise WorkFailed(f"{path}: all pixels have the same value; the image is empty.")
    return torch.from_numpy(image).to(device)


def image_path(micrographs: MicrographSet, i: int) -> str:
    """The sum without dose weighting where there is one: its high frequencies are not damped."""
    if micrographs.path_undosed is not None:
        undosed = str(micrographs.path_undosed[i])
        if undosed and Path(undosed).is_file():
            return undosed
    return str(micrographs.path[i])


def _picture_names(micrographs: MicrographSet) -> list[str]:
    """File stems, made unique where micrographs of different folders share one."""
    stems = [Path(str(p)).stem for p in micrographs.path]
    repeated = {s for s in stems if stems.count(s) > 1} if len(set(stems)) < len(stems) else set()
    return [
        f"{s}_{hashlib.sha256(str(p).encode()).hexdigest()[:8]}" if s in repeated else s
        for s, p in zip(stems, micrographs.path, strict=True)
    ]


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None


def _extreme(good: list[dict[str, Any]], which: Any) -> float | None:
    return which(0.5 * (r["defocus_u"] + r["defocus_v"]) for r in good) if good else None

"""Stage `validate`: half maps, and particles and a model where there are any; a report with a verdict out."""

from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import Figure, InputError, Run, stage
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.data.half_maps import check_half_maps as refuse_bad_halves
from cryoloom.geometry import symmetry_matrices
from cryoloom.io.atomic import write_whole
from cryoloom.io.model_file import read_model
from cryoloom.io.particles import ParticleImages
from cryoloom.maps.fsc import half_bit_threshold
from cryoloom.maps.spectrum import shell_frequencies
from cryoloom.maps.superpose import mirror_z
from cryoloom.validation.half_map_checks import HalfMaps, as_tensor, check_half_maps
from cryoloom.validation.items import CATALOGUE, Item, Report
from cryoloom.validation.model_checks import KEYS as MODEL_KEYS
from cryoloom.validation.model_checks import check_model
from cryoloom.validation.particle_checks import KEYS as PARTICLE_KEYS
from cryoloom.validation.particle_checks import ParticleFigures, check_particles
from cryoloom.validation.settings import VALIDATE, ValidateSettings

_ORDER = ("failed", "doubtful", "passed", "not applicable")
"""How answers are listed: what needs a look first."""


@stage(VALIDATE)
def validate_map(
    half1: VolumeMap,
    half2: VolumeMap,
    mask: VolumeMap | None,
    particles: ParticleSet | None,
    tilted: ParticleSet | None,
    model: Path | None,
    settings: ValidateSettings,
    run: Run,
) -> dict[str, Any]:
    """Ask in every known way whether a map is true."""
    refuse_bad_halves(half1, half2, mask)
    symmetry_matrices(settings.symmetry)
    pixel_size = half1.pixel_size
    report = Report()
    given = None if mask is None else as_tensor(mask.data)
    maps = check_half_maps(
        as_tensor(half1.data), as_tensor(half2.data), pixel_size, given, settings.symmetry, run, report
    )
    figures = ParticleFigures(None, None)
    if particles is None:
        report.skip(PARTICLE_KEYS, "No particles were given.")
    elif particles.rotation is None:
        raise InputError("The particles have no poses (rlnAngleRot, rlnAngleTilt, rlnAnglePsi); run refine first.")
    else:
        figures = check_particles(maps, particles, ParticleImages(particles), tilted, settings, run, report)
    if model is not None:
        check_model(maps, read_model(model), half1.origin, settings.model_resolution, run, report)
    report.skip(MODEL_KEYS, "No atomic model was given.")
    _write(report, maps, settings, run)
    _summarise(report, maps, settings, run)
    _show(report, maps, figures, run)
    return _results(maps, half1)


def _write(report: Report, maps: HalfMaps, settings: ValidateSettings, run: Run) -> None:
    text = report.to_json(
        box=maps.half1.shape[0], pixel_size=maps.pixel_size, symmetry=settings.symmetry, seed=run.seed
    )
    with write_whole(run.folder / "validation.json") as file:
        file.write(text.encode() + b"\n")


def _summarise(report: Report, maps: HalfMaps, settings: ValidateSettings, run: Run) -> None:
    verdict, reasons = report.verdict()
    items = report.items()
    for item in items:
        if item.status == "failed":
            run.warn(item.said)
    best, worst = maps.found.interval
    run.summarise(
        verdict=verdict,
        reasons=reasons,
        n_in=2,
        n_out=1,
        resolution=round(maps.found.resolution, 3),
        resolution_interval=[round(best, 3), round(worst, 3)],
        resolution_interval_by_permutation=_detail(items, "resolution", "interval_by_permutation"),
        symmetry=settings.symmetry,
        pixel_size=maps.pixel_size,
        hand=maps.hand.call,
        particles_asked=report.asked_particles(),
        **{f"n_{s.replace(' ', '_')}": sum(i.status == s for i in items) for s in ("passed", "doubtful", "failed")},
    )


def _detail(items: list[Item], key: str, name: str) -> Any:
    """A detail of an item, None if it is not there."""
    return next((item.detail.get(name) for item in items if item.key == key), None)


def _results(maps: HalfMaps, half1: VolumeMap) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if maps.local is not None:
        results["local_resolution"] = VolumeMap(maps.local.consensus, maps.pixel_size, half1.origin)
    if maps.hand.call != "right":
        results["map_this_hand"] = VolumeMap(maps.mean.numpy(), maps.pixel_size, half1.origin)
        results["map_other_hand"] = VolumeMap(mirror_z(maps.mean).contiguous().numpy(), maps.pixel_size, half1.origin)
    return results


def _show(report: Report, maps: HalfMaps, figures: ParticleFigures, run: Run) -> None:
    items = sorted(report.items(), key=lambda item: _ORDER.index(item.status))
    counts = {status: sum(item.status == status for item in items) for status in _ORDER}
    run.show(
        Figure(
            name="items",
            kind="table",
            title="What was asked, and what came out",
            caption=f"{counts['failed']} failed, {counts['doubtful']} doubtful, {counts['passed']} passed. Failed ones "
            f"decide the verdict. {counts['not applicable']} do not apply: they lacked their input, which is named.",
            data={
                "columns": {
                    "question": [CATALOGUE[i.key] for i in items],
                    "answer": [i.status for i in items],
                    "in words": [i.said for i in items],
                },
                "marks": "answer",
            },
        )
    )
    if maps.local is not None:
        values = maps.local.consensus[maps.mask.numpy() > 0.5]
        run.show(
            Figure(
                name="local",
                kind="histogram",
                title="Local resolution",
                caption="Of all voxels inside the mask, by both methods together. A long tail to coarse values means "
                "parts that move or are not there in all particles.",
                x_label="local resolution (Å)",
                y_label="voxels",
                data={
                    "values": values[:: max(1, len(values) // 200_000)],
                    "lines": {"median": float(np.median(values))},
                },
            )
        )
    curves = maps.found.curves
    frequency = shell_frequencies(maps.half1.shape, maps.pixel_size)
    run.show(
        Figure(
            name="fsc",
            kind="curves",
            title="Fourier shell correlation",
            caption="Behind the mask of standard width. The corrected curve counts; where it crosses 0.143 is the "
            "resolution. Below the curve of chance lie 97.5 % of the correlations of shells without signal, by "
            "permutation of the coefficients of the halves; half-bit is the limit of half a bit of information.",
            x_label="Resolution",
            y_label="FSC",
            data={
                "x": frequency,
                "y": {
                    "corrected": curves.corrected,
                    "unmasked": curves.unmasked,
                    "phase-randomised": curves.phase_randomised,
                    "chance": np.nan_to_num(maps.permuted.high, nan=1.0),
                    "half-bit": half_bit_threshold(1.0 / np.diag(maps.found.covariance)).numpy(),
                },
                "lines": {"0.143": 0.143, "0.5": 0.5},
                "mark": 1 / maps.found.resolution,
                "resolution_axis": True,
            },
        )
    )
    if maps.wilson is not None:
        used = np.isfinite(maps.wilson.line)
        run.show(
            Figure(
                name="wilson",
                kind="curves",
                title="Wilson plot",
                caption="Amplitude shared by the halves, relative to an average protein. It should follow the line.",
                x_label="Resolution",
                y_label="ln amplitude, relative to a protein",
                data={
                    "x": maps.wilson.frequency[used],
                    "y": {"map": maps.wilson.log_amplitude[used], "fit": maps.wilson.line[used]},
                    "squared_axis": True,
                    "resolution_axis": True,
                },
            )
        )
    if figures.held_out is not None:
        n = min(len(curve.cumulative) for curve in figures.held_out)
        run.show(
            Figure(
                name="held_out",
                kind="curves",
                title="Gain of particles that the map was not made of",
                caption="Summed up to each resolution, per particle. A curve that falls shows detail that is made up.",
                x_label="Resolution",
                y_label="gain in log-likelihood",
                data={
                    "x": frequency[:n],
                    "y": {f"map of half {h}": c.cumulative[:n] for h, c in zip((2, 1), figures.held_out, strict=True)},
                    "resolution_axis": True,
                },
            )
        )
    if figures.reslog is not None:
        run.show(
            Figure(
                name="reslog",
                kind="curves",
                title="Resolution against number of particles",
                caption="With exchanged poses the particles show no detail; the gap between the curves is signal.",
                x_label="ln of the number of particles",
                y_label="1 / resolution² (1/Å²)",
                data={
                    "x": np.log(figures.reslog.n_particles),
                    "y": {
                        "particles": 1 / figures.reslog.resolution**2,
                        "exchanged poses": 1 / figures.reslog.control**2,
                    },
                },
            )
        )

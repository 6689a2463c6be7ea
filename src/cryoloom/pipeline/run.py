"""The whole way: movies, micrographs or particles to a validated, sharpened map.

Each step is a job of the project, so the way can be killed anywhere and taken up again, and any step can be repeated
by hand with other settings. What the user does not say is found on the way: diameter, box, mask, classes, resolution.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryoloom.contract import InputError, TooManyFailures, WorkFailed
from cryoloom.pipeline.api import plan_stage
from cryoloom.pipeline.picking_rounds import find_particles
from cryoloom.pipeline.second_look import refine_again
from cryoloom.pipeline.settings import RUN, RunSettings
from cryoloom.pipeline.verdict import join_verdicts
from cryoloom.pipeline.watch import Watch, follow
from cryoloom.pipeline.way import Way
from cryoloom.project.files import read_json, write_json
from cryoloom.project.folder import create_project
from cryoloom.project.progress import NoProgress, ProgressSink
from cryoloom.project.runner import JobResult, make_settings

_OPTICS = ("pixel_size", "voltage_kv", "cs_mm", "amplitude_contrast")


def run_pipeline(
    inputs: Mapping[str, Any],
    settings: RunSettings | Mapping[str, Any] | None = None,
    *,
    out: Path | str,
    device: str = "auto",
    require_gpu: bool = False,
    threads: int | None = None,
    seed: int = 0,
    new: bool = False,
    sink: ProgressSink | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Take data to a map.

    Parameters
    ----------
    inputs
        One of `movies`, `micrographs`, `particles` (patterns, lists or STAR files), and `gain` with movies.
    settings
        `RunSettings` or its values.
    out
        Project folder; made when absent. The same call again goes on where the last one ended.
    device, require_gpu, threads, seed
        Where and how to compute.
    new
        Repeat all steps as new jobs.
    sink
        Shows progress.
    watch
        Movies arrive in a folder: they are corrected and their CTF is found as they come, particles are picked too when
        `diameter` is given; when it is quiet the way goes on to the map.

    Returns
    -------
    summary
        What `summary.json` of the project holds: verdict, reasons, resolution, counts, paths of map and report.

    Raises
    ------
    InputError
        If the input is wrong, or not exactly one kind is given.
    WorkFailed
        If a step cannot go on; what is done is kept.
    """
    model = make_settings(RUN, settings)
    assert isinstance(model, RunSettings)
    kinds = [kind for kind in ("movies", "micrographs", "particles") if inputs.get(kind)]
    if watch is not None and kinds:
        raise InputError(f"Give either --{kinds[0]} or --watch.")
    if watch is None and len(kinds) != 1:
        raise InputError("Give exactly one of --movies, --micrographs and --particles.")
    project = create_project(Path(out))
    sink = sink or NoProgress()
    options = {
        "project": project,
        "device": device,
        "require_gpu": require_gpu,
        "threads": threads,
        "seed": seed,
        "new": new,
    }
    way = Way(project.root, model, options, sink)
    started = time.monotonic()
    try:
        if watch is not None:
            final = _micrographs_to_map(way, _watch_movies(way, inputs, watch, started))
        elif kinds[0] == "particles":
            job = way.step("import", {"files": inputs["particles"]}, kind="particles", **_optics(model))
            final = _particles_to_map(way, job["particles"], None, None)
        else:
            micrographs = _to_micrographs(way, kinds[0], inputs)
            final = _micrographs_to_map(way, micrographs)
    finally:
        _write_summary(way, started)
    summary = _write_summary(way, started, final)
    summary["report"] = str(_report(way))
    return summary


def _report(way: Way) -> Path:
    """The page of the project, drawn unless it tells of these jobs already."""
    page = way.root / "report.html"
    records = [job.folder / "job.json" for job in way.jobs]
    if all(job.resumed for job in way.jobs) and page.exists():
        if page.stat().st_mtime_ns > max(record.stat().st_mtime_ns for record in records):
            return page
    from cryoloom.report.project import write_project_report

    return write_project_report(way.root)


def plan_pipeline(
    inputs: Mapping[str, Any], settings: Mapping[str, Any] | None, *, threads: int | None = None
) -> dict[str, Any]:
    """Time, memory and disk of the whole way, estimated from the size of its input."""
    model = make_settings(RUN, settings)
    kind = next((kind for kind in ("movies", "micrographs", "particles") if inputs.get(kind)), None)
    if kind is None:
        raise InputError("Give exactly one of --movies, --micrographs and --particles.")
    stages = {
        "movies": ("motion", "ctf", "pick", "extract", "class2d", "abinitio", "refine"),
        "micrographs": ("ctf", "pick", "extract", "class2d", "abinitio", "refine"),
        "particles": ("class2d", "abinitio", "refine"),
    }[kind]
    plan = plan_stage("import", {"files": inputs[kind]}, {"kind": kind}, threads=threads)
    from cryoloom.project.plan import scale_plan

    return scale_plan(plan, stages, model.model_dump(mode="json"))


def _optics(settings: RunSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in _OPTICS if name in settings.model_fields_set}


def _to_micrographs(way: Way, kind: str, inputs: Mapping[str, Any]) -> Path:
    settings = way.settings
    if kind == "movies":
        gain = {"gain": inputs["gain"]} if inputs.get("gain") else {}
        job = way.step(
            "import",
            {"files": inputs["movies"], **gain},
            kind="movies",
            dose_per_frame=settings.dose_per_frame,
            **_optics(settings),
        )
        job = way.step("motion", {"movies": job["movies"], **gain})
    else:
        job = way.step("import", {"files": inputs["micrographs"]}, kind="micrographs", **_optics(settings))
    job = way.step("ctf", {"micrographs": job["micrographs"]})
    if job.summary["n_out"] == 0:
        raise WorkFailed(
            f"No micrograph shows the rings of a CTF; see the pictures in {job.folder}. Check the pixel size and the "
            "voltage, or whether these are micrographs of a thin sample."
        )
    return job["micrographs"]


def _watch_movies(way: Way, inputs: Mapping[str, Any], watch: Watch, started: float) -> Path:
    """Movies to micrographs with their CTF while they arrive; the table of all of them."""
    settings = way.settings
    gain = {"gain": inputs["gain"]} if inputs.get("gain") else {}
    table: list[Path] = []

    def take(files: list[Path]) -> bool:
        try:
            job = way.step(
                "import",
                {"files": files, **gain},
                growing="files",
                kind="movies",
                dose_per_frame=settings.dose_per_frame,
                **_optics(settings),
            )
            job = way.step("motion", {"movies": job["movies"], **gain}, growing="movies")
            job = way.step("ctf", {"micrographs": job["micrographs"]}, growing="micrographs")
            if job.summary["n_out"]:
                table[:] = [job["micrographs"]]
                if settings.diameter:
                    way.step("pick", {"micrographs": table[0]}, growing="micrographs", diameter=settings.diameter)
        except (TooManyFailures, WorkFailed) as error:
            way.sink.message(f"{error} Watching goes on.", warning=True)
        _write_summary(way, started)
        return False

    follow(watch, "movies", take)
    if not table:
        raise WorkFailed(f"--watch {watch.folder}: no movie arrived that shows the rings of a CTF.")
    return table[0]


def _micrographs_to_map(way: Way, micrographs: Path) -> JobResult | None:
    """Find the particles in rounds of picking and 2D classes, then go to 3D."""
    found = find_particles(way, micrographs)
    return None if found is None else _particles_to_map(way, found.particles, micrographs, found.diameter)


def _particles_to_map(way: Way, particles: Path, micrographs: Path | None, diameter: float | None) -> JobResult | None:
    symmetry = way.settings.symmetry
    if micrographs is None:
        classes = way.step("class2d", {"particles": particles}, mask_diameter=diameter and 1.25 * diameter)
        if classes.summary["n_out"] > 0:
            particles = classes["selected"]
        diameter = diameter or classes.summary.get("particle_diameter")
    mask_diameter = diameter and 1.25 * diameter
    start = way.step("abinitio", {"particles": particles}, symmetry=symmetry, mask_diameter=mask_diameter)
    if start.summary["verdict"] == "not found":
        return None
    if micrographs is not None:
        job = way.step("extract", {"micrographs": micrographs, "particles": start["particles"]}, diameter=diameter)
        particles = job["particles"]
    else:
        particles = start["particles"]

    def refine(images: Path) -> JobResult:
        return way.step(
            "refine",
            {"particles": images, "reference": start["class001"]},
            symmetry=symmetry,
            mask_diameter=mask_diameter,
            initial_lowpass=start.summary.get("resolution"),
        )

    refined = refine(particles)
    if micrographs is not None and diameter is not None:
        refined = refine_again(way, micrographs, refined, diameter, refine)
    halves = {"half1": refined["half1"], "half2": refined["half2"]}
    final = way.step("postprocess", halves, symmetry=symmetry)
    way.step("resolution", {**halves, "mask": final["mask"], "particles": refined["particles"]}, symmetry=symmetry)
    return final


def _write_summary(way: Way, started: float, final: JobResult | None = None) -> dict[str, Any]:
    """`summary.json` of the project: the figures of its jobs, and one verdict."""
    by_stage = {job.folder.parent.name: job for job in way.jobs}
    verdict, reasons = join_verdicts(
        [(job.folder.parent.name, job.summary) for job in by_stage.values()], has_map=final is not None
    )
    summary: dict[str, Any] = {
        "stage": "run",
        "verdict": verdict,
        "reasons": reasons,
        "symmetry": way.settings.symmetry,
        "n_in": way.jobs[0].summary.get("n_in") if way.jobs else None,
        "n_out": None,
        "resolution": None,
        "resolution_interval": None,
        "pixel_size": None,
        "map": None,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(sum(job.summary.get("cpu_seconds", 0) for job in way.jobs), 1),
        "peak_memory_mb": max((job.summary.get("peak_memory_mb", 0) for job in way.jobs), default=0),
        "warnings": [f"{job.folder.parent.name}: {text}" for job in way.jobs for text in job.summary["warnings"]],
        "left_out": [entry for job in way.jobs for entry in job.summary["left_out"]],
        "jobs": [str(job.folder.relative_to(way.root)) for job in way.jobs],
    }
    if "class2d" in by_stage:
        summary["n_in"] = by_stage["class2d"].summary.get("n_in")
    if "refine" in by_stage:
        summary["n_out"] = by_stage["refine"].summary.get("n_out")
    if final is not None:
        for name in ("resolution", "resolution_interval", "pixel_size"):
            summary[name] = final.summary.get(name)
        summary["map"] = str(final["map_sharpened"].relative_to(way.root))
    write_json(way.root / "summary.json", summary)
    return read_json(way.root / "summary.json")

"""The report of a project: the verdict first, then every step of the way on one page."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cryoloom
from cryoloom.project.figures import load_figures
from cryoloom.project.files import read_json
from cryoloom.report.job import JobView, headline, maps_of, view_of_job, write_page
from cryoloom.report.labels import key_figures, rank_reasons, rank_warnings, verdict_words, with_title
from cryoloom.report.page import Piece, environment, hero_picture, on_top
from cryoloom.report.record import cards_of, write_record
from cryoloom.report.views import write_views

_SHOWN_MAPS = ("map_sharpened", "map_local", "map", "half1", "half2", "mask", "local_resolution")
_EVIDENCE = ((("validate", "postprocess", "refine"), "fsc"), (("resolution",), "cones"), (("resolution",), "local"))
"""Figures that show whether a map can be trusted, each from the first of these stages that has it."""

_MAP_FROM = ("postprocess", "refine", "reconstruct", "abinitio")


def write_project_report(folder: Path, jobs: Sequence[Path] | None = None) -> Path:
    """Write `report.html` of a project folder.

    Parameters
    ----------
    folder
        The project folder; `summary.json` in it, if there is one, gives the verdict and the figures on top.
    jobs
        Job folders in order; by default all finished jobs by their start, the last of each stage where the project was
        run in one go.

    Returns
    -------
    path
        Of the page.
    """
    folder = Path(folder)
    summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else {}
    if jobs is None:
        jobs = _jobs_of(folder, summary)
    views = _numbered([view_of_job(Path(job)) for job in jobs])
    last = _last_map_job([Path(job) for job in jobs])
    top: dict[str, Any] = dict(_read_summary(last)) if last else {}
    top.update({key: value for key, value in summary.items() if value is not None})
    if "verdict" in top:
        said, kind = verdict_words(str(top["verdict"]), is_map=True)
    else:
        said, kind = "Not finished", "care"
    reasons = [with_title(text) for text in rank_reasons([str(reason) for reason in top.get("reasons", [])])]
    collected = [with_title(str(text)) for text in summary.get("warnings", [])]
    for view in views:
        collected += [
            f"{view.title}: {text}" for _, text in view.warnings if not any(known.endswith(text) for known in collected)
        ]
    view_files = write_views(folder, _maps_of_project([Path(job) for job in jobs]))
    write_record(
        folder,
        {
            "project": folder.resolve().name,
            "verdict": top.get("verdict"),
            "reasons": reasons,
            "key_figures": cards_of(key_figures(top)),
            "warnings": [text for _, text in rank_warnings(collected)],
            "steps": [
                {
                    "stage": view.stage,
                    "title": view.title,
                    "folder": view.folder,
                    "verdict": view.verdict,
                    "n_in": read.get("n_in"),
                    "n_out": read.get("n_out"),
                    "seconds": read.get("seconds"),
                }
                for view, read in ((v, _read_summary(Path(job))) for v, job in zip(views, jobs, strict=True))
            ],
            "summary": summary,
            "views": view_files,
        },
    )
    page = (
        environment()
        .get_template("project.html")
        .render(
            title=folder.resolve().name,
            when=_when(views),
            verdict_class=kind,
            verdict_words=said,
            headline=headline("postprocess", top, "No map" if "verdict" in top else "No map yet"),
            reasons=reasons,
            cards=key_figures(top),
            warnings=rank_warnings(collected),
            evidence=_evidence(views),
            jobs=views,
            hero=_hero(last),
            views=view_files,
            version=cryoloom.__version__,
        )
    )
    return write_page(folder / "report.html", page)


def _jobs_of(folder: Path, summary: Mapping[str, Any]) -> list[Path]:
    """Jobs named by the summary of a run, else all finished ones in the order they were started."""
    named = [folder / str(job) for job in summary.get("jobs", []) if isinstance(job, str)]
    if named and all((job / "job.json").exists() for job in named):
        return named
    found = []
    for path in folder.glob("*/[0-9][0-9][0-9]*/job.json"):
        record = read_json(path)
        if record.get("state") in ("finished", "running") and (path.parent / "summary.json").exists():
            found.append((str(record.get("started", "")), path.parent))
    return [job for _, job in sorted(found)]


def _numbered(views: Sequence[JobView]) -> list[JobView]:
    """Number the titles of steps that were taken more than once."""
    counts: dict[str, int] = {}
    numbered = []
    for view in views:
        counts[view.title] = counts.get(view.title, 0) + 1
        n = counts[view.title]
        numbered.append(dataclasses.replace(view, title=f"{view.title}, round {n}") if n > 1 else view)
    return numbered


def _evidence(views: Sequence[JobView]) -> list[Piece]:
    """The figures by which a reader judges the map at a glance."""
    found = []
    for stages, name in _EVIDENCE:
        pieces = [
            piece
            for stage in stages
            for view in reversed(views)
            if view.stage == stage
            for piece in (*view.shown, *view.more)
            if piece.name == name
        ]
        found += [on_top(piece) for piece in pieces[:1]]
    return found


def _last_map_job(jobs: Sequence[Path]) -> Path | None:
    for stage in _MAP_FROM:
        for job in reversed(jobs):
            if job.parent.name == stage:
                return job
    return None


def _maps_of_project(jobs: Sequence[Path]) -> dict[str, Path]:
    """The maps a person wants to see: the newest sharpened map, halves, mask and local resolution."""
    found: dict[str, Path] = {}
    for job in reversed(jobs):
        for name, path in maps_of(job).items():
            if name in _SHOWN_MAPS and name not in found:
                found[name] = path
    return found


def _read_summary(job: Path) -> dict[str, Any]:
    return read_json(job / "summary.json") if (job / "summary.json").exists() else {}


def _hero(job: Path | None) -> str | None:
    if job is None:
        return None
    volume = next((figure for figure in load_figures(job) if figure.kind == "volume"), None)
    return hero_picture(volume) if volume else None


def _when(views: Sequence[JobView]) -> str:
    return max((view.when for view in views), default="")

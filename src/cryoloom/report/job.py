"""The report of one job: `report.html` beside its results, and its pictures as PNG files."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cryoloom
from cryoloom.contract import Figure
from cryoloom.project.figures import load_figures
from cryoloom.project.files import read_json
from cryoloom.report.draw import Drawings
from cryoloom.report.labels import (
    duration,
    key_figures,
    other_figures,
    rank_warnings,
    stage_title,
    verdict_words,
)
from cryoloom.report.page import Piece, environment, hero_picture, make_piece, save_png
from cryoloom.report.plots import format_value
from cryoloom.report.record import cards_of, write_record
from cryoloom.report.views import write_views

MAP_STAGES = ("abinitio", "refine", "reconstruct", "postprocess", "resolution", "validate")
ONE_MAP = ("postprocess", "resolution")
"""Stages for which a count of what went in and came out says nothing."""

_ORDER = ("volume", "gallery", "curves", "image", "orientations", "scatter", "histogram", "table")

N_LIKE = 3
"""Pictures of one series (`picks_1`, `picks_2`, ...) that are shown at once; the rest is folded away."""


@dataclass(frozen=True)
class JobView:
    """What the templates show of one job."""

    stage: str
    title: str
    words: str
    folder: str
    when: str
    verdict: str
    verdict_words: str
    verdict_class: str
    headline: str
    reasons: list[str]
    cards: list[tuple[str, str, str, str]]
    warnings: list[tuple[bool, str]]
    shown: list[Piece]
    more: list[Piece]
    left_out: list[tuple[str, str]]
    other: list[tuple[str, str]]
    provenance: list[tuple[str, str]]
    n_in: str
    n_out: str
    time: str
    hero: str | None = None


def write_job_report(folder: Path) -> Path:
    """Draw the figures of a job folder and write `report.html` there.

    Parameters
    ----------
    folder
        A job folder with `job.json`, `summary.json` and `figures/`.

    Returns
    -------
    path
        Of the page.
    """
    folder = Path(folder)
    figures = load_figures(folder)
    drawings = Drawings()
    view = view_of_job(folder, figures, with_hero=True, drawings=drawings)
    for figure in figures:
        if figure.kind != "table":
            try:
                save_png(figure, folder / f"{figure.name}.png", drawings)
            except Exception:
                continue  # the page says in its place that it could not be drawn
    views = write_views(folder, maps_of(folder), figures)
    write_record(folder, record_of(view, folder, figures) | {"views": views})
    page = environment().get_template("job.html").render(job=view, views=views, version=cryoloom.__version__)
    return write_page(folder / "report.html", page)


def maps_of(folder: Path) -> dict[str, Path]:
    """Result name -> MRC file of a job, as its record lists them."""
    outputs = _read(folder / "job.json").get("outputs") or {}
    return {
        name: folder / file
        for name, file in outputs.items()
        if str(file).endswith(".mrc") and (folder / file).is_file()
    }


def record_of(view: JobView, folder: Path, figures: Sequence[Figure]) -> dict[str, Any]:
    """What a page says of a job, for `report.json`."""
    return {
        "stage": view.stage,
        "title": view.title,
        "folder": view.folder,
        "started": view.when,
        "verdict": view.verdict,
        "headline": view.headline,
        "reasons": view.reasons,
        "key_figures": cards_of(view.cards),
        "warnings": [text for _, text in view.warnings],
        "left_out": [{"item": item, "cause": cause} for item, cause in view.left_out],
        "figures": [
            {
                "name": figure.name,
                "kind": figure.kind,
                "title": figure.title,
                "caption": figure.caption,
                "data": f"figures/{figure.name}.json",
                "picture": f"{figure.name}.png" if (folder / f"{figure.name}.png").exists() else None,
            }
            for figure in figures
        ],
        "summary": _read(folder / "summary.json"),
        "provenance": dict(view.provenance),
    }


def view_of_job(
    folder: Path,
    figures: Sequence[Figure] | None = None,
    *,
    with_hero: bool = False,
    drawings: Drawings | None = None,
) -> JobView:
    """Gather what a page shows of one job."""
    drawings = drawings or Drawings()
    record = _read(folder / "job.json")
    summary = _read(folder / "summary.json")
    figures = load_figures(folder) if figures is None else figures
    stage = str(record.get("stage", summary.get("stage", folder.parent.name)))
    title, words = stage_title(stage)
    verdict = str(summary.get("verdict", "found"))
    is_map = stage in MAP_STAGES
    said, kind = verdict_words(verdict, is_map=is_map)
    if verdict == "found" and summary.get("particles_asked") is False:
        said = "The half maps hold together; the particles were not asked"
    first, rest = split_series(figures)
    hero = next((f for f in figures if f.kind == "volume"), None) if with_hero and is_map else None
    seconds = summary.get("seconds")
    return JobView(
        stage=stage,
        title=title,
        words=words,
        folder=f"{folder.parent.name}/{folder.name}",
        when=str(record.get("started", ""))[:16].replace("T", " "),
        verdict=verdict,
        verdict_words=said,
        verdict_class=kind,
        headline=headline(stage, summary, title),
        reasons=[str(reason) for reason in summary.get("reasons", [])],
        cards=key_figures(summary),
        warnings=rank_warnings(summary.get("warnings", [])),
        shown=[make_piece(figure, drawings) for figure in first],
        more=[make_piece(figure, drawings) for figure in rest],
        left_out=[(str(x.get("item", "")), str(x.get("cause", ""))) for x in summary.get("left_out", [])][:500],
        other=other_figures(summary),
        provenance=provenance(record, summary),
        n_in=format_value(summary.get("n_in") if stage not in ONE_MAP else None),
        n_out=format_value(summary.get("n_out") if stage not in ONE_MAP else None),
        time=" ".join(duration(float(seconds))) if seconds is not None else "–",
        hero=hero_picture(hero) if hero else None,
    )


def headline(stage: str, summary: Mapping[str, Any], title: str) -> str:
    """One line that says the most important thing."""
    resolution = summary.get("resolution")
    if resolution is not None and stage in MAP_STAGES:
        return (
            f"{float(resolution):.2f} Å resolution" if summary.get("verdict") != "not found" else "The halves disagree"
        )
    n_in, n_out = summary.get("n_in"), summary.get("n_out")
    if n_in is not None and n_out is not None:
        if n_in == n_out:
            return f"{title}: {format_value(n_out)}"
        verb = "kept" if n_out < n_in else "found"
        return f"{title}: {format_value(n_out)} {verb}" + (f" of {format_value(n_in)}" if n_out < n_in else "")
    return title


def split_series(figures: Sequence[Figure]) -> tuple[list[Figure], list[Figure]]:
    """Figures to show at once (overviews first, few of each series), and those to fold away."""
    order = {kind: i for i, kind in enumerate(_ORDER)}
    seen: dict[str, int] = {}
    first: list[Figure] = []
    rest: list[Figure] = []
    for figure in sorted(figures, key=lambda f: order.get(f.kind, 9)):
        series = figure.name.rstrip("0123456789").rstrip("_-")
        is_numbered = series != figure.name
        count = seen.get(series, 0)
        seen[series] = count + 1
        (rest if is_numbered and count >= N_LIKE else first).append(figure)
    return first, rest


def provenance(record: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Version, place, inputs and settings of a job, line by line."""
    rows = [("program", f"cryoloom {record.get('version', '')}")]
    for key in ("device", "threads", "seed", "host", "python", "started", "ended"):
        if record.get(key) is not None:
            rows.append((key, str(record[key])))
    for key, unit in (("cpu_seconds", "s"), ("peak_memory_mb", "MB")):
        if summary.get(key) is not None:
            rows.append((key.replace("_", " ").removesuffix(" mb"), f"{format_value(summary[key])} {unit}"))
    for name, paths in (record.get("inputs") or {}).items():
        listed = paths if isinstance(paths, list) else [paths]
        shown = ", ".join(str(p) for p in listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
        rows.append((f"input {name}", shown if listed != [None] else "–"))
    for name, value in (record.get("settings") or {}).items():
        rows.append((name, "found from the data" if value is None else format_value(value)))
    return rows


def write_page(path: Path, text: str) -> Path:
    """Write a page so that it appears whole."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
    return path


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}

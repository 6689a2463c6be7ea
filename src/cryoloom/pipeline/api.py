"""Stages as plain functions, with the report drawn when a job ends."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryoloom.contract import InputError
from cryoloom.project.folder import MARKER
from cryoloom.project.plan import estimate_plan
from cryoloom.project.registry import STAGES, find_stage
from cryoloom.project.runner import JobResult, make_settings, run_stage

_RUN_OPTIONS = ("out", "project", "device", "require_gpu", "threads", "seed", "new", "sink")


def run_stage_with_report(name: str, inputs: Mapping[str, Any], settings: Any = None, **options: Any) -> JobResult:
    """`run_stage`, and the job's `report.html` and pictures beside its results."""
    return run_stage(name, inputs, settings, on_finish=_draw_report, **options)


def stage_function(name: str) -> Callable[..., JobResult]:
    """A stage as a function that takes its inputs and settings by name, as the command does.

    Raises
    ------
    AttributeError
        If there is no such stage.
    """
    stage = next((s for s in STAGES if s.replace(" ", "_").replace("-", "_") == name.rstrip("_")), None)
    if stage is None:
        raise AttributeError(f"module 'cryoloom' has no attribute {name!r}")
    declaration = find_stage(stage)
    input_names = {declared.name for declared in declaration.inputs}

    def call(**arguments: Any) -> JobResult:
        options = {k: arguments.pop(k) for k in _RUN_OPTIONS if k in arguments}
        inputs = {k: arguments.pop(k) for k in list(arguments) if k in input_names}
        settings = arguments.pop("settings", None)
        if settings is not None and arguments:
            raise InputError(f"{stage}: give settings as a model or by name, not both.")
        return run_stage_with_report(stage, inputs, settings if settings is not None else arguments, **options)

    call.__name__ = name
    call.__doc__ = declaration.help
    return call


def plan_stage(
    name: str, inputs: Mapping[str, Any], settings: Any = None, *, threads: int | None = None
) -> dict[str, Any]:
    """Time, memory and disk that a stage would take, without running it."""
    declaration = find_stage(name)
    return estimate_plan(declaration, dict(inputs), make_settings(declaration, settings), threads=threads)


def write_report(folder: Path) -> Path:
    """Draw the report of a job folder, or of a whole project, again.

    Raises
    ------
    InputError
        If the folder is neither.
    """
    from cryoloom.report.job import write_job_report
    from cryoloom.report.project import write_project_report

    if (folder / MARKER).exists():
        return write_project_report(folder)
    if (folder / "job.json").exists():
        return write_job_report(folder)
    raise InputError(f"{folder} is neither a project ({MARKER}) nor a job folder (job.json).")


def _draw_report(folder: Path) -> None:
    from cryoloom.report.job import write_job_report

    write_job_report(folder)

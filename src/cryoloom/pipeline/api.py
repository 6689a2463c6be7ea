"""Stages as plain functions, with the report drawn when a job ends."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryoloom.contract import InputError, StageDeclaration
from cryoloom.project.folder import MARKER
from cryoloom.project.plan import estimate_plan
from cryoloom.project.registry import STAGES, find_stage
from cryoloom.project.runner import JobResult, check_inputs, make_settings, run_stage

_RUN_OPTIONS = ("out", "project", "device", "require_gpu", "threads", "seed", "new", "sink", "watch")


def run_stage_with_report(name: str, inputs: Mapping[str, Any], settings: Any = None, **options: Any) -> JobResult:
    """`run_stage`, and the job's `report.html` and pictures beside its results."""
    return run_stage(name, inputs, settings, on_finish=_draw_report, **options)


def stage_function(name: str) -> Callable[..., Any]:
    """A stage, or `run`, as a function that takes its inputs and settings by name, as the command does.

    A stage returns its `JobResult`, `run` the summary of the project. `watch`, a folder or a `Watch`, makes `run` and
    the stages that can watch take what arrives there.

    Raises
    ------
    AttributeError
        If there is no such stage.
    """
    if name == "run":
        return _run_function()
    stage = next((s for s in STAGES if s.replace(" ", "_").replace("-", "_") == name.rstrip("_")), None)
    if stage is None:
        raise AttributeError(f"module 'cryoloom' has no attribute {name!r}")
    declaration = find_stage(stage)

    def call(**arguments: Any) -> JobResult:
        inputs, settings, options = _sort_arguments(declaration, arguments)
        watch = options.pop("watch", None)
        if watch is None:
            return run_stage_with_report(stage, inputs, settings, **options)
        from cryoloom.pipeline.watch import watch_stage

        return watch_stage(stage, inputs, settings, watch, **options)

    call.__name__ = name
    call.__doc__ = declaration.help
    return call


def _run_function() -> Callable[..., dict[str, Any]]:
    from cryoloom.pipeline.settings import RUN

    def run(**arguments: Any) -> dict[str, Any]:
        from cryoloom.pipeline.run import run_pipeline

        inputs, settings, options = _sort_arguments(RUN, arguments)
        if not options.get("out"):
            raise InputError("Where shall the project go? Give out=DIR.")
        return run_pipeline(inputs, settings, **options)

    run.__doc__ = RUN.help
    return run


def _sort_arguments(
    declaration: StageDeclaration, arguments: dict[str, Any]
) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """Inputs, settings, and options of the job, out of the arguments of a call."""
    input_names = {declared.name for declared in declaration.inputs}
    options = {k: v for k, v in arguments.items() if k in _RUN_OPTIONS}
    inputs = {k: v for k, v in arguments.items() if k in input_names}
    named = {k: v for k, v in arguments.items() if k not in options and k not in inputs and k != "settings"}
    settings = arguments.get("settings")
    if settings is not None and named:
        raise InputError(f"{declaration.name}: give settings as a model or by name, not both.")
    if isinstance(options.get("watch"), str | Path):
        from cryoloom.pipeline.watch import Watch

        options["watch"] = Watch(Path(options["watch"]).expanduser())
    return inputs, named if settings is None else settings, options


def plan_stage(
    name: str, inputs: Mapping[str, Any], settings: Any = None, *, threads: int | None = None
) -> dict[str, Any]:
    """Time, memory and disk that a stage would take, without running it."""
    declaration = find_stage(name)
    model = make_settings(declaration, settings)
    check_inputs(declaration, inputs)
    return estimate_plan(declaration, dict(inputs), model, threads=threads)


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

"""Run one stage as a job: find or make its folder, load its inputs, call it, write what it returns.

Given again, the same stage, settings and inputs resume an unfinished job and report a finished one.
"""

import datetime
import hashlib
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

import cryoloom
from cryoloom.compute import available_threads, choose_device
from cryoloom.compute.threads import thread_budget
from cryoloom.contract import CryoloomError, InputError, Settings, StageDeclaration, WorkFailed
from cryoloom.project.files import plain, read_json, write_json
from cryoloom.project.folder import Project, find_project, is_unused, read_record
from cryoloom.project.identity import input_identity
from cryoloom.project.job import JobRun, relative_path
from cryoloom.project.progress import NoProgress, ProgressSink
from cryoloom.project.registry import find_stage
from cryoloom.project.stores import input_paths, load_input, store_result

OnFinish = Callable[[Path], None]


@dataclass(frozen=True)
class JobResult:
    """What a finished job left behind.

    Attributes
    ----------
    folder
        The job folder.
    summary
        `summary.json`.
    outputs
        Result name -> file.
    resumed
        True if the job had been finished before and nothing was computed.
    """

    folder: Path
    summary: dict[str, Any]
    outputs: dict[str, Path]
    resumed: bool = False

    def __getitem__(self, name: str) -> Path:
        return self.outputs[name]


def make_settings(declaration: StageDeclaration, values: Settings | Mapping[str, Any] | None) -> Settings:
    """Validate settings; wrong ones are an `InputError` that names the setting, its limits and what came."""
    if isinstance(values, declaration.settings):
        return values
    if isinstance(values, Settings):
        raise InputError(f"{declaration.name}: expected {declaration.settings.__name__}, got {type(values).__name__}.")
    try:
        return declaration.settings(**dict(values or {}))
    except pydantic.ValidationError as error:
        parts = []
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            if problem["type"] == "extra_forbidden":
                parts.append(f"there is no setting {name!r}")
            else:
                message = problem["msg"].removeprefix("Value error, ")
                if name:
                    message = f"--{name.replace('_', '-')}: {message[0].lower()}{message[1:]}, got {problem['input']!r}"
                parts.append(message)
        raise InputError(f"{declaration.name}: {'; '.join(parts)}.") from None


def check_inputs(declaration: StageDeclaration, inputs: Mapping[str, Any]) -> None:
    """Refuse inputs that the stage does not know, and those that it needs and did not get.

    Raises
    ------
    InputError
        With the name of the input.
    """
    unknown = set(inputs) - {declared.name for declared in declaration.inputs}
    if unknown:
        raise InputError(f"{declaration.name}: there is no input {sorted(unknown)[0]!r}.")
    for declared in declaration.inputs:
        value = inputs.get(declared.name)
        if declared.required and (value is None or (isinstance(value, list | tuple) and not value)):
            raise InputError(f"--{declared.name.replace('_', '-')} is missing: {declared.help}")


def job_key(
    declaration: StageDeclaration,
    settings: Settings,
    inputs: Mapping[str, Any],
    seed: int,
    growing: str | None = None,
) -> str:
    """Hash of what a job is: stage, settings, seed and the identities of its input files but of a growing one."""
    identities = {
        name: [input_identity(path, leave_out=declaration.name) for path in input_paths(value)]
        for name, value in inputs.items()
        if name != growing
    }
    what = {"stage": declaration.name, "settings": plain(settings.model_dump()), "seed": seed, "inputs": identities}
    if growing is not None:
        what["growing"] = growing
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def run_stage(
    name: str,
    inputs: Mapping[str, Any] | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    *,
    out: Path | str | None = None,
    project: Project | None = None,
    device: str = "auto",
    require_gpu: bool = False,
    threads: int | None = None,
    seed: int = 0,
    new: bool = False,
    sink: ProgressSink | None = None,
    on_finish: OnFinish | None = None,
    growing: str | None = None,
) -> JobResult:
    """Run a stage, resume it, or report it when it is finished.

    Parameters
    ----------
    name
        Stage name as on the command line.
    inputs
        Input name -> record, path, pattern or list of paths.
    settings
        Settings model, or its values.
    out
        Job folder; by default the next one of the project that the current folder lies in.
    project
        The project; found from `out` or the current folder when absent.
    device, require_gpu, threads, seed
        Where and how to compute.
    new
        Open another job even if the same one exists.
    sink
        Shows progress.
    on_finish
        Called with the folder when the results are written, before the job counts as finished.
    growing
        Name of an input that grows while the job lives (a watched folder): the job goes on with what was added, and
        items that are done are not done again.

    Raises
    ------
    InputError
        Wrong input, settings or folder.
    WorkFailed, TooManyFailures
        The work failed; what is finished is kept and the same call resumes it.
    """
    declaration = find_stage(name)
    inputs = dict(inputs or {})
    model = make_settings(declaration, settings)
    check_inputs(declaration, inputs)
    sink = sink or NoProgress()
    key = job_key(declaration, model, inputs, seed, growing)
    grown = _sizes(inputs[growing]) if growing else None
    folder, project = _choose_folder(declaration, key, out, project, new)
    record = read_record(folder)
    if record is not None:
        if record.get("key") != key:
            raise InputError(
                f"{folder} holds another job ({record.get('stage')}, with other settings or inputs); choose another "
                "--out, or leave it away inside a project."
            )
        if record.get("state") == "finished" and record.get("grown") == grown:
            return _finished(folder, record, resumed=True)
    elif folder.exists() and not is_unused(folder):
        raise InputError(f"{folder} exists, is not empty and holds no job; choose another --out.")

    if not declaration.uses_gpu and (require_gpu or device.startswith("cuda")):
        raise InputError(f"{name} runs on the CPU only in this version; leave --require-gpu and --device cuda away.")
    choice = choose_device(device if declaration.uses_gpu else "cpu", require_gpu=require_gpu)
    choice = choice if declaration.several_gpus else choice.only_first()
    threads = threads or available_threads()
    root = project.root if project else None
    run = JobRun(folder, choice, seed=seed, threads=threads, sink=sink, root=root)
    record = _start_record(declaration, model, inputs, key, seed, choice.description, threads, root)
    if growing:
        record["grown"] = grown
    write_json(folder / "job.json", record)
    run.log(f"cryoloom {cryoloom.__version__}: {name} on {choice.description}, {threads} threads, seed {seed}")
    sink.message(f"{name}: {choice.description}")
    if choice.note:
        run.log(choice.note)
        sink.message(choice.note)
    started, cpu_started = time.monotonic(), _cpu_seconds()
    try:
        # The executor keeps the cores busy; a library that spreads single operations over them as well would
        # wait at the end of each for a core that has other work, and its sums would depend on their number.
        with thread_budget(1):
            arguments = {d.name: load_input(d, inputs.get(d.name), model, root) for d in declaration.inputs}
            result = declaration.load()(**arguments, settings=model, run=run)
        results = result if isinstance(result, dict) else {next(iter(declaration.writes), name): result}
        outputs = {}
        for output, value in results.items():
            path = store_result(output, value, folder, root)
            if path is not None:
                outputs[output] = path
        summary = _summary(run, name, time.monotonic() - started, _cpu_seconds() - cpu_started)
        write_json(folder / "summary.json", summary)
        record["outputs"] = {output: path.name for output, path in outputs.items()}
        if on_finish is not None:
            write_json(folder / "job.json", record)
            on_finish(folder)
        record["state"] = "finished"
        record["ended"] = _now()
        write_json(folder / "job.json", record)
    except BaseException as error:
        record["state"] = "failed" if isinstance(error, Exception) else "stopped"
        record["error"] = str(error) or type(error).__name__
        record["ended"] = _now()
        try:
            run.log(f"{record['state']}: {record['error']}")
            write_json(folder / "job.json", record)
        except OSError:
            pass  # the disk that made the job fail may refuse this too; the error itself is raised below
        if isinstance(error, OSError) and not isinstance(error, CryoloomError):
            raise WorkFailed(_disk_sentence(error, folder)) from error
        raise
    finally:
        run.close()
    return _finished(folder, record, resumed=False)


def _choose_folder(
    declaration: StageDeclaration, key: str, out: Path | str | None, project: Project | None, new: bool
) -> tuple[Path, Project | None]:
    if out is not None:
        folder = Path(out).expanduser().resolve()
        return folder, project or find_project(folder)
    project = project or find_project(Path.cwd())
    if project is None:
        raise InputError("Where shall the results go? Add --out DIR, or work inside a project folder.")
    existing = None if new else project.find_job(key)
    return existing or project.next_job(declaration.name), project


def _start_record(
    declaration: StageDeclaration,
    settings: Settings,
    inputs: Mapping[str, Any],
    key: str,
    seed: int,
    device: str,
    threads: int,
    root: Path | None,
) -> dict[str, Any]:
    named = {}
    for name, value in inputs.items():
        paths = input_paths(value)
        named[name] = (
            [relative_path(path, root) for path in paths] if paths else ("record" if value is not None else None)
        )
    return {
        "schema": 1,
        "stage": declaration.name,
        "key": key,
        "state": "running",
        "settings": plain(settings.model_dump()),
        "inputs": named,
        "seed": seed,
        "device": device,
        "threads": threads,
        "version": cryoloom.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "process": os.getpid(),
        "started": _now(),
    }


def _summary(run: JobRun, name: str, seconds: float, cpu_seconds: float) -> dict[str, Any]:
    base: dict[str, Any] = {"stage": name, "verdict": "found", "reasons": [], "n_in": None, "n_out": None}
    base.update(run.summary)
    base["warnings"] = run.warnings
    base["left_out"] = [{"item": failure.item, "cause": failure.cause} for failure in run.failures]
    base["seconds"] = round(seconds, 2)
    base["cpu_seconds"] = round(cpu_seconds, 2)
    base["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    base["device"] = ", ".join(run.devices)
    return base


def _finished(folder: Path, record: Mapping[str, Any], *, resumed: bool) -> JobResult:
    outputs = {name: folder / file for name, file in record.get("outputs", {}).items()}
    return JobResult(folder, read_json(folder / "summary.json"), outputs, resumed)


def _sizes(value: Any) -> list[list[Any]]:
    """Name, size and time of each file of an input that grows."""
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in input_paths(value)]


def _disk_sentence(error: OSError, folder: Path) -> str:
    where = error.filename or folder
    reason = error.strerror or str(error)
    return f"{where}: {reason}. Free space or fix the permissions, then give the same command again to go on."


def _cpu_seconds() -> float:
    mine = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return mine.ru_utime + mine.ru_stime + children.ru_utime + children.ru_stime


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")

"""A job: one execution of one stage in its own folder. Implements the `Run` protocol of `contract/`."""

import datetime
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import torch

from cryoloom.compute import DeviceChoice, SerialExecutor, ThreadExecutor
from cryoloom.contract import CryoloomError, Executor, Failure, Figure, InputError, TooManyFailures
from cryoloom.project.figures import save_figure
from cryoloom.project.folder import is_leftover
from cryoloom.project.journal import Journal
from cryoloom.project.progress import ProgressLine, ProgressSink

T = TypeVar("T")


class JobRun:
    """What a stage is handed when it runs.

    Parameters
    ----------
    folder
        Folder of the job; created when absent.
    device
        Where the job runs.
    seed
        Seed of the job.
    threads
        Threads the job may use.
    sink
        Shows progress.
    root
        Project folder that the job belongs to, or None.

    Raises
    ------
    InputError
        If another process works in the folder.
    """

    def __init__(
        self,
        folder: Path,
        device: DeviceChoice,
        *,
        seed: int,
        threads: int,
        sink: ProgressSink,
        root: Path | None = None,
    ) -> None:
        self.folder = folder
        self._root = root
        self.device, self.devices = device.device, device.devices
        self.memory_budget = device.memory_budget
        self.seed = seed
        self.threads = threads
        self.executor: Executor = ThreadExecutor(threads) if threads > 1 else SerialExecutor()
        self.summary: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.failures: list[Failure] = []
        self._sink = sink
        self._private = folder / ".state"
        self._private.mkdir(parents=True, exist_ok=True)
        self._log_lock = threading.Lock()
        self._lock = _take_lock(self._private / "lock", folder)
        for path in folder.rglob(".*.part*"):
            if is_leftover(path):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the folder."""
        self._lock.close()

    def generator(self, *key: int | str) -> torch.Generator:
        """A CPU generator seeded by the job's seed and `key`; equal keys give equal streams."""
        text = "/".join(str(part) for part in (self.seed, *key))
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
        return torch.Generator().manual_seed(number)

    def progress(self, total: int, label: str) -> ProgressLine:
        """Start a progress line with the time left."""

        def say(text: str) -> None:
            self.log(text)
            self._sink.message(text)

        return ProgressLine(self._sink, label, total, say)

    def each(
        self,
        items: Sequence[T],
        fn: Callable[[T], dict[str, Any]],
        *,
        key: Callable[[T], str],
        label: str,
        max_failed_fraction: float = 0.5,
    ) -> list[dict[str, Any] | None]:
        """Apply `fn` to every item in parallel, once; see `contract.Run.each`."""
        keys = [key(item) for item in items]
        if len(set(keys)) != len(keys):
            repeated = next(k for k in keys if keys.count(k) > 1)
            raise InputError(f"{label}: {repeated} is listed more than once; remove the duplicate rows.")
        journal = Journal(self._private / f"{_stem(label)}.jsonl")
        allowed = max_failed_fraction * len(items)
        n_failed = sum(1 for k in keys if journal.is_settled(k) and journal.done[k]["cause"] is not None)

        def work(pair: tuple[str, T]) -> tuple[str, dict[str, Any]]:
            name, item = pair
            try:
                with line.at_work_on(name):
                    entry = journal.add(name, result=fn(item))
            except Exception as error:
                if concerns_all(error):
                    raise
                entry = journal.add(name, cause=_one_sentence(error))
                if not isinstance(error, CryoloomError):
                    self._trace(name, error)
            return name, entry

        waiting = [(k, item) for k, item in zip(keys, items, strict=True) if not journal.is_settled(k)]
        if len(waiting) < len(items):
            self.log(f"{label}: {len(items) - len(waiting)} of {len(items)} items were done before")
        with self.progress(len(waiting), label) as line:
            for name, entry in self.executor.map(work, waiting):
                line.advance()
                if entry["cause"] is not None:
                    n_failed += 1
                    self.log(f"left out: {entry['cause']}", item=name)
                    if n_failed > allowed:
                        raise TooManyFailures(
                            f"{label}: {n_failed} of {len(items)} items failed, the last one {name}: {entry['cause']} "
                            f"Finished items are kept; see {self.folder / 'run.log'}."
                        )
        results: list[dict[str, Any] | None] = []
        for name in keys:
            entry = journal.done[name]
            if entry["cause"] is not None:
                self.failures.append(Failure(name, entry["cause"]))
            results.append(entry["result"])
        if n_failed:
            self.warn(f"{label}: {n_failed} of {len(items)} items were left out; their names are in the summary.")
        return results

    def fail(self, failure: Failure) -> None:
        """Record an item that is left out."""
        self.failures.append(failure)
        self.log(f"left out: {failure.cause}", item=failure.item)

    def checkpoint(self, name: str) -> Path:
        """Path of a file in the job's private folder for state that must survive a kill."""
        return self._private / name

    def relative(self, path: Path | str) -> str:
        """A path from the folder of the project if it lies there, else as it is."""
        return relative_path(Path(path), self._root)

    def log(self, message: str, item: str | None = None) -> None:
        """Write a line to `run.log`."""
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        line = f"{now} {item + ': ' if item else ''}{message}\n"
        with self._log_lock, (self.folder / "run.log").open("a", encoding="utf-8") as file:
            file.write(line)

    def warn(self, message: str, item: str | None = None) -> None:
        """Write a warning to `run.log` and to the summary."""
        text = f"{item}: {message}" if item else message
        if text not in self.warnings:
            self.warnings.append(text)
        self.log(f"warning: {message}", item)
        self._sink.message(text, warning=True)

    def summarise(self, **figures: Any) -> None:
        """Add figures to `summary.json`."""
        self.summary.update(figures)

    def show(self, figure: Figure) -> None:
        """Store figure data; it is drawn when the job ends."""
        save_figure(figure, self.folder)

    def _trace(self, name: str, error: Exception) -> None:
        """Write the traceback of an unexpected error to the log, for whoever mends the program."""
        import traceback

        self.log("".join(traceback.format_exception(error)), item=name)


# ENOSPC, EROFS, EDQUOT
_FATAL_ERRNO = (28, 30, 122)


def concerns_all(error: BaseException) -> bool:
    """Whether an error is none of one item: memory used up, a disk full or read-only, a GPU that is full or lost."""
    if isinstance(error, OSError):
        return error.errno in _FATAL_ERRNO
    # of torch, which is not imported here
    of_gpu = type(error).__name__ in ("OutOfMemoryError", "AcceleratorError") or str(error).startswith("CUDA error")
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_gpu)


def relative_path(path: Path, root: Path | None) -> str:
    """A path from a project folder if it lies there, else as it is."""
    if root is not None and path.is_relative_to(root):
        return str(path.relative_to(root))
    return str(path)


def _one_sentence(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, CryoloomError) else f"{type(error).__name__}: {text}"


def _stem(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-").lower() or "items"


def _take_lock(path: Path, folder: Path) -> IO[str]:
    """Hold the folder until this process ends, however it ends."""
    handle = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.seek(0)
        owner = handle.read().strip() or "another process"
        handle.close()
        raise InputError(
            f"{folder} is in use by {owner}; wait until that run ends, stop it, or choose another --out."
        ) from None
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {os.uname().nodename}")
    handle.flush()
    return handle

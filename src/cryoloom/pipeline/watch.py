"""Watching a folder while it fills: complete files only, each once, and the same after any number of kills.

A watched stage is one job whose input grows. Every look that finds something new runs the stage again in its folder;
what it did before stands in the job's journal and is not done again, so stopping loses at most the items under way.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoloom.contract import CryoloomError, InputError, TooManyFailures, WorkFailed
from cryoloom.io.movies import MOVIE_SUFFIXES, PACKED_MOVIES, movie_suffix, open_movie
from cryoloom.pipeline.api import run_stage_with_report
from cryoloom.pipeline.settings import WATCHED_INPUTS
from cryoloom.project.progress import NoProgress
from cryoloom.project.runner import JobResult


@dataclass(frozen=True)
class Watch:
    """What is watched, and for how long.

    Attributes
    ----------
    folder
        Folder that movies arrive in, subfolders included; for the stages behind `motion` the job folder of the stage
        before, whose `micrographs.star` grows.
    pattern
        Names of the files, such as `*.tif`; by default every image format.
    idle
        Watching ends after so many seconds in which nothing new arrived; None: never.
    settle
        A file that did not change for so many seconds is complete, if its inside is; one whose inside is not is handed
        on after 20 times as long, so that it is named among what was left out.
    poll
        Seconds between looks.
    """

    folder: Path
    pattern: str | None = None
    idle: float | None = None
    settle: float = 2.0
    poll: float = 0.5


class Arrivals:
    """The complete movies of a folder, in the order in which they were completed.

    Attributes
    ----------
    version
        Changes whenever a movie was added, went away or was written anew.
    """

    version: Any = None

    def __init__(self, watch: Watch) -> None:
        if not watch.folder.is_dir():
            raise InputError(f"--watch {watch.folder}: there is no such folder.")
        self._watch = watch
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}
        self._whole: dict[Path, tuple[int, int]] = {}

    def complete(self) -> list[Path]:
        """Look once; files that went away are not named any more."""
        now = time.monotonic()
        present = {path: (stat.st_size, stat.st_mtime_ns) for path, stat in self._look()}
        for path, state in present.items():
            before = self._seen.get(path)
            if before is None or before[0] != state:
                self._seen[path] = (state, now)
                continue
            if self._whole.get(path) == state:
                continue
            quiet = now - before[1]
            if (quiet >= self._watch.settle and _is_whole(path)) or quiet >= 20 * self._watch.settle:
                self._whole[path] = state
        self.version = {path: state for path, state in self._whole.items() if path in present}
        return sorted(self.version, key=lambda p: (present[p][1], str(p)))

    def _look(self) -> list[tuple[Path, Any]]:
        found = []
        for path in self._watch.folder.rglob(self._watch.pattern or "*"):
            hidden = any(part.startswith((".", "~")) for part in path.relative_to(self._watch.folder).parts)
            if hidden or (self._watch.pattern is None and movie_suffix(path) not in MOVIE_SUFFIXES):
                continue
            try:
                if path.is_file():
                    found.append((path.resolve(), path.stat()))
            except OSError:
                continue  # it went away between the two
        return found


class GrowingTable:
    """The table of a job that watches, again and again; `version` changes whenever it was written anew."""

    version: Any = None

    def __init__(self, watch: Watch) -> None:
        self._path = watch.folder / "micrographs.star"

    def complete(self) -> list[Path]:
        """The table; none before it exists."""
        try:
            stat = self._path.stat()
        except OSError:
            return []
        self.version = (stat.st_size, stat.st_mtime_ns)
        return [self._path]


def watch_stage(
    name: str,
    inputs: Mapping[str, Any],
    settings: Any,
    watch: Watch,
    *,
    enough: Callable[[JobResult], bool] | None = None,
    **options: Any,
) -> JobResult:
    """Run a stage on what is in a folder and on what arrives there, until it is quiet or `enough` says so.

    Raises
    ------
    InputError
        If the stage cannot watch, or nothing arrived before `watch.idle` seconds were over.
    """
    growing = WATCHED_INPUTS.get(name)
    if growing is None:
        raise InputError(f"{name} cannot watch a folder; these can: {', '.join(WATCHED_INPUTS)}.")
    if inputs.get(growing):
        raise InputError(f"Give either --{growing} or --watch.")
    if name == "pick" and not _given(settings, "diameter"):
        raise InputError(
            "--watch needs --diameter: the size of the particles is otherwise found from all micrographs together."
        )
    result: JobResult | None = None
    sink = options.get("sink") or NoProgress()

    def take(files: list[Path]) -> bool:
        nonlocal result
        try:
            result = run_stage_with_report(name, {**inputs, growing: files}, settings, growing=growing, **options)
        except (TooManyFailures, WorkFailed) as error:
            sink.message(f"{error} Watching goes on.", warning=True)
            return False
        return enough is not None and enough(result)

    follow(watch, growing, take)
    if result is None:
        raise InputError(f"--watch {watch.folder}: no complete {growing} arrived that could be used.")
    return result


def follow(watch: Watch, kind: str, take: Callable[[list[Path]], bool]) -> None:
    """Call `take` with all complete files whenever there are others than before, until it says so or it is quiet."""
    look = Arrivals(watch) if kind == "movies" else GrowingTable(watch)
    before: Any = None
    quiet_since = time.monotonic()
    while True:
        found = look.complete()
        if found and look.version != before:
            before = look.version
            if take(found):
                return
            quiet_since = time.monotonic()
        elif watch.idle is not None and time.monotonic() - quiet_since > watch.idle + watch.settle:
            return
        time.sleep(watch.poll)


def _given(settings: Any, name: str) -> Any:
    return settings.get(name) if isinstance(settings, Mapping) else getattr(settings, name, None)


def _is_whole(path: Path) -> bool:
    """Whether the file holds what its header promises."""
    try:
        with open_movie(path) as movie:
            if movie_suffix(path) in PACKED_MOVIES:  # only unpacking tells
                movie.frames(movie.n_frames - 1, movie.n_frames)
    except (CryoloomError, OSError, ValueError):
        return False
    return True

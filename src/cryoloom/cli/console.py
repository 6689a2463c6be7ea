"""Progress and messages on a terminal, or as plain lines when the output is a file."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class ConsoleSink:
    """Shows progress on standard error; standard output stays free for `--json`."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live: Progress | None = None
        self._tasks: dict[int, TaskID] = {}
        self._labels: dict[int, tuple[str, float, float]] = {}
        self._next = 0
        self._said: set[str] = set()

    def start(self, label: str, total: int) -> int:
        """A new line; returns its number."""
        number, self._next = self._next, self._next + 1
        now = time.monotonic()
        self._labels[number] = (label, now, now)
        if self._console.is_terminal:
            if self._live is None:
                self._live = Progress(
                    TextColumn("  {task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("{task.fields[left]}"),
                    console=self._console,
                    transient=True,
                )
                self._live.start()
            self._tasks[number] = self._live.add_task(label, total=total, left="")
        return number

    def update(self, line: int, done: int, total: int, seconds_left: float | None) -> None:
        """The line has `done` of `total`."""
        left = "" if seconds_left is None else f"{_duration(seconds_left)} left"
        if self._live is not None:
            self._live.update(self._tasks[line], completed=done, left=left)
            return
        label, started, shown = self._labels[line]
        now = time.monotonic()
        if now - shown > 15 and done < total:
            self._labels[line] = (label, started, now)
            self._console.print(f"  {label}: {done} of {total}, {left}")

    def finish(self, line: int) -> None:
        """The line is done."""
        label, started, _ = self._labels.pop(line)
        if self._live is not None:
            self._live.remove_task(self._tasks.pop(line))
            if not self._tasks:
                self._live.stop()
                self._live = None
        self._console.print(f"  {label}: done in {_duration(time.monotonic() - started)}")

    def message(self, text: str, *, warning: bool = False) -> None:
        """Something a user wants to read while the job runs; said once."""
        if text in self._said:
            return
        self._said.add(text)
        self._console.print(f"warning: {text}" if warning else text, style="yellow" if warning else None, markup=False)


def say(text: str) -> None:
    """A line on standard output."""
    print(text)


def complain(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr)


def _duration(seconds: float) -> str:
    seconds = max(0, round(seconds))
    if seconds < 90:
        return f"{seconds} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

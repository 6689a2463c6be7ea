"""Progress reporting. The library never prints: whoever shows progress hands a `ProgressSink` to the job."""

import time
from typing import Protocol


class ProgressSink(Protocol):
    """Shows progress somewhere: a terminal, a web page, nowhere."""

    def start(self, label: str, total: int) -> int:
        """A new line; returns its number."""

    def update(self, line: int, done: int, total: int, seconds_left: float | None) -> None:
        """The line has `done` of `total`."""

    def finish(self, line: int) -> None:
        """The line is done."""

    def message(self, text: str, *, warning: bool = False) -> None:
        """Something a user wants to read while the job runs."""


class NoProgress:
    """Shows nothing."""

    def start(self, label: str, total: int) -> int:
        """See `ProgressSink`."""
        return 0

    def update(self, line: int, done: int, total: int, seconds_left: float | None) -> None:
        """See `ProgressSink`."""

    def finish(self, line: int) -> None:
        """See `ProgressSink`."""

    def message(self, text: str, *, warning: bool = False) -> None:
        """See `ProgressSink`."""


class ProgressLine:
    """One running count with the time left."""

    def __init__(self, sink: ProgressSink, label: str, total: int) -> None:
        self._sink = sink
        self._total = total
        self._done = 0
        self._start = time.monotonic()
        self._line = sink.start(label, total)

    def advance(self, n: int = 1) -> None:
        """Count `n` more items as done."""
        self._done += n
        elapsed = time.monotonic() - self._start
        left = elapsed / self._done * (self._total - self._done) if self._done else None
        self._sink.update(self._line, self._done, self._total, left)

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *exc: object) -> None:
        self._sink.finish(self._line)

"""Progress reporting. The library never prints: whoever shows progress hands a `ProgressSink` to the job."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

SILENCE = 45.0
"""Seconds without a result after which a job says what it is at work on; then after twice as long each time."""


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
    """One running count with the time left, that never falls silent.

    Parameters
    ----------
    say
        Is told when nothing has been finished for a while: storage that does not answer raises no error, and a user
        must see which file it is that a job waits for.
    """

    def __init__(self, sink: ProgressSink, label: str, total: int, say: Callable[[str], None] | None = None) -> None:
        self._sink = sink
        self._label = label
        self._total = total
        self._done = 0
        self._start = self._last = time.monotonic()
        self._line = sink.start(label, total)
        self._at_work: dict[str, float] = {}
        self._ended = threading.Event()
        if say is not None:
            threading.Thread(target=self._watch, args=(say,), name="progress", daemon=True).start()

    def advance(self, n: int = 1) -> None:
        """Count `n` more items as done."""
        self._done += n
        self._last = time.monotonic()
        elapsed = self._last - self._start
        left = elapsed / self._done * (self._total - self._done) if self._done else None
        self._sink.update(self._line, self._done, self._total, left)

    @contextmanager
    def at_work_on(self, item: str) -> Iterator[None]:
        """Name the item that is at work, so that it can be named if it takes long."""
        self._at_work[item] = time.monotonic()
        try:
            yield
        finally:
            self._at_work.pop(item, None)

    def _watch(self, say: Callable[[str], None]) -> None:
        patience, since = SILENCE, self._last
        while not self._ended.wait(min(1.0, 0.2 * patience)):
            if self._last != since:
                patience, since = SILENCE, self._last
            silent = time.monotonic() - since
            if silent >= patience:
                patience *= 2
                say(self._said(silent))

    def _said(self, silent: float) -> str:
        items = sorted(self._at_work.copy().items(), key=lambda item: item[1])
        named = f" At work on {', '.join(name for name, _ in items[:4])}." if items else ""
        advice = " If the storage does not answer, the job can be stopped and run again." if items else ""
        return f"{self._label}: nothing new for {silent:.0f} s, {self._done} of {self._total} done.{named}{advice}"

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._sink.finish(self._line)

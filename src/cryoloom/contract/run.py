"""What a stage is handed when it runs: progress, device, randomness, a folder, and a way to map work.

`project/` and `compute/` implement these protocols; stages know them by these names only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cryoloom.contract.failure import Failure
from cryoloom.contract.figure import Figure

T = TypeVar("T")
S = TypeVar("S")


class Progress(Protocol):
    """A running count with the time left; used as a context manager."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more items as done."""

    def __enter__(self) -> "Progress": ...

    def __exit__(self, *exc: object) -> None: ...


class Executor(Protocol):
    """Runs chunks of work somewhere: threads of this process, the GPUs of this machine, a cluster.

    Chunks must be idempotent. Results come back in the order of the chunks whatever order they ran in,
    so a sum over them does not depend on where they ran.
    """

    n_workers: int

    def map(self, fn: Callable[[T], S], chunks: Iterable[T]) -> Iterator[S]:
        """Apply `fn` to each chunk; results in the order of `chunks`, at most a few chunks ahead."""

    def reduce(self, fn: Callable[[S, S], S], parts: Iterable[S]) -> S:
        """Fold `parts` from the left in their order."""


class Run(Protocol):
    """One execution of one stage.

    Attributes
    ----------
    folder
        Where results go. A stage writes its bulk data here (subfolders allowed) and nowhere else.
    device
        `"cpu"`, `"cuda:0"`, ...; a stage passes it to `torch.device`.
    devices
        All devices that the job may use, the first of them `device`: more than one are GPUs.
    seed
        Seed of the job. Use `generator` rather than the bare number.
    threads
        Threads this job may use in all.
    memory_budget
        Bytes this job may use on its device.
    executor
        Runs chunks of work.
    """

    folder: Path
    device: str
    devices: tuple[str, ...]
    seed: int
    threads: int
    memory_budget: int
    executor: Executor

    def generator(self, *key: int | str) -> Any:
        """A CPU `torch.Generator` seeded by the job's seed and `key`; equal keys give equal streams."""

    def progress(self, total: int, label: str) -> Progress:
        """Start a progress line with the time left."""

    def each(
        self,
        items: Sequence[T],
        fn: Callable[[T], dict[str, Any]],
        *,
        key: Callable[[T], str],
        label: str,
        max_failed_fraction: float = 0.5,
    ) -> list[dict[str, Any] | None]:
        """Apply `fn` to every item in parallel, once.

        `fn` returns a dict of JSON values (NumPy numbers and arrays are stored as lists), which is stored when the
        item is done; an item that is done already is not computed again when a killed job is resumed. Files that
        `fn` writes must appear whole (`cryoloom.io` writers do). An item whose `fn` raises is counted, named in the
        log and in the summary, and yields `None`.

        Returns
        -------
        results
            One dict or `None` per item, in the order of `items`.

        Raises
        ------
        TooManyFailures
            If more than `max_failed_fraction` of the items failed.
        """

    def fail(self, failure: Failure) -> None:
        """Record an item that is left out."""

    def checkpoint(self, name: str) -> Path:
        """Path of a file in the job's private folder for state that must survive a kill (write, then rename)."""

    def relative(self, path: Path | str) -> str:
        """A path as files of the job name it: from the folder of the project if it lies there, else as it is."""

    def log(self, message: str, item: str | None = None) -> None:
        """Write a line to `run.log`."""

    def warn(self, message: str, item: str | None = None) -> None:
        """Write a warning to `run.log` and to the summary."""

    def summarise(self, **figures: Any) -> None:
        """Add figures to `summary.json` (later calls overwrite equal keys)."""

    def show(self, figure: Figure) -> None:
        """Store figure data; it is drawn when the job ends."""

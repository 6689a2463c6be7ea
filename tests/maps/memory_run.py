"""A `Run` in memory, so that a stage function can be tested without a project."""

import hashlib
from pathlib import Path
from typing import Any

import torch


class MemoryRun:
    """Keeps what a stage reports."""

    device, seed, threads, memory_budget = "cpu", 0, 1, 2**31

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.figures: list[Any] = []
        self.executor = self
        self.n_workers = 1

    def generator(self, *key: int | str) -> torch.Generator:
        digest = hashlib.sha256(repr((self.seed, key)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def map(self, fn, chunks):
        return (fn(chunk) for chunk in chunks)

    def progress(self, total: int, label: str) -> "MemoryRun":
        return self

    def advance(self, n: int = 1) -> None:
        pass

    def __enter__(self) -> "MemoryRun":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def log(self, message: str, item: str | None = None) -> None:
        pass

    def warn(self, message: str, item: str | None = None) -> None:
        self.warnings.append(message)

    def summarise(self, **figures: Any) -> None:
        self.summary |= figures

    def show(self, figure: Any) -> None:
        self.figures.append(figure)

"""One thread budget for torch, numba, SciPy's transforms and BLAS.

Work is spread over chunks by the executor; inside a chunk everything runs on one thread, so the cores are
busy without two libraries fighting for them.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import psutil
import threadpoolctl
import torch


def available_threads() -> int:
    """Cores this process may use (respects the affinity mask that batch systems set)."""
    try:
        return max(1, len(psutil.Process().cpu_affinity()))
    except (AttributeError, psutil.Error):
        return max(1, os.cpu_count() or 1)


@contextmanager
def thread_budget(inner: int = 1) -> Iterator[None]:
    """Give each library `inner` threads inside one chunk of work, and restore what was before."""
    before = torch.get_num_threads()
    torch.set_num_threads(inner)
    try:
        with _libraries(len(sys.modules)).limit(limits=inner):
            yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> threadpoolctl.ThreadpoolController:
    """The libraries with threads of their own; looked for again (milliseconds) only after something was imported."""
    return threadpoolctl.ThreadpoolController()

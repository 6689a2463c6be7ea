"""One thread budget for torch, numba, SciPy's transforms and BLAS.

Work is spread over chunks by the executor; inside a chunk everything runs on one thread, so the cores are
busy without two libraries fighting for them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

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
        with threadpoolctl.threadpool_limits(limits=inner):
            yield
    finally:
        torch.set_num_threads(before)

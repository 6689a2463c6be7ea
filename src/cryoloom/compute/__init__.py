"""Devices, memory budget, threads and executors: the only place that chooses where work runs.

Its names are loaded when they are first used, so that `doctor` can speak where PyTorch cannot be loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryoloom.compute.device import DeviceChoice, choose_device
    from cryoloom.compute.executor import SerialExecutor, ThreadExecutor
    from cryoloom.compute.threads import available_threads, thread_budget

__all__ = [
    "DeviceChoice",
    "SerialExecutor",
    "ThreadExecutor",
    "available_threads",
    "choose_device",
    "thread_budget",
]

_HOME = {
    "DeviceChoice": "device",
    "choose_device": "device",
    "SerialExecutor": "executor",
    "ThreadExecutor": "executor",
    "available_threads": "threads",
    "thread_budget": "threads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)

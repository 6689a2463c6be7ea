"""Devices, memory budget, threads and executors: the only place that chooses where work runs."""

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

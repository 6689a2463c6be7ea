"""Choice of the devices and of the memory that a job may use there."""

import re
from dataclasses import dataclass, replace

import psutil
import torch

from cryoloom.compute.memory import available_memory
from cryoloom.contract import InputError


@dataclass(frozen=True)
class DeviceChoice:
    """The device of a job, or several GPUs.

    Attributes
    ----------
    device
        Name for `torch.device`, for instance `"cpu"` or `"cuda:0"`.
    description
        What it is, in words, for the log and the report.
    memory_budget
        Bytes the job may use on it (of several, on the one with least memory).
    note
        What the user should know, or an empty string: that a GPU was looked for and not found.
    others
        Names of more GPUs.
    """

    device: str
    description: str
    memory_budget: int
    note: str = ""
    others: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of all devices."""
        return (self.device, *self.others)

    def only_first(self) -> "DeviceChoice":
        """The first of several, and a word to the user that the others stand idle."""
        if not self.others:
            return self
        first = self.description.split(", GPU ")[0]
        return replace(self, description=first, note="Only the first GPU is used by this step.", others=())


def choose_device(wanted: str = "auto", *, require_gpu: bool = False, memory_fraction: float = 0.6) -> DeviceChoice:
    """Choose the device a job runs on.

    Parameters
    ----------
    wanted
        `auto`, `cpu`, `cuda` (the first GPU), `cuda:N`, several as `cuda:N,M`, or all as `cuda:all`.
    require_gpu
        Refuse to run on the CPU.
    memory_fraction
        Part of the memory now free that the job may use.

    Raises
    ------
    InputError
        If the device does not exist here, or `require_gpu` is set and there is no GPU.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, number = wanted.partition(":")
    if not re.fullmatch(r"auto|cpu|cuda(:(all|\d+(,\d+)*))?", wanted):
        raise InputError(f"--device {wanted}: expected auto, cpu, cuda, cuda:N, cuda:N,M or cuda:all.")
    if require_gpu and (kind == "cpu" or n_gpus == 0):
        why = "the device was set to cpu" if kind == "cpu" else f"PyTorch {torch.__version__} sees no GPU here"
        raise InputError(
            f"A GPU is required (--require-gpu) but {why}; install a CUDA build of PyTorch and its driver, "
            "or leave --require-gpu away to run on the CPU."
        )
    if kind == "cuda" or (kind == "auto" and n_gpus > 0):
        which = range(max(n_gpus, 1)) if number == "all" else sorted({int(n) for n in (number or "0").split(",")})
        if max(which) >= n_gpus:
            raise InputError(
                f"--device {wanted}: this machine has {n_gpus} GPU(s) that PyTorch {torch.__version__} can use; "
                "choose --device cpu, or install a CUDA build of PyTorch and its driver."
            )
        free = min(torch.cuda.mem_get_info(index)[0] for index in which)
        named = ", ".join(f"GPU {index}: {torch.cuda.get_device_name(index)}" for index in which)
        first, *others = [f"cuda:{index}" for index in which]
        return DeviceChoice(first, named, int(free * memory_fraction), others=tuple(others))
    free = available_memory()
    note = ""
    if kind == "auto":
        note = (
            "No GPU found: running on the CPU. Most steps may take 10 to 30 times longer than on a GPU (the ratio of "
            "memory bandwidths; not measured)."
        )
    return DeviceChoice("cpu", f"CPU, {psutil.cpu_count()} cores", int(free * memory_fraction), note)

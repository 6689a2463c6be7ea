"""Choice of the device and of the memory that a job may use there."""

from dataclasses import dataclass

import psutil
import torch

from cryoloom.compute.memory import available_memory
from cryoloom.contract import InputError


@dataclass(frozen=True)
class DeviceChoice:
    """The device of a job.

    Attributes
    ----------
    device
        Name for `torch.device`, for instance `"cpu"` or `"cuda:0"`.
    description
        What it is, in words, for the log and the report.
    memory_budget
        Bytes the job may use on it.
    note
        What the user should know, or an empty string: that a GPU was looked for and not found.
    """

    device: str
    description: str
    memory_budget: int
    note: str = ""


def choose_device(wanted: str = "auto", *, require_gpu: bool = False, memory_fraction: float = 0.6) -> DeviceChoice:
    """Choose the device a job runs on.

    Parameters
    ----------
    wanted
        `auto`, `cpu`, `cuda` or `cuda:N`.
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
    if kind not in ("auto", "cpu", "cuda") or (number and not number.isdigit()):
        raise InputError(f"--device {wanted}: expected auto, cpu, cuda or cuda:N.")
    if require_gpu and (kind == "cpu" or n_gpus == 0):
        why = "the device was set to cpu" if kind == "cpu" else f"PyTorch {torch.__version__} sees no GPU here"
        raise InputError(
            f"A GPU is required (--require-gpu) but {why}; install a CUDA build of PyTorch and its driver, "
            "or leave --require-gpu away to run on the CPU."
        )
    if kind == "cuda" or (kind == "auto" and n_gpus > 0):
        index = int(number) if number else 0
        if index >= n_gpus:
            raise InputError(
                f"--device {wanted}: this machine has {n_gpus} GPU(s) that PyTorch {torch.__version__} can use; "
                "choose --device cpu, or install a CUDA build of PyTorch and its driver."
            )
        free, _total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        return DeviceChoice(f"cuda:{index}", f"GPU {index}: {name}", int(free * memory_fraction))
    free = available_memory()
    note = ""
    if kind == "auto":
        note = (
            "No GPU found: running on the CPU. Most steps may take 10 to 30 times longer than on a GPU (the ratio of "
            "memory bandwidths; not measured)."
        )
    return DeviceChoice("cpu", f"CPU, {psutil.cpu_count()} cores", int(free * memory_fraction), note)

"""Examination of the machine: each finding says what was looked at, what was found, and how to mend it."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

_NEEDED = ("torch", "numpy", "scipy", "numba", "tifffile", "imagecodecs", "gemmi", "polars", "pydantic", "matplotlib")
_OLDEST_TORCH = (2, 8)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at interpreter, libraries, cores, memory, GPU, kernels, disk, file locks and locale."""
    findings = [_python(), *_libraries(), _memory(), _threads(), _gpu(), _kernels()]
    return [*findings, *_disk(folder), _locks(folder)]


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding("Python", ok, platform.python_version(), "" if ok else "Install Python 3.11 or newer.")


def _libraries() -> list[Finding]:
    findings = []
    for name in _NEEDED:
        try:
            importlib.import_module(name)
            version = importlib.metadata.version(name)
        except Exception as error:
            findings.append(Finding(name, False, str(error), f"Run: pip install --force-reinstall {name}"))
            continue
        old = name == "torch" and tuple(int(p) for p in version.split("+")[0].split(".")[:2]) < _OLDEST_TORCH
        findings.append(Finding(name, not old, version, "Run: pip install 'torch>=2.8'" if old else ""))
    return findings


def _memory() -> Finding:
    free = psutil.virtual_memory().available / 2**30
    ok = free > 3
    return Finding("memory", ok, f"{free:.1f} GB free", "" if ok else "Close other programs; 4 GB are the least.")


def _threads() -> Finding:
    from cryoloom.compute.threads import available_threads

    usable, all_cores = available_threads(), os.cpu_count() or 1
    note = "" if usable == all_cores else f" ({all_cores} exist; a batch system or taskset limits this process)"
    return Finding("cores", True, f"{usable}{note}")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        try:
            float((torch.ones(8, device="cuda") * 2).sum())
        except RuntimeError as error:
            return Finding("GPU", False, f"{names}, but a first calculation failed: {error}", "Update the driver.")
        return Finding("GPU", True, names)
    if shutil.which("nvidia-smi"):
        return Finding(
            "GPU", False, "a driver is installed, but this PyTorch cannot use it",
            "Install a CUDA build of PyTorch: pip install --force-reinstall torch",
        )  # fmt: skip
    return Finding("GPU", True, "none; everything runs on the CPU")


def _kernels() -> Finding:
    import numba
    import numpy as np

    try:
        double = numba.njit(lambda x: x * 2)
        ok = double(np.float32(2)) == 4
    except Exception as error:
        return Finding("compiled kernels", False, str(error), "Run: pip install --force-reinstall numba llvmlite")
    return Finding("compiled kernels", bool(ok), "numba compiles and runs")


def _disk(folder: Path) -> list[Finding]:
    folder = folder.resolve()
    if not folder.is_dir():
        return [Finding("folder", False, f"{folder} does not exist", f"Run: mkdir -p {folder}")]
    free = shutil.disk_usage(folder).free / 2**30
    findings = [
        Finding("disk", free > 5, f"{free:.1f} GB free at {folder}", "" if free > 5 else "Free some space there.")
    ]
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        findings.append(Finding("writing", True, f"{folder} can be written"))
    except OSError as error:
        findings.append(Finding("writing", False, f"{folder}: {error.strerror}", "Choose a folder you may write to."))
    return findings


def _locks(folder: Path) -> Finding:
    import fcntl

    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding(
            "file locks", False, str(error), "Use a file system with locks (on NFS: start the lock service)."
        )
    return Finding("file locks", True, "work")

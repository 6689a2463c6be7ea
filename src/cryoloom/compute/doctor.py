"""Examination of the machine: each finding says what was looked at, what was found, and how to mend it.

Nothing is loaded before it is looked at: what is missing or broken is a finding, not a crash.
"""

import errno
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OLDEST = {
    "torch": "2.8",
    "numpy": "2.1",
    "scipy": "1.14",
    "numba": "0.61",
    "tifffile": "2025.1",
    "imagecodecs": "2025.3",
    "gemmi": "0.7",
    "polars": "1.20",
    "pydantic": "2.10",
    "click": "8.1.8",
    "rich": "13.9",
    "matplotlib": "3.10",
    "jinja2": "3.1",
    "psutil": "6.1",
    "threadpoolctl": "3.5",
}
"""Libraries that are needed, and the oldest version of each that will do."""

_LEAST_MEMORY_GB = 3
_LEAST_DISK_GB = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what
        The thing, in a word or two.
    ok
        Whether it works.
    found
        Version, amount or error.
    remedy
        What to do; empty when it works.
    """

    what: str
    ok: bool
    found: str
    remedy: str = ""


def examine(folder: Path) -> list[Finding]:
    """Look at interpreter, libraries, memory, cores, GPU, kernels, names of files, disk and file locks.

    Parameters
    ----------
    folder
        Where results are to be written.
    """
    findings = [_python(), *(_library(name, oldest) for name, oldest in OLDEST.items())]
    broken = {finding.what for finding in findings if not finding.ok}
    if "psutil" not in broken:
        findings.append(_memory())
    findings.append(_cores())
    if "torch" not in broken:
        findings.append(_gpu())
    if "numba" not in broken and "numpy" not in broken:
        findings.append(_kernels())
    findings.append(_file_names())
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        return [*findings, Finding("folder", False, f"{folder} does not exist", f"Run: mkdir -p '{folder}'")]
    findings += [_disk(folder), _writing(folder)]
    return [*findings, _locks(folder)] if findings[-1].ok else findings


def _python() -> Finding:
    ok = tuple(sys.version_info[:2]) >= (3, 11)
    remedy = "" if ok else "Install Python 3.11 or newer, make a new environment with it, and install cryoloom there."
    return Finding("Python", ok, platform.python_version(), remedy)


def _library(name: str, oldest: str) -> Finding:
    try:
        importlib.import_module(name)
        version = importlib.metadata.version(name)
    except Exception as error:  # a broken library may raise anything while it is loaded
        # a library may be missing, or be there and miss something itself
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        found = "not installed" if missing else _short(error)
        return Finding(name, False, found, f"Run: pip install --force-reinstall '{name}>={oldest}'")
    if _numbers(version) < _numbers(oldest):
        return Finding(name, False, f"{version} is too old", f"Run: pip install --upgrade '{name}>={oldest}'")
    return Finding(name, True, version)


def _memory() -> Finding:
    from cryoloom.compute.memory import available_memory

    free = available_memory() / 2**30
    ok = free > _LEAST_MEMORY_GB
    remedy = f"Close other programs, or ask the batch system for more; {_LEAST_MEMORY_GB + 1} GB are the least."
    return Finding("memory", ok, f"{free:.1f} GB free", "" if ok else remedy)


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    all_cores = os.cpu_count() or 1
    note = "" if usable == all_cores else f" ({all_cores} exist; a batch system or taskset limits this process)"
    return Finding("cores", True, f"{usable}{note}")


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        try:
            float((torch.ones(8, device="cuda") * 2).sum())
        except RuntimeError as error:
            remedy = "Update the NVIDIA driver, or install the build of PyTorch for the driver that is there."
            return Finding("GPU", False, f"{names}, but a first calculation failed: {_short(error)}", remedy)
        return Finding("GPU", True, names)
    if shutil.which("nvidia-smi"):
        return Finding(
            "GPU",
            False,
            f"a driver is installed, but PyTorch {torch.__version__} cannot use it",
            "Install a CUDA build of PyTorch: pip install --force-reinstall torch",
        )
    return Finding("GPU", True, "none; everything runs on the CPU")


def _kernels() -> Finding:
    """Compile a kernel as those of this package are compiled: with its machine code kept on the disk."""
    reinstall = "Run: pip install --force-reinstall numba llvmlite"
    try:
        import numba

        value = numba.njit(_double, nogil=True, cache=True)(2.0)
    except Exception as error:  # numba raises errors of many libraries
        if "cannot cache" in str(error) or isinstance(error, OSError):
            reinstall = "Set NUMBA_CACHE_DIR to a folder you may write to."
        return Finding("compiled kernels", False, _short(error), reinstall)
    if value != 4.0:
        return Finding("compiled kernels", False, f"numba says that 2 x 2 is {value}", reinstall)
    return Finding("compiled kernels", True, "numba compiles and runs")


def _double(x: float) -> float:
    return 2.0 * x


def _file_names() -> Finding:
    encoding = sys.getfilesystemencoding()
    ok = encoding.replace("-", "").lower() == "utf8"
    return Finding("file names", ok, encoding, "" if ok else "Set the variable PYTHONUTF8=1 or a UTF-8 locale.")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 2**30
    ok = free > _LEAST_DISK_GB
    remedy = "" if ok else f"Free some space there or choose another folder; {_LEAST_DISK_GB} GB are the least."
    return Finding("disk", ok, f"{free:.1f} GB free at {folder}", remedy)


def _writing(folder: Path) -> Finding:
    def write(file: int) -> None:
        os.write(file, b"x")
        os.fsync(file)

    error = _try_in(folder, write)
    if error is None:
        return Finding("writing", True, f"{folder} can be written")
    remedy = "Choose a folder you may write to, or mend its permissions (chmod u+w)."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Free some space there, or ask for a larger quota."
    return Finding("writing", False, f"{folder}: {error.strerror or error}", remedy)


def _locks(folder: Path) -> Finding:
    import fcntl

    error = _try_in(folder, lambda file: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
    if error is None:
        return Finding("file locks", True, "work")
    remedy = "Choose a folder on a file system with locks (on NFS: start the lock service)."
    return Finding("file locks", False, f"{folder}: {error.strerror or error}", remedy)


def _try_in(folder: Path, act: Callable[[int], object]) -> OSError | None:
    """Do something with a new file of a folder; returns the error it meets."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            act(file.fileno())
    except OSError as error:
        return error
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `2.13.0+cpu` is `(2, 13, 0)`."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

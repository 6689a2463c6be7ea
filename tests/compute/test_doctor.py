"""The doctor names what is wrong with a machine, that alone, and how to mend it."""

import errno
import fcntl
import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest
import torch

from cryoloom.compute import doctor, memory
from cryoloom.compute.doctor import OLDEST, examine

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def healthy(monkeypatch):
    """A machine without faults, whatever runs the tests."""
    monkeypatch.setattr(memory, "available_memory", lambda: 64 * 2**30)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=500 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return monkeypatch


def old_python(monkeypatch, folder):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))


def old_torch(monkeypatch, folder):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.2+cu118" if name == "torch" else version(name))


def missing_imagecodecs(monkeypatch, folder):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)


def library_that_cannot_be_loaded(monkeypatch, folder):
    load = importlib.import_module

    def fail(name, package=None):
        if name == "gemmi":
            raise OSError("libstdc++.so.6: version `GLIBCXX_3.4.32' not found")
        return load(name, package)

    monkeypatch.setattr(importlib, "import_module", fail)


def broken_numba(monkeypatch, folder):
    def fail(*args, **kwargs):
        raise RuntimeError("LLVM ERROR: cannot allocate executable memory")

    monkeypatch.setattr(numba, "njit", fail)


def no_place_for_machine_code(monkeypatch, folder):
    def fail(*args, **kwargs):
        raise RuntimeError("cannot cache function '_double': no locator available for file 'doctor.py'")

    monkeypatch.setattr(numba, "njit", fail)


def driver_without_cuda_torch(monkeypatch, folder):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)


def gpu_that_fails(monkeypatch, folder):
    def fail(*args, **kwargs):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "Old GPU")
    monkeypatch.setattr(torch, "ones", fail)


def little_memory(monkeypatch, folder):
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)


def full_disk(monkeypatch, folder):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2**20))


def read_only_folder(monkeypatch, folder):
    def fail(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", fail)


def missing_folder(monkeypatch, folder):
    folder.rmdir()


def no_locks(monkeypatch, folder):
    def fail(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", fail)


# The fault, the finding that names it, a word of what was found, and a word of its remedy.
FAULTS = [
    (old_python, "Python", "", "3.11"),
    (old_torch, "torch", "2.1.2", "torch>=2.8"),
    (missing_imagecodecs, "imagecodecs", "not installed", "pip install"),
    (broken_numba, "compiled kernels", "LLVM", "numba"),
    (driver_without_cuda_torch, "GPU", "driver", "CUDA build"),
    (little_memory, "memory", "1.0 GB", "Close other programs"),
    (full_disk, "disk", "0.0 GB", "space"),
    (read_only_folder, "writing", "Read-only", "write"),
    (missing_folder, "folder", "does not exist", "mkdir"),
    (no_locks, "file locks", "No locks", "NFS"),
]
MORE_FAULTS = [
    (library_that_cannot_be_loaded, "gemmi", "GLIBCXX", "pip install"),
    (no_place_for_machine_code, "compiled kernels", "cache", "NUMBA_CACHE_DIR"),
    (gpu_that_fails, "GPU", "no kernel image", "driver"),
]


def named(fault, what, found, remedy, monkeypatch, folder):
    """Whether the doctor finds this fault, no other, and says how to mend it."""
    folder.mkdir(exist_ok=True)
    with monkeypatch.context() as planted:
        fault(planted, folder)
        findings = examine(folder)
    wrong = [finding for finding in findings if not finding.ok]
    return [f.what for f in wrong] == [what] and found in wrong[0].found and remedy in wrong[0].remedy


def test_a_healthy_machine_has_no_finding(healthy, tmp_path):
    findings = examine(tmp_path)
    assert all(finding.ok and not finding.remedy for finding in findings), findings
    assert not list(tmp_path.iterdir())


@pytest.mark.capability("PLT-4")
def test_ten_of_ten_planted_faults_are_named_with_a_remedy(healthy, tmp_path, measure):
    outcome = {fault[0].__name__: named(*fault, healthy, tmp_path / "folder") for fault in FAULTS}
    measure(sum(outcome.values()), unit=f"of {len(outcome)} faults named", threshold="10")
    assert len(outcome) == 10 and all(outcome.values()), outcome


@pytest.mark.parametrize("fault", MORE_FAULTS, ids=lambda fault: fault[0].__name__)
def test_further_faults_are_named(healthy, tmp_path, fault):
    assert named(*fault, healthy, tmp_path / "folder")


def test_the_doctor_knows_the_oldest_versions_that_the_package_asks_for():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [f"{name}>={oldest}" for name, oldest in OLDEST.items()] == project["dependencies"]


def test_versions_are_compared_as_numbers():
    assert doctor._numbers("2.13.0+cpu") == (2, 13, 0) > doctor._numbers("2.8")
    assert doctor._numbers("2.9.0.dev20250801") == (2, 9, 0)


def test_the_doctor_speaks_where_torch_cannot_be_loaded(tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from cryoloom.cli.main import main\n"
        f"main(['doctor', '--folder', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "PROBLEM torch: not installed" in done.stdout and "torch>=2.8" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_memory_limit_of_a_batch_job_counts(monkeypatch, tmp_path):
    group = tmp_path / "slice" / "job"
    group.mkdir(parents=True)
    (tmp_path / "slice" / "memory.max").write_text("max\n")
    (tmp_path / "slice" / "memory.current").write_text("5000\n")
    (group / "memory.max").write_text(f"{3 << 20}\n")
    (group / "memory.current").write_text(f"{2 << 20}\n")
    (group / "memory.stat").write_text(f"anon 7\ninactive_file {1 << 19}\n")
    monkeypatch.setattr(memory, "_LIMITS", tmp_path)
    monkeypatch.setattr(memory, "_own_group", lambda: group)
    assert memory.available_memory() == (1 << 20) + (1 << 19)

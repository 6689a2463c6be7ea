"""Fixtures of all tests, and the record of what capability tests measured."""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("NUMBA_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))  # for modules that tests of several rooms share


def pytest_addoption(parser):
    parser.addoption("--capabilities-out", default=None, help="append one JSON line per capability test to this file")
    parser.addoption("--capabilities-list", default=None, help="write the marked tests of each row to this file (JSON)")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of public data that is too large for the repository (variable CRYOLOOM_DATA)."""
    folder = os.environ.get("CRYOLOOM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CRYOLOOM_DATA does not name the folder with the public data")
    return Path(folder)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Small real files that lie in the repository, with their sources in its README."""
    return REPOSITORY / "tests" / "data" / "real"


@pytest.fixture
def gpu(monkeypatch):
    """Devices for jobs: the cards, or two pretended ones (`pretend_gpu.py`), which only this thread knows."""
    import torch

    from cryoloom.compute.device import DeviceChoice
    from pretend_gpu import PretendGpu

    if torch.cuda.is_available():
        yield "cuda:all"
        return
    choice = DeviceChoice("cuda:0", "two pretended GPUs", 4 << 30, others=("cuda:1",))
    monkeypatch.setattr("cryoloom.project.runner.choose_device", lambda *_, **__: choice)
    with PretendGpu():
        yield "cuda:0,1"


@pytest.fixture
def measure(request):
    """Record the number that a capability test measured: `measure(value, unit, threshold, bound, note)`."""

    def record(value: Any, unit: str = "", threshold: str = "", bound: Any = None, note: str = "") -> None:
        entry = {"value": value, "unit": unit, "threshold": threshold, "bound": bound, "note": note}
        # plain numbers: worker processes of the test run hand them over as such
        request.node.user_properties.append(("measure", json.loads(json.dumps(entry, default=float))))

    return record


class Evidence:
    """Cases of a row that are gathered in shards over many runs, one JSON line each."""

    def __init__(self, row: str) -> None:
        self.path = REPOSITORY / "benchmarks" / "evidence" / f"{row}.jsonl"
        i, _, n = os.environ.get("CRYOLOOM_SHARD", "1/1").partition("/")
        self.shard = (int(i), int(n))

    def append(self, **case: Any) -> None:
        """Add one case: its seed, outcome and value."""
        case |= {"commit": _commit(), "hardware": hardware(), "date": datetime.date.today().isoformat()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(case) + "\n")

    def cases(self) -> list[dict[str, Any]]:
        """All cases so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()]


@pytest.fixture
def evidence(request) -> Evidence:
    """The evidence file of the row that the test is marked with."""
    return Evidence(request.node.get_closest_marker("capability").args[0])


def hardware() -> str:
    """Processor and number of cores, in words."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{len(os.sched_getaffinity(0))} cores, {model}"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    target = item.config.getoption("--capabilities-out")
    rows = [mark.args[0] for mark in item.iter_markers("capability")]
    if not target or not rows or (report.when != "call" and not (report.when == "setup" and not report.passed)):
        return
    measured = [entry for name, entry in item.user_properties if name == "measure"]
    for row in rows:
        line = {
            "row": row,
            "test": item.nodeid,
            "status": "pass" if report.passed else ("skip" if report.skipped else "fail"),
            "measured": measured,
            "hardware": hardware(),
            "date": datetime.date.today().isoformat(),
            "commit": _commit(),
            "seconds": round(time.time() - call.start, 1),
        }
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=float) + "\n")


def pytest_collection_modifyitems(config, items):
    """With CRYOLOOM_ROWS set, keep only the tests of those rows."""
    wanted = set(filter(None, os.environ.get("CRYOLOOM_ROWS", "").split(",")))
    if not wanted:
        return
    kept, left = [], []
    for item in items:
        rows = {mark.args[0] for mark in item.iter_markers("capability")}
        (kept if rows & wanted else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)


def pytest_collection_finish(session):
    """With --capabilities-list, write which tests each row has."""
    target = session.config.getoption("--capabilities-list")
    if not target:
        return
    rows: dict[str, list[str]] = {}
    for item in session.items:
        for mark in item.iter_markers("capability"):
            rows.setdefault(mark.args[0], []).append(item.nodeid)
    Path(target).write_text(json.dumps(rows), encoding="utf-8")

"""A run that is killed at any moment and given again ends with the same bits, and leaves no lock."""

import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import tiny

# Small steps of the processor's clock, so that a kill falls where the seed says on a busy machine too.
POLL_SECONDS = 0.02


def start(root: Path, particles: Path) -> subprocess.Popen:
    command = [
        sys.executable, "-c", "from cryoloom.cli.main import main; main()", "run", "--particles", str(particles),
        "--out", str(root), "--symmetry", tiny.SYMMETRY, "--threads", "1", "--device", "cpu", "--quiet",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def live(root: Path, particles: Path, most_cpu_seconds: float = float("inf")) -> tuple[bool, float]:
    """Run until the end or until so much processor time is used, then kill; returns whether it ended, and the time."""
    child = start(root, particles)
    process = psutil.Process(child.pid)
    used = 0.0
    while child.poll() is None:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            break
        used = times.user + times.system
        if used > most_cpu_seconds:
            child.send_signal(signal.SIGKILL)
            break
        time.sleep(POLL_SECONDS)
    _, told = child.communicate()
    if child.returncode == -signal.SIGKILL:
        return False, used
    assert child.returncode == 0, told
    return True, used


def digests(root: Path) -> dict[str, str]:
    """Hashes of all maps, stacks and tables of a project by name."""
    found = [path for path in sorted(root.rglob("*")) if path.suffix in (".mrc", ".mrcs", ".star")]
    return {str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest() for path in found}


def assert_nothing_is_left(root: Path) -> None:
    for lock in root.rglob(".state/lock"):
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not list(root.glob("*/*/**/*.part"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed") / "project"
    ended, seconds = live(root, tiny.make_data(root))
    assert ended
    return digests(root), seconds


@pytest.mark.slow
@pytest.mark.parametrize("n_kills, seed", [(int(os.environ.get("CRYOLOOM_KILLS", 5)), 20)])
def test_a_killed_run_ends_with_the_same_bits(undisturbed, tmp_path, n_kills, seed):
    expected, seconds = undisturbed
    assert any(name.endswith("map_sharpened.mrc") for name in expected)
    rng = random.Random(seed)
    killed = project = 0
    while killed < n_kills:
        project += 1
        root = tmp_path / f"project{project}"
        particles = tiny.make_data(root)
        ended = False
        while not ended:
            limit = rng.uniform(1.0, seconds) if killed < n_kills else float("inf")
            ended, _ = live(root, particles, limit)
            killed += not ended
        found = digests(root)
        differing = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
        assert not differing, f"after {killed} kills"
        assert_nothing_is_left(root)

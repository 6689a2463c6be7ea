"""A run that is killed at any moment and given again ends with the same bits, and leaves no lock."""

import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import tiny

from cryoloom.project.files import read_json

# Small steps of the processor's clock, so that a kill falls where the seed says on a busy machine too.
POLL_SECONDS = 0.02


def start(root: Path, inputs: list[str]) -> subprocess.Popen:
    command = [
        sys.executable, "-c", "from cryoloom.cli.main import main; main()", "run", *inputs,
        "--out", str(root), "--symmetry", tiny.SYMMETRY, "--threads", "1", "--device", "cpu", "--quiet",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def live(root: Path, inputs: list[str], most_cpu_seconds: float = float("inf")) -> tuple[bool, float]:
    """Run until the end or until so much processor time is used, then kill; returns whether it ended, and the time."""
    child = start(root, inputs)
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


def particles(root: Path) -> list[str]:
    return ["--particles", str(tiny.make_data(root))]


def movies(root: Path) -> list[str]:
    table = tiny.make_movies(root)
    return ["--movies", str(table), "--gain", str(table.parent / "gain.mrc")]


def cpu_until(root: Path, stage: str) -> float:
    """Processor seconds of the jobs of a project before the first of a stage."""
    folders = [path.parent for path in root.glob("*/*/job.json")]
    jobs, summaries = ([read_json(folder / name) for folder in folders] for name in ("job.json", "summary.json"))
    begun = min(job["started"] for job in jobs if job["stage"] == stage)
    early = [i for i, job in enumerate(jobs) if job["started"] < begun and "simulate" not in job["stage"]]
    return sum(summaries[i]["cpu_seconds"] for i in early)


def digests(root: Path) -> dict[str, str]:
    """Hashes of all maps, stacks and tables of a project by name."""
    found = [path for path in sorted(root.rglob("*")) if path.suffix in (".mrc", ".mrcs", ".star")]
    return {str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest() for path in found}


def assert_nothing_is_left(root: Path) -> None:
    for lock in root.rglob(".state/lock"):
        with lock.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not list(root.glob("*/*/**/*.part"))


def undisturbed(folder: Path, make: Callable[[Path], list[str]]) -> tuple[dict[str, str], float, Path]:
    """Digests of two runs that nobody kills, the same, and the processor time of the second: the first may compile."""
    seconds, found = 0.0, []
    for name in ("first", "second"):
        root = folder / name
        ended, seconds = live(root, make(root))
        assert ended
        found.append(digests(root))
    assert found[0] == found[1]
    return found[0], seconds, folder / "second"


def kill_and_compare(
    folder: Path,
    make: Callable[[Path], list[str]],
    expected: dict[str, str],
    n_kills: int,
    seed: int,
    moments: tuple[float, float],
) -> None:
    """Kill projects at random moments, `n_kills` times in all; each that ends has to end with the expected bits."""
    rng = random.Random(seed)
    killed = project = 0
    while killed < n_kills:
        project += 1
        root = folder / f"project{project}"
        inputs = make(root)
        ended = False
        while not ended:
            limit = rng.uniform(*moments) if killed < n_kills else float("inf")
            ended, _ = live(root, inputs, limit)
            killed += not ended
        found = digests(root)
        differing = {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}
        assert not differing, f"after {killed} kills"
        assert_nothing_is_left(root)
        print(f"project {project}: the same bits, {killed} kills so far", flush=True)


@pytest.mark.slow
@pytest.mark.parametrize("n_kills, seed", [(int(os.environ.get("CRYOLOOM_KILLS", 5)), 20)])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, n_kills, seed):
    expected, seconds, _ = undisturbed(tmp_path, particles)
    assert any(name.endswith("map_sharpened.mrc") for name in expected)
    kill_and_compare(tmp_path, particles, expected, n_kills, seed, (1.0, seconds))


@pytest.mark.slow
@pytest.mark.parametrize("n_kills, seed", [(int(os.environ.get("CRYOLOOM_KILLS", 5)), 21)])
def test_a_run_on_movies_killed_before_its_first_map_ends_with_the_same_bits(tmp_path, n_kills, seed):
    expected, seconds, root = undisturbed(tmp_path, movies)
    stages = {name.split("/")[0] for name in expected}
    assert {"motion", "ctf", "pick", "extract", "class2d", "refine", "postprocess"} <= stages
    early = cpu_until(root, "abinitio")
    assert 2.0 < early < seconds
    kill_and_compare(tmp_path, movies, expected, n_kills, seed, (1.0, early))

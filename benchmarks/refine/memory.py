"""Peak memory of a refinement at 10,000 and at 100,000 particles on disk, to the end of its first iteration.

    python benchmarks/refine/memory.py --folder FOLDER [--sizes 10000 100000] [--snr 0.05] [--keep]

Images are of bed `c1` in boxes of 128 at 1.9 Å; 2,000 of them are simulated and written again and again under other
names, each copy with micrographs of its own, so that the set is as large on disk and in its tables as it says. The
first iteration reads every image, searches all poses, fits, shares, estimates noise, inserts and solves; no later one
keeps more. The process is then ended. Printed per size: the most memory that it held for itself, MB (pages of files
that it read do not count), and CPU seconds.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from against_oracle import prepare

from cryoloom.io.records import read_particles, write_particles
from cryoloom.particle_tools.merge import merge_sets

BOX, PIXEL_SIZE, SIMULATED = 128, 1.9, 2000


def grow(bed: Path, folder: Path, n: int) -> Path:
    """A set of `n` particles made of copies of the simulated ones; returns its STAR file."""
    star = folder / f"particles_{n}.star"
    if star.exists():
        return star
    particles = read_particles(bed / "particles.star")
    parts = []
    for copy in range(-(-n // len(particles))):
        places = folder / f"copy{copy:03d}"
        places.mkdir(parents=True, exist_ok=True)
        names = {}
        for path in np.unique(particles.image_path):
            names[path] = places / Path(path).name
            if not names[path].exists():
                shutil.copyfile(path, names[path])
        parts.append(
            particles.replace(
                image_path=np.array([str(names[path]) for path in particles.image_path]),
                micrograph=np.array([f"copy{copy:03d}/{name}" for name in particles.micrograph]),
            )
        )
    write_particles(merge_sets(parts).particles.select(slice(0, n)), star)
    return star


def peak_memory(star: Path, bed: Path, out: Path) -> dict[str, float]:
    """Refine until the first iteration is over; MB and CPU seconds."""
    shutil.rmtree(out, ignore_errors=True)
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("cryoloom")), "refine", "--particles", str(star), "--reference",
            str(bed / "truth.mrc"), "--initial-lowpass", "40", "--out", str(out), "--device", "cpu", "--threads", "2",
            "--quiet",
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )  # fmt: skip
    log, most = out / "run.log", 0.0
    try:
        while not (log.exists() and "iteration 1:" in log.read_text(encoding="utf-8")):
            if process.poll() is not None:
                raise RuntimeError(f"the refinement ended before its first iteration did; see {log}")
            most = max(most, own_memory(process.pid))
            time.sleep(0.2)
        seconds = cpu_seconds(process.pid)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return {"peak_memory_mb": round(most), "cpu_seconds": round(seconds, 1)}


def own_memory(pid: int) -> float:
    """Memory that a process holds for itself, MB: resident pages that belong to no file."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process that runs."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Parse the command line and print one line of JSON per size, and the ratio of the largest to the smallest."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--keep", action="store_true", help="leave the copies on disk")
    arguments = parser.parse_args()
    bed = prepare("c1", arguments.folder, {"n": SIMULATED, "snr": arguments.snr}, BOX, PIXEL_SIZE)
    copies = arguments.folder / f"copies_snr{arguments.snr}"
    found = []
    for n in sorted(arguments.sizes):
        found.append(peak_memory(grow(bed, copies, n), bed, arguments.folder / f"memory_{n}"))
        sys.stdout.write(json.dumps({"particles": n, "box": BOX, **found[-1]}) + "\n")
        sys.stdout.flush()
    ratio = found[-1]["peak_memory_mb"] / found[0]["peak_memory_mb"]
    sys.stdout.write(json.dumps({"largest_over_smallest": round(ratio, 3)}) + "\n")
    if not arguments.keep:
        shutil.rmtree(copies)


if __name__ == "__main__":
    main()

"""Refinement, 2D classes or 3D classes of a large set on a GPU: seconds, memory of the card, and what came out.

    python benchmarks/refine/on_gpu.py refine  --folder FOLDER [--particles 100000] [--box 256] [--device cuda:0]
    python benchmarks/refine/on_gpu.py class2d --folder FOLDER --particles 105247 --box 360 --classes 200
    python benchmarks/refine/on_gpu.py class3d --folder FOLDER --particles 105247 --box 360 --classes 6

For the rows REF-9, C2D-8 and HET-9, which count on an H200-class card. Particles of bed `c1` (3D classes: of bed
`four`) are simulated once into the folder by all cores, which does not count. The job runs as its command does, start,
reading and writing included; which device it used stands in the line. Any device will do, so small sets try the script
out on a CPU: `--particles 500 --box 64 --device cpu`.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.records import write_particles
from cryoloom.scoring.maps import true_resolution
from cryoloom.simulate.beds import bed_recipe, bed_specimen
from cryoloom.simulate.particles import observed, simulate_particles

FIELD = 256.0
"""Å that a box spans."""


def prepare(folder: Path, task: str, n: int, box: int, threads: int) -> Path:
    """Simulate a set once; returns its folder."""
    bed = "four" if task == "class3d" else "c1"
    out = folder / f"{bed}_{n}_{box}"
    if (out / "particles.star").exists():
        return out
    specimen = bed_specimen(bed, box=box, pixel_size=FIELD / box, phantom=True)
    truth = simulate_particles(specimen, out, bed_recipe(bed, n=n), seed=1, executor=ThreadExecutor(threads))
    write_map(specimen.truth(0), out / "truth.mrc")
    write_particles(observed(truth), out / "particles.star")
    return out


def command_of(task: str, data: Path, out: Path, classes: int, device: str, threads: int) -> list[str]:
    """The command as a user would type it."""
    words = [str(Path(sys.executable).with_name("cryoloom")), task, "--particles", str(data / "particles.star")]
    if task == "refine":
        words += ["--reference", str(data / "truth.mrc"), "--initial-lowpass", "40"]
    else:
        words += ["--classes", str(classes)]
    return [*words, "--out", str(out), "--device", device, "--threads", str(threads)]


class CardMemory(threading.Thread):
    """The most memory in use on the card while it runs, MB; 0 without `nvidia-smi`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.stop = 0, threading.Event()

    def run(self) -> None:
        """Ask once a second."""
        question = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while shutil.which(question[0]) and not self.stop.wait(1.0):
            answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout.split()
            self.most = max([self.most, *(int(word) for word in answer if word.isdigit())])


def main() -> None:
    """Parse the command line, run, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("task", choices=("refine", "class2d", "class3d"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--particles", type=int, default=100_000)
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    a = parser.parse_args()
    data = prepare(a.folder.resolve(), a.task, a.particles, a.box, a.threads)
    out = data / f"{a.task}_{int(time.time())}"
    memory = CardMemory()
    memory.start()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    subprocess.run(command_of(a.task, data, out, a.classes, a.device, a.threads), check=True, stdout=sys.stderr)
    seconds, after = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    memory.stop.set()
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    line = {
        "task": a.task,
        "particles": a.particles,
        "box": a.box,
        "device": summary["device"],
        "card": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "card_memory_mb": memory.most,
        "verdict": summary["verdict"],
    }
    if a.task == "refine":
        line["reported_resolution"] = summary["resolution"]
        line["true_resolution"] = round(true_resolution(read_map(out / "map.mrc"), read_map(data / "truth.mrc")), 3)
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

"""From particles alone to a refined map on the named beds, over several seeds, beside the oracle.

Run::

    python benchmarks/refine/from_nothing.py c1 d7 --folder /scratch/beds --seeds 1 2 3 4 5

`abinitio` and then `refine` get the particles, the symmetry and a seed, and nothing else. Prints one JSON line per bed
and seed: the verdict, CPU seconds of both (user + system, start-up and reading included), true resolution (FSC 0.5 to
the truth in its soft mask, superposed, either hand) beside the oracle's. Beds are simulated once and kept there.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from against_oracle import oracle_resolution, prepare, true_resolution

from cryoloom.data import VolumeMap
from cryoloom.io.map_file import read_map
from cryoloom.maps.superpose import superpose

SUPERPOSED_AT = 6.0


def command(*words: str) -> float:
    """Run a command of the suite; returns its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = str(Path(sys.executable).with_name("cryoloom"))
    subprocess.run(
        [program, *words, "--device", "cpu"],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)


def superposed_resolution(volume: VolumeMap, truth: VolumeMap) -> float:
    """True resolution of a map of unknown orientation, place and hand, Å."""
    found = torch.from_numpy(np.ascontiguousarray(volume.data)).float()
    target = torch.from_numpy(np.ascontiguousarray(truth.data)).float()
    fit = superpose(target, found, truth.pixel_size, resolution=SUPERPOSED_AT)
    return true_resolution(fit.apply(found).numpy(), truth)


def measure(folder: Path, seed: int) -> dict[str, object]:
    """Run both stages with one seed."""
    with (folder / "truth.pkl").open("rb") as file:
        _, symmetry, _ = pickle.load(file)
    truth = read_map(folder / "truth.mrc")
    start, end = folder / f"abinitio_{seed}", folder / f"from_nothing_{seed}"
    common = ("--symmetry", symmetry, "--seed", str(seed))
    cpu_start = command("abinitio", "--particles", str(folder / "particles.star"), *common, "--out", str(start))
    cpu_end = command(
        "refine", "--particles", str(start / "particles.star"), "--reference", str(start / "class001.mrc"), *common,
        "--out", str(end),
    )  # fmt: skip
    summary = json.loads((start / "summary.json").read_text(encoding="utf-8"))
    reported = json.loads((end / "summary.json").read_text(encoding="utf-8"))["resolution"]
    resolution, oracle = superposed_resolution(read_map(end / "map.mrc"), truth), oracle_resolution(folder, truth)
    return {
        "seed": seed,
        "verdict": summary["verdict"],
        "agreeing_starts": summary["n_agreeing"],
        "cpu_seconds_abinitio": cpu_start,
        "cpu_seconds_refine": cpu_end,
        "true_resolution": round(resolution, 3),
        "oracle": round(oracle, 3),
        "over_oracle_percent": round(100 * (resolution / oracle - 1), 2),
        "reported_resolution": reported,
    }


def main() -> None:
    """Parse the command line and print one JSON line per bed and seed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("beds", nargs="+")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    arguments = parser.parse_args()
    for name in arguments.beds:
        folder = prepare(name, arguments.folder, {})
        for seed in arguments.seeds:
            sys.stdout.write(json.dumps({"bed": name, **measure(folder, seed)}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Two states told apart beside RELION's 3D classification, on the same particles from the same map.

    python benchmarks/refine/sorting_against_relion.py --folder FOLDER                 # ours, beside what is stored
    python benchmarks/refine/sorting_against_relion.py --folder FOLDER --run-relion    # RELION too; stores its figures

1,200 particles of bed `two` (48 of 410 kDa are there or not, half of the particles each) in boxes of 64 at 3.8 Å, SNR
0.1, without poses. Both programs get the first state at 40 Å and two classes and search all poses. RELION 3.1.3 needs
some 400 CPU seconds for each of the 25 iterations that are usual, hours in all, so it is stopped after `--iterations`
of them: its seconds are then a lower bound, and its accuracy says nothing of where it would have ended. Printed per
program: CPU seconds, accuracy under the best matching of classes, the largest error of a population in points; and the
accuracy of the Bayes rule. RELION's command and CPU seconds are kept in `relion_sorting.json`.
"""

import argparse
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from sorting import bayes_accuracy, matched

from cryoloom.data import ParticleSet
from cryoloom.io.map_file import write_map
from cryoloom.io.records import read_particles, write_particles
from cryoloom.simulate.beds import bed_recipe, bed_specimen
from cryoloom.simulate.particles import observed, simulate_particles

STORE = Path(__file__).with_name("relion_sorting.json")
N, BOX, PIXEL_SIZE, SNR, STATES = 1200, 64, 3.8, 0.1, 2


def prepare(folder: Path) -> None:
    """Simulate the particles once."""
    if (folder / "truth.pkl").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    specimen = replace(bed_specimen("two", box=BOX, pixel_size=PIXEL_SIZE), weights=(0.5, 0.5))
    truth = simulate_particles(specimen, folder, bed_recipe("two", n=N, snr=SNR, junk=0.0), seed=1)
    write_particles(observed(truth), folder / "particles.star")
    for k in range(STATES):
        write_map(specimen.truth(k), folder / f"truth{k + 1}.mrc")
    with (folder / "truth.pkl").open("wb") as file:
        pickle.dump((truth, STATES, specimen.diameter), file)


def score(folder: Path, star: Path) -> dict[str, float]:
    """Accuracy and populations of the classes in a STAR file, whatever the order of its particles."""
    with (folder / "truth.pkl").open("rb") as file:
        truth, _, _ = pickle.load(file)
    found = read_particles(star)
    place = {image: i for i, image in enumerate(_images(found))}
    classes = found.class_number[[place[image] for image in _images(truth)]]
    accuracy, names = matched(truth.class_number, classes, STATES)
    share = [np.mean(classes == k + 1) for k in range(STATES)]
    true = [np.mean(truth.class_number == names[k]) for k in range(STATES)]
    error = max(abs(a - b) for a, b in zip(share, true, strict=True))
    return {"accuracy": round(accuracy, 4), "population_error_points": round(100 * float(error), 2)}


def cpu_seconds(command: list[str], log: Path) -> float:
    """User and system seconds of a command and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w", encoding="utf-8") as file:
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=file, stderr=file)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1)


def run_relion(folder: Path, diameter: float, iterations: int) -> dict[str, object]:
    """Classify with RELION; returns its figures and the command."""
    if shutil.which("relion_refine") is None:
        sys.exit("relion_refine was not found; install Debian's package relion")
    out = folder / "relion"
    out.mkdir(exist_ok=True)
    command = [
        "relion_refine", "--i", str(folder / "particles.star"), "--o", str(out / "run"), "--ref",
        str(folder / "truth1.mrc"), "--firstiter_cc", "--ini_high", "40", "--iter", str(iterations), "--K", str(STATES),
        "--tau2_fudge", "4", "--particle_diameter", f"{diameter:.0f}", "--ctf", "--flatten_solvent", "--zero_mask",
        "--sym", "C1", "--norm", "--scale", "--oversampling", "1", "--healpix_order", "2", "--offset_range", "5",
        "--offset_step", "2", "--pad", "2", "--pool", "10", "--preread_images", "--dont_combine_weights_via_disc",
        "--j", "2", "--random_seed", "1",
    ]  # fmt: skip
    seconds = cpu_seconds(command, out / "log.txt")
    return {
        "command": " ".join(command).replace(str(folder), "FOLDER"),
        "cpu_seconds": seconds,
        "iterations": iterations,
        **score(folder, out / f"run_it{iterations:03d}_data.star"),
    }


def run_ours(folder: Path) -> dict[str, object]:
    """Classify with this suite."""
    out = folder / "class3d"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("cryoloom")), "class3d", "--particles", str(folder / "particles.star"),
        "--reference", str(folder / "truth1.mrc"), "--initial-lowpass", "40", "--classes", str(STATES), "--threads",
        "2", "--device", "cpu", "--out", str(out),
    ]  # fmt: skip
    seconds = cpu_seconds(command, folder / "log.txt")
    return {"cpu_seconds": seconds, **score(folder, out / "particles.star")}


def _images(particles: ParticleSet) -> list[tuple[str, int]]:
    return [(Path(p).name, int(i)) for p, i in zip(particles.image_path, particles.image_index, strict=True)]


def main() -> None:
    """Parse the command line and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--run-relion", action="store_true")
    parser.add_argument("--iterations", type=int, default=25, help="RELION's")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    prepare(folder)
    with (folder / "truth.pkl").open("rb") as file:
        diameter = float(pickle.load(file)[2])
    if arguments.run_relion:
        STORE.write_text(
            json.dumps(run_relion(folder, diameter, arguments.iterations), indent=1) + "\n", encoding="utf-8"
        )
    theirs = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else None
    ours = run_ours(folder)
    line = {"cryoloom": ours, "relion": theirs, "bayes_accuracy": round(bayes_accuracy(folder), 4)}
    if theirs:
        line["relion_over_ours"] = round(theirs["cpu_seconds"] / ours["cpu_seconds"], 1)
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

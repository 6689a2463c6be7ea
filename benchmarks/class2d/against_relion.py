"""2D classes beside RELION's on the same particles: CPU seconds, purity of the classes, and how well junk is told.

    python benchmarks/class2d/against_relion.py --folder FOLDER                 # ours, beside what is stored
    python benchmarks/class2d/against_relion.py --folder FOLDER --run-relion    # RELION too; stores its figures

1,000 images of 64 px show the built-in phantom of bed `c1` from six directions (three axes, both ways, each within
four degrees), one in ten is junk of three kinds; both programs get eight classes and twenty iterations, the diameter of
the mask, and as many threads. Purity and adjusted mutual information are those of the true particles against their
direction. Junk: area under the ROC curve of the program's own figure; RELION states none, so the best of three of its
columns counts, and beside it for both programs the best choice of whole classes that the truth would make (F1 of the
true particles). RELION 3.1.3 is Debian's package `relion`; its commands and CPU seconds are kept in `relion.json`.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from cryoloom.data import ParticleSet
from cryoloom.io.records import read_particles, write_particles
from cryoloom.io.star import read_star
from cryoloom.particle_tools.merge import merge_sets
from cryoloom.scoring.classes import score_classes
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

STORE = Path(__file__).with_name("relion.json")
AXES = ((1.0, 0.0, 0.2), (0.0, 1.0, -0.3), (0.5, -0.4, 1.0))
N, BOX, PIXEL_SIZE, SNR, JUNK, CLASSES, ITERATIONS = 1000, 64, 3.75, 0.1, 0.1, 8, 20
SPREAD = np.deg2rad(4.0)


def prepare(folder: Path) -> tuple[np.ndarray, float]:
    """Simulate once; returns the direction that each image shows, from 1, or 0 for junk, and the diameter in Å."""
    atoms = phantom("globule", "C1", mass_kda=400.0)
    truth = folder / "view.npy"
    if not truth.exists():
        specimen = Specimen(((potential_map(atoms, BOX, PIXEL_SIZE),),), diameter=atoms.diameter)
        parts: list[ParticleSet] = []
        for i, axis in enumerate(AXES):
            n = N // len(AXES) + (i < N % len(AXES))
            recipe = ParticleRecipe(
                n=n, snr=SNR, junk=JUNK, preferred_fraction=1.0, preferred_axis=axis, preferred_spread=SPREAD
            )
            parts.append(simulate_particles(specimen, folder / f"axis{i + 1}", recipe, seed=i + 1))
        views = []
        for i, (axis, part) in enumerate(zip(AXES, parts, strict=True)):
            towards = part.rotation[:, :, 2] @ np.asarray(axis) > 0
            views.append(np.where(part.class_number > 0, 2 * i + 1 + towards, 0))
        write_particles(observed(merge_sets(parts).particles), folder / "particles.star")
        np.save(truth, np.concatenate(views))
    return np.load(truth), atoms.diameter


def score(view: np.ndarray, classes: np.ndarray, junk: dict[str, np.ndarray]) -> dict[str, object]:
    """Purity and AMI of true particles; area under the curve of each figure of junk; F1 of the best choice."""
    real = view > 0
    found = score_classes(classes[real], view[real])
    areas = {name: round(area_under_curve(value, ~real), 4) for name, value in junk.items()}
    return {
        "purity": round(found.purity, 4),
        "ami": round(found.ami, 4),
        "junk_auc": max(areas.values()),
        "junk_auc_of": areas,
        "best_class_choice_f1": round(best_choice(classes, real), 4),
    }


def area_under_curve(value: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive item has the higher value, ties halved."""
    a, b = value[positive][:, None], value[~positive]
    return float((a > b).mean() + 0.5 * (a == b).mean())


def best_choice(classes: np.ndarray, real: np.ndarray) -> float:
    """F1 of the true particles when whole classes are kept in the best way: those of the highest share of truth."""
    labels, at = np.unique(classes, return_inverse=True)
    good = np.bincount(at, real, len(labels))
    size = np.bincount(at, minlength=len(labels))
    order = np.argsort(-good / size)
    kept, right = np.cumsum(size[order]), np.cumsum(good[order])
    return float(np.max(2 * right / (kept + real.sum())))


def cpu_seconds(command: list[str], folder: Path) -> float:
    """User and system seconds of a command and all that it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def run_relion(folder: Path, view: np.ndarray, diameter: float) -> dict[str, object]:
    """Classify with RELION and score."""
    out = folder / "relion"
    out.mkdir(exist_ok=True)
    command = [
        "relion_refine", "--i", str(folder / "particles.star"), "--o", str(out / "run"), "--iter", str(ITERATIONS),
        "--K", str(CLASSES), "--tau2_fudge", "2", "--particle_diameter", f"{diameter:.0f}", "--ctf",
        "--flatten_solvent", "--zero_mask", "--oversampling", "1", "--psi_step", "12", "--offset_range", "5",
        "--offset_step", "2", "--norm", "--scale", "--pool", "10", "--preread_images",
        "--dont_combine_weights_via_disc", "--j", "2", "--random_seed", "1",
    ]  # fmt: skip
    seconds = cpu_seconds(command, out)
    star = out / f"run_it{ITERATIONS:03d}_data.star"
    order = rows_of(read_particles(star), read_particles(folder / "particles.star"))
    table = read_star(star)["particles"]
    junk = {name: -table.numbers(name)[order] for name in ("rlnMaxValueProbDistribution", "rlnLogLikeliContribution")}
    junk["rlnNrOfSignificantSamples"] = table.numbers("rlnNrOfSignificantSamples")[order]
    classes = table.integers("rlnClassNumber")[order]
    return {
        "command": " ".join(command).replace(str(folder), "FOLDER"),
        "cpu_seconds": seconds,
        **score(view, classes, junk),
    }


def run_ours(folder: Path, view: np.ndarray, diameter: float) -> dict[str, object]:
    """Classify with this suite and score; the figure of junk is the one it writes for each particle."""
    out = folder / "cryoloom"
    shutil.rmtree(out, ignore_errors=True)
    command = [
        str(Path(sys.executable).with_name("cryoloom")), "class2d", "--particles", str(folder / "particles.star"),
        "--classes", str(CLASSES), "--iterations", str(ITERATIONS), "--mask-diameter", f"{diameter:.0f}",
        "--threads", "2", "--device", "cpu", "--out", str(out),
    ]  # fmt: skip
    seconds = cpu_seconds(command, folder)
    found = read_particles(out / "particles.star")
    order = rows_of(found, read_particles(folder / "particles.star"))
    return {
        "cpu_seconds": seconds,
        **score(view, found.class_number[order], {"junk score": found.junk_score[order]}),
    }


def rows_of(found: ParticleSet, wanted: ParticleSet) -> np.ndarray:
    """Where the images of one set lie in another that holds them in some order."""
    place = {image: i for i, image in enumerate(zip(found.image_path, found.image_index, strict=True))}
    return np.array([place[image] for image in zip(wanted.image_path, wanted.image_index, strict=True)])


def main() -> None:
    """Parse the command line and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--run-relion", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    view, diameter = prepare(folder)
    if arguments.run_relion:
        STORE.write_text(json.dumps(run_relion(folder, view, diameter), indent=1) + "\n", encoding="utf-8")
    theirs = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else None
    ours = run_ours(folder, view, diameter)
    line = {"cryoloom": ours, "relion": theirs}
    if theirs:
        line["relion_over_ours"] = round(theirs["cpu_seconds"] / ours["cpu_seconds"], 1)
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

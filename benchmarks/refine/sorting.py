"""Sort the particles of bed `four` (or `two`) into states and compare with truth and with the best that is possible.

Run::

    python benchmarks/refine/sorting.py four --folder /scratch/beds --seed 1

Simulates the bed and refines all particles together once (kept in the folder), then runs `class3d` from one random seed
and prints one JSON line: accuracy under the best matching of classes, the largest error of a population in points, the
accuracy of the Bayes rule that knows the true maps, poses and populations, CPU seconds.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.data import ParticleSet
from cryoloom.em import ImageSource, empty_poses, estimate_image_power, estimate_noise
from cryoloom.em.products import slice_products
from cryoloom.fourier.slices import prepare_volume
from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.particles import ParticleImages
from cryoloom.io.records import read_particles, write_particles
from cryoloom.simulate.beds import bed_recipe, bed_specimen
from cryoloom.simulate.particles import observed, simulate_particles


def prepare(name: str, folder: Path) -> Path:
    """Simulate a bed and refine all of its particles together, once; returns its folder."""
    out = folder / f"states_{name}"
    if not (out / "truth.pkl").exists():
        out.mkdir(parents=True, exist_ok=True)
        specimen = bed_specimen(name)
        truth = simulate_particles(specimen, out, bed_recipe(name), seed=1)
        write_particles(observed(truth), out / "particles.star")
        for k in range(len(specimen.states)):
            write_map(specimen.truth(k), out / f"truth{k + 1}.mrc")
        with (out / "truth.pkl").open("wb") as file:
            pickle.dump((truth, len(specimen.states), specimen.diameter), file)
    if not (out / "refine" / "particles.star").exists():
        run("refine", out, ["--reference", "truth1.mrc", "--initial-lowpass", "40", "--out", "refine"])
    return out


def run(command: str, folder: Path, options: list[str]) -> None:
    """One command of the suite in a folder."""
    particles = "particles.star" if command == "refine" else "refine/particles.star"
    subprocess.run(
        [
            str(Path(sys.executable).with_name("cryoloom")), command, "--particles", particles, *options,
            "--device", "cpu", "--quiet",
        ],
        check=True,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def bayes_accuracy(folder: Path) -> float:
    """Accuracy of the most likely state given true maps, poses, CTFs, grey scale and populations."""
    with (folder / "truth.pkl").open("rb") as file:
        truth, n_states, diameter = pickle.load(file)
    source, executor = ImageSource(ParticleImages(truth), truth, diameter), ThreadExecutor(2)
    rows, radius = np.arange(len(truth)), source.points.radius
    state = truth.class_number - 1
    poses = empty_poses(len(truth), np.ones(len(truth), np.int64))
    poses.rotation[:], poses.shift_px[:], poses.reference[:] = truth.rotation, truth.shift / source.pixel_size, state
    noise, gain = estimate_image_power(source, executor, rows), 1.0
    for last in (False, True):
        spectra = [
            prepare_volume(torch.from_numpy(np.array(read_map(folder / f"truth{k + 1}.mrc").data)) * gain, radius)
            for k in range(n_states)
        ]
        if last:
            noise = estimate_noise(source, [spectra], poses, rows, noise, executor, radius=radius, largest_number=1500)
        cross, gram = slice_products(
            source, [spectra], np.zeros(len(rows), np.int64), rows, poses.rotation, poses.shift_px, noise, executor,
            radius=radius,
        )  # fmt: skip
        if not last:
            gain = float(cross[rows, state].sum() / gram[rows, state, state].sum())
    prior = np.log(np.bincount(state, minlength=n_states) / len(state))
    return float(np.mean((cross - 0.5 * np.einsum("nkk->nk", gram) + prior).argmax(1) == state))


def matched(truth: np.ndarray, found: np.ndarray, n_states: int) -> tuple[float, tuple[int, ...]]:
    """Accuracy under the best matching, and the true state of each class; both numbered from 1."""
    return max(
        (float(np.mean(np.array(names)[found - 1] == truth)), names) for names in permutations(range(1, n_states + 1))
    )


def measure(folder: Path, seed: int) -> dict[str, float]:
    """Sort from one seed and score."""
    with (folder / "truth.pkl").open("rb") as file:
        truth, n_states, _ = pickle.load(file)
    out = folder / f"class3d_{seed}"
    run(
        "class3d", folder, ["--classes", str(n_states), "--no-alignment", "--seed", str(seed), "--out", str(out)]
    )  # fmt: skip
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    particles: ParticleSet = read_particles(out / "particles.star")
    assert particles.class_number is not None
    accuracy, names = matched(truth.class_number, particles.class_number, n_states)
    true = np.bincount(truth.class_number, minlength=n_states + 1)[1:][np.array(names) - 1] / len(truth)
    found = np.array(summary["populations"])
    return {
        "seed": seed,
        "accuracy": round(accuracy, 4),
        "population_error_points": round(100 * float(np.abs(found - true).max()), 2),
        "smallest_population": float(found.min()),
        "largest_population": float(found.max()),
        "evidence": summary["evidence"],
        "cpu_seconds": summary.get("cpu_seconds"),
    }


def main() -> None:
    """Parse the command line and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bed", choices=("two", "four"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    folder = prepare(arguments.bed, arguments.folder)
    result = {"bed": arguments.bed, **measure(folder, arguments.seed), "bayes": round(bayes_accuracy(folder), 4)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()

"""Refine the named beds from a 40 Å start and compare with the oracle: the same images at their true poses.

Run::

    python benchmarks/refine/against_oracle.py d2 c1 --folder /scratch/beds [--n 1000] [--snr 0.03] [--assignment hard]

Prints per bed: CPU seconds of the whole process that refines (user + system, start-up and reading included), true
resolution (FSC 0.5 to the truth in the soft mask of the truth) beside the oracle's, reported resolution, pose and shift
errors, particles more than 5 degrees off. Beds are simulated once and kept in the folder.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.em import (
    ImageSource,
    accumulate,
    estimate_image_power,
    prepare_sums,
    single_candidates,
    solve,
)
from cryoloom.geometry import pose_distance
from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.particles import ParticleImages
from cryoloom.io.records import read_particles, write_particles
from cryoloom.maps.fsc import fourier_shell_correlation, resolution_at
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.simulate.beds import bed_recipe, bed_specimen
from cryoloom.simulate.particles import observed, simulate_particles


def prepare(
    name: str, folder: Path, changes: dict[str, float], box: int | None = None, pixel_size: float | None = None
) -> Path:
    """Simulate a bed once, perhaps in another box; returns its folder."""
    label = "_".join([name, *(f"{k}{v}" for k, v in sorted(changes.items())), *([f"box{box}"] if box else [])])
    out = folder / label
    if (out / "truth.pkl").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    specimen = bed_specimen(name, box=box, pixel_size=pixel_size)
    truth = simulate_particles(specimen, out, bed_recipe(name, **changes), seed=1)
    write_particles(observed(truth), out / "particles.star")
    write_map(specimen.truth(0), out / "truth.mrc")
    with (out / "truth.pkl").open("wb") as file:
        pickle.dump((truth, specimen.symmetry, specimen.diameter), file)
    return out


def true_resolution(volume: np.ndarray, truth: VolumeMap) -> float:
    """FSC 0.5 against the truth in the soft mask of the truth, Å."""
    target = torch.from_numpy(np.ascontiguousarray(truth.data))
    mask = soft_mask_from_map(target, truth.pixel_size, lowpass_resolution=10.0)
    fsc = fourier_shell_correlation(torch.from_numpy(np.ascontiguousarray(volume)) * mask, target * mask)
    return resolution_at(fsc, 0.5, volume.shape[0], truth.pixel_size)


def oracle_resolution(folder: Path, truth_map: VolumeMap) -> float:
    """True resolution from the true poses and CTFs of the particles that are no junk."""
    with (folder / "truth.pkl").open("rb") as file:
        truth, symmetry, diameter = pickle.load(file)
    source = ImageSource(ParticleImages(truth), truth, diameter)
    executor = ThreadExecutor(2)
    rows = np.arange(len(truth))
    real = np.flatnonzero(truth.class_number > 0)
    found = single_candidates(rows, truth.rotation, truth.shift / source.pixel_size, truth.scale).select(real)
    noise = estimate_image_power(source, executor, rows)
    sums = accumulate(source, found, np.zeros(len(found), np.int64), 1, noise, executor, radius=source.points.radius)
    volume = solve(prepare_sums(sums[0], symmetry, executor), source.box)
    return true_resolution(volume.numpy(), truth_map)


def measure(folder: Path, assignment: str = "auto") -> dict[str, float]:
    """Refine one bed in a process of its own and score it."""
    with (folder / "truth.pkl").open("rb") as file:
        _, symmetry, _ = pickle.load(file)
    out = folder / f"refine_{assignment}_{int(time.time())}"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.time()
    subprocess.run(
        [
            str(Path(sys.executable).with_name("cryoloom")), "refine", "--particles", str(folder / "particles.star"),
            "--reference", str(folder / "truth.mrc"), "--symmetry", symmetry, "--initial-lowpass", "40",
            "--soft", assignment, "--out", str(out), "--device", "cpu",
        ],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return {
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall_seconds": round(time.time() - start, 1),
        "reported_resolution": summary["resolution"],
        **score(folder, out / "map.mrc", out / "particles.star"),
    }


def score(folder: Path, map_path: Path, star: Path) -> dict[str, float]:
    """True resolution and pose errors of a refinement of a bed, whoever made it."""
    with (folder / "truth.pkl").open("rb") as file:
        truth, symmetry, _ = pickle.load(file)
    truth_map = read_map(folder / "truth.mrc")
    particles = read_particles(star)
    # other programs may write the particles in another order
    order = {image: i for i, image in enumerate(_images(particles))}
    rows = np.array([order[image] for image in _images(truth)])
    rotation, moved = particles.rotation[rows], particles.shift[rows]
    real = truth.class_number > 0
    error = np.rad2deg(
        pose_distance(torch.from_numpy(truth.rotation), torch.from_numpy(rotation), symmetry).numpy()[real]
    )
    shift = np.linalg.norm(moved - truth.shift, axis=1)[real]
    resolution = true_resolution(read_map(map_path).data, truth_map)
    oracle = oracle_resolution(folder, truth_map)
    return {
        "particles": len(particles),
        "box": truth_map.data.shape[0],
        "true_resolution": round(resolution, 3),
        "oracle": round(oracle, 3),
        "over_oracle_percent": round(100 * (resolution / oracle - 1), 2),
        "pose_error_deg": round(float(np.median(error)), 3),
        "shift_error": round(float(np.median(shift)), 3),
        "off_by_5_deg_percent": round(100 * float(np.mean(error > 5)), 2),
    }


def _images(particles: ParticleSet) -> list[tuple[str, int]]:
    """Stack and place in it of each particle."""
    names = [Path(str(path)).name for path in particles.image_path]
    return list(zip(names, (int(i) for i in particles.image_index), strict=True))


def main() -> None:
    """Parse the command line and print one JSON line per bed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("beds", nargs="+")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--n", type=int)
    parser.add_argument("--snr", type=float)
    parser.add_argument("--assignment", choices=("auto", "soft", "hard"), default="auto")
    arguments = parser.parse_args()
    changes = {k: v for k, v in (("n", arguments.n), ("snr", arguments.snr)) if v is not None}
    for name in arguments.beds:
        result = measure(prepare(name, arguments.folder, changes), arguments.assignment)
        sys.stdout.write(json.dumps({"bed": name, **changes, "assignment": arguments.assignment, **result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

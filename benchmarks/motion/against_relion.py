"""Motion correction beside RELION's own (`relion_run_motioncorr --use_own`) on the same simulated movies.

    python benchmarks/motion/against_relion.py --movies 3 --size 2048 --frames 30 --out FOLDER

Prints per movie the error left by each program (root mean square over a grid of places, all frames and both axes, Å; a
shift of the whole movie is no error) and the CPU time of each process from its start to its end, and the ratio. What is
compiled on first use is compiled before, on a small movie. Without RELION only ours is shown.

Where the time must go, for 2048² x 30 on one core of the first measurement (EPYC, 2.6 GHz): 90 ms for transforms of
tiles (30 x 1024² points at half the sampling), 20 ms for whole frames, 150 ms for those of the sums at full sampling;
moving 126 million pixels with filters of 12 taps along each axis takes 0.4 s, one pass to find defects 0.1 s, one to
decimate 0.12 s, and the libraries themselves 2 s to start.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from cryoloom.io.movies import open_movie
from cryoloom.io.mrc import write_mrc
from cryoloom.io.star import read_star
from cryoloom.motion.field import MotionField
from cryoloom.motion.motion_file import evaluate_relion_polynomial
from cryoloom.project.runner import run_stage


def grid(h: int, w: int, n: int = 15) -> np.ndarray:
    """Places spread over a frame, pixels yx."""
    y, x = np.meshgrid(np.linspace(0, h - 1, n), np.linspace(0, w - 1, n), indexing="ij")
    return np.stack([y, x], -1).reshape(-1, 2)


def found_displacement(path: Path, positions: np.ndarray) -> np.ndarray:
    """Displacement in pixels that a motion file (RELION's or ours) says, `(n, t, 2)`."""
    star = read_star(path)
    general, shift = star["general"], star["global_shift"]
    h, w = int(float(general["rlnImageSizeY"])), int(float(general["rlnImageSizeX"]))
    whole = np.stack([shift.numbers("rlnMicrographShiftY"), shift.numbers("rlnMicrographShiftX")], -1)
    local = np.zeros((len(positions), len(whole), 2))
    if "cryoloom_motion_field" in star:
        table = star["cryoloom_motion_field"]
        modes = np.stack([table.numbers("cryoloomTrajectoryY"), table.numbers("cryoloomTrajectoryX")], -1)
        modes = modes.reshape(-1, len(whole), 2)
        degree = round((np.sqrt(8 * len(modes) + 1) - 3) / 2)
        return MotionField(modes, (h, w), degree).at(positions)
    if "local_motion_model" in star:
        coefficients = star["local_motion_model"].numbers("rlnMotionModelCoeff")
        local = evaluate_relion_polynomial(coefficients, positions, (h, w), len(whole))
    return -(whole + local)


def true_displacement(path: Path, positions: np.ndarray) -> np.ndarray:
    """Displacement in pixels that the simulator stored, `(n, t, 2)`."""
    record = json.loads(path.read_text())
    modes = np.asarray(record["motion_modes"]) / record["recipe"]["pixel_size"]
    return MotionField(modes, tuple(record["recipe"]["shape"]), 3).at(positions)


def rms_error(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Error of whole-frame motion and of all motion, pixels."""
    error = found - true
    error = error - error.mean((0, 1))
    return float(np.sqrt(np.mean(error.mean(0) ** 2))), float(np.sqrt(np.mean(error**2)))


def cpu_of_children() -> float:
    """CPU seconds of finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--movies", type=int, default=3)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--dose", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out = options.out.resolve()
    data = out / "data"
    if not (data / "movies.star").exists():
        run_stage(
            "simulate movies",
            inputs={},
            settings={
                "movies": options.movies, "width": options.size, "height": options.size, "frames": options.frames,
                "dose_per_frame": options.dose, "pixel_size": 1.1, "format": "mrc", "gain": False,
            },
            out=data,
            seed=options.seed,
        )  # fmt: skip
    names = sorted(p.stem for p in (data / "truth").glob("*.json"))
    pixel = json.loads((data / "truth" / f"{names[0]}.json").read_text())["recipe"]["pixel_size"]
    positions = grid(options.size, options.size)

    with open_movie(next((data / "movies").glob("*.mrc"))) as movie:
        few = movie.frames(0, 8)[:, :512, :512].copy()
    write_mrc(out / "small.mrcs", few, pixel, kind="stack")
    program = [str(Path(sys.executable).parent / "cryoloom"), "motion", "--threads", "1", "--quiet"]
    settings = ["--pixel-size", str(pixel), "--voltage-kv", "300", "--dose-per-frame", str(options.dose)]
    for folder in ("first", "ours"):
        shutil.rmtree(out / folder, ignore_errors=True)
    subprocess.run([*program, "--movies", str(out / "small.mrcs"), *settings, "--out", str(out / "first")], check=True)
    before = cpu_of_children()
    subprocess.run([*program, "--movies", str(data / "movies.star"), "--out", str(out / "ours")], check=True)
    ours_cpu = (cpu_of_children() - before) / len(names)

    relion_cpu = float("nan")
    relion = shutil.which("relion_run_motioncorr")
    if relion:
        shutil.rmtree(out / "relion", ignore_errors=True)
        before = cpu_of_children()
        subprocess.run(
            [relion, "--i", str(data / "movies" / "*.mrc"), "--o", str(out / "relion") + "/", "--use_own", "--j", "1",
             "--angpix", str(pixel), "--voltage", "300", "--dose_per_frame", str(options.dose), "--dose_weighting",
             "--save_noDW", "--patch_x", "5", "--patch_y", "5", "--bfactor", "150"],
            check=True, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        relion_cpu = (cpu_of_children() - before) / len(names)

    print("movie          true local  ours whole  ours all  RELION whole  RELION all   (Å)")
    for name in names:
        true = true_displacement(data / "truth" / f"{name}.json", positions)
        local = np.sqrt(np.mean((true - true.mean(0)) ** 2)) * pixel
        mine = rms_error(found_displacement(out / "ours" / "micrographs" / f"{name}.star", positions), true)
        theirs = (float("nan"), float("nan"))
        if relion:
            found = next((out / "relion").rglob(f"{name}.star"))
            theirs = rms_error(found_displacement(found, positions), true)
        print(
            f"{name:14} {local:10.2f} {mine[0] * pixel:11.3f} {mine[1] * pixel:9.3f}"
            f" {theirs[0] * pixel:13.3f} {theirs[1] * pixel:11.3f}"
        )
    print(f"CPU seconds per movie: ours {ours_cpu:.1f}, RELION {relion_cpu:.1f}, ratio {ours_cpu / relion_cpu:.2f}")


if __name__ == "__main__":
    main()

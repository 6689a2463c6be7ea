"""Picking beside RELION's (`relion_autopick`, LoG and templates) and Topaz's on the same simulated micrographs.

    python benchmarks/picking/against_others.py --shape "rod, 150 kDa" --snr 0.05 --micrographs 3 --junk --out FOLDER

All candidates of each program are ranked by its own figure of merit; printed are the precision at equal recall (a dash
where a program never reaches it) and the CPU time per micrograph, training included. RELION is told the true diameter
and, for templates, gets the same views of the particle as ours; ours is told nothing of the diameter without templates.
Topaz searches with the network it brings, as its manual says. Programs that are not installed are named and left out.
The same call goes on where it was stopped.
"""

import argparse
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from cryoloom.data import MicrographSet, PickSet
from cryoloom.io.coordinates import read_topaz
from cryoloom.io.records import read_picks, write_micrographs
from cryoloom.io.star import StarTable, read_star

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "picking"))
import picking_bed
from test_capabilities import SHAPES
from test_templates import write_views

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
PIXEL = 1.5  # Å, of the bed
TOPAZ_SCALE = 8


def cpu_of(command: list[str], **options: object) -> float:
    """Run a command and return the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def once(folder: Path, command: list[str], **options: object) -> float:
    """CPU seconds of a command that fills a folder; what is done already is not done again."""
    taken = folder.with_suffix(".cpu_seconds")
    if not taken.exists():
        shutil.rmtree(folder, ignore_errors=True)
        taken.write_text(str(cpu_of(command, **options)))
    return float(taken.read_text())


def ours(name: str, out: Path, *options: str) -> tuple[PickSet, float]:
    """Picks of one of our pickers, all candidates, and CPU seconds."""
    program = str(Path(sys.executable).parent / "cryoloom")
    folder = out / name
    seconds = once(
        folder,
        [program, "pick", "--micrographs", str(out / "micrographs.star"), "--out", str(folder), "--threads", "1",
         "--threshold", "-1000", "--quiet", *options],
    )  # fmt: skip
    return read_picks(folder / "picks.star"), seconds


def relion(name: str, out: Path, micrographs: MicrographSet, *options: str) -> tuple[PickSet, float]:
    """Picks of RELION with their figures of merit, and CPU seconds."""
    folder = out / name
    seconds = once(
        folder,
        ["relion_autopick", "--i", str(out / "micrographs.star"), "--odir", f"{folder}/", "--pickname", "autopick",
         *options],
        cwd=out,
    )  # fmt: skip
    position, score, names = [], [], []
    for path in micrographs.path:
        file = next(folder.rglob(f"{Path(str(path)).stem}_autopick.star"), None)
        table = None
        if file is not None:
            table = next((b for b in read_star(file).values() if isinstance(b, StarTable) and len(b)), None)
        if table is None:
            continue
        position.append(np.stack([table.numbers("rlnCoordinateY"), table.numbers("rlnCoordinateX")], -1))
        score.append(table.numbers("rlnAutopickFigureOfMerit"))
        names += [str(path)] * len(score[-1])
    if not names:
        return PickSet(position_px=np.zeros((0, 2)), micrograph=np.zeros(0, dtype=str), score=np.zeros(0)), seconds
    picks = PickSet(position_px=np.concatenate(position), micrograph=np.asarray(names), score=np.concatenate(score))
    return picks, seconds


def topaz(out: Path, micrographs: MicrographSet, diameter: float) -> tuple[PickSet, float]:
    """Picks of Topaz's own network, and CPU seconds."""
    folder = out / "topaz"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    images = [str(path) for path in micrographs.path]
    scale = max(1, round(diameter / PIXEL / TOPAZ_SCALE / 2))
    seconds = cpu_of(["topaz", "preprocess", "-s", str(scale), "-o", f"{folder}/small", "-d", "-1", *images])
    small = sorted(str(p) for p in (folder / "small").glob("*.mrc"))
    radius = str(max(2, round(0.55 * diameter / PIXEL / scale)))  # one pick per particle, as for RELION
    seconds += cpu_of(["topaz", "extract", "-r", radius, "-t", "-100", "-d", "-1", "-o", f"{folder}/picks.txt", *small])
    picks = read_topaz(folder / "picks.txt", scale=scale)
    by_stem = {Path(image).stem: image for image in images}
    return picks.replace(micrograph=np.asarray([by_stem[Path(str(m)).stem] for m in picks.micrograph])), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=list(SHAPES), default="rod, 150 kDa")
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--micrographs", type=int, default=3)
    parser.add_argument("--junk", action="store_true", help="carbon, crystals of ice and aggregates")
    parser.add_argument("--seed", type=int, default=51)
    parser.add_argument("--without", nargs="*", default=[], choices=("consensus", "relion", "topaz"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    mass, axes, n = SHAPES[options.shape]
    micrographs, truth = picking_bed.simulated_set(
        out, mass, axes, n, options.snr, seed=options.seed, n_micrographs=options.micrographs, junk=options.junk,
        of_particles=True,
    )  # fmt: skip
    micrographs = micrographs.replace(phase_shift=np.zeros(len(micrographs)))
    write_micrographs(micrographs, out / "micrographs.star")
    views = out / "views.mrcs"
    write_views(views, picking_bed.bead_cloud(mass, axes, options.seed), 12, seed=5)
    diameter = truth[0].diameter

    rows: dict[str, tuple[PickSet, float]] = {
        "ours, reference-free": ours("ours_free", out),
        "ours, templates": ours("ours_templates", out, "--references", str(views)),
    }
    if "consensus" not in options.without:
        rows["ours, consensus"] = ours("ours_consensus", out, "--method", "consensus")
    if "relion" in options.without:
        print("RELION: left out")
    elif shutil.which("relion_autopick"):
        small, large = str(0.8 * diameter), str(1.1 * diameter)
        rows["RELION, LoG"] = relion(
            "relion_log", out, micrographs, "--LoG", "--LoG_diam_min", small, "--LoG_diam_max", large, "--shrink", "0",
            "--lowpass", "20", "--LoG_adjust_threshold", "-2",
        )  # fmt: skip
        rows["RELION, templates"] = relion(
            "relion_templates", out, micrographs, "--ref", str(views), "--angpix_ref", "4", "--ctf", "--invert",
            "--ang", "15", "--lowpass", "20", "--particle_diameter", str(diameter), "--min_distance",
            str(0.55 * diameter), "--threshold", "0", "--shrink", "0", "--max_stddev_noise", "-1",
        )  # fmt: skip
    else:
        print("relion_autopick is not installed: left out")
    if "topaz" in options.without:
        print("Topaz: left out")
    elif shutil.which("topaz"):
        rows["Topaz"] = topaz(out, micrographs, diameter)
    else:
        print("topaz is not installed: left out")
    print(f"{options.shape}, SNR {options.snr}, junk {options.junk}, {len(truth)} micrographs of 1792 x 1792")
    print(f"{'':24}" + "".join(f"  R={level:.1f}" for level in LEVELS) + "   CPU s per micrograph")
    for name, (picks, seconds) in rows.items():
        curve = picking_bed.precision_at(picks, micrographs, truth, LEVELS)
        text = "".join(f"  {value:5.3f}" if value else "      -" for value in curve)
        print(f"{name:24}{text}   {seconds / len(truth):6.1f}")


if __name__ == "__main__":
    main()

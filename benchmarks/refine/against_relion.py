"""Refinement beside RELION's `--auto_refine` on the same particles, from the same map low-passed to 40 Å.

Run::

    python benchmarks/refine/against_relion.py d2 c1 --folder /scratch/beds            # ours, beside what is stored
    python benchmarks/refine/against_relion.py d2 --folder /scratch/beds --run-relion  # RELION too; stores its figures

RELION 3.1.3 (Debian package `relion`) needs most of an hour of processor time per set, so its commands and CPU seconds
are kept in `relion.json` beside this script and it need not run again. Its CPU time is that of the two processes that
work; the third, which leads and spins while it waits, is stored apart and not counted. Both programs get one thread
per process, both maps are judged by FSC 0.5 to the truth in the soft mask of the truth.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from against_oracle import measure, prepare, score

from cryoloom.simulate.beds import BEDS

STORE = Path(__file__).with_name("relion.json")
SETS = {
    # bed, images, box, pixel size (Å), SNR, mask diameter that RELION gets (Å)
    "d2": ("d2", 1500, 128, 1.8, 0.1, 210),
    "c1": ("c1", 2000, 128, 1.9, 0.1, 200),
}
TIMED = """#!/bin/bash
[ "$OMPI_COMM_WORLD_RANK" = 0 ] && renice -n 19 $$ > /dev/null  # it spins while it waits
TIMEFORMAT='%U %S'
time "$@" > "$LOG.$OMPI_COMM_WORLD_RANK.log" 2>&1
"""


def relion_command(folder: Path, symmetry: str, diameter: float, out: Path) -> list[str]:
    """`relion_refine_mpi` as its own interface would start it for a new refinement."""
    return [
        "relion_refine_mpi", "--i", str(folder / "particles.star"), "--o", str(out / "run"), "--auto_refine",
        "--split_random_halves", "--ref", str(folder / "truth.mrc"), "--firstiter_cc", "--ini_high", "40", "--ctf",
        "--particle_diameter", str(diameter), "--flatten_solvent", "--zero_mask", "--sym", symmetry, "--norm",
        "--scale", "--oversampling", "1", "--healpix_order", "2", "--auto_local_healpix_order", "4",
        "--offset_range", "5", "--offset_step", "2", "--low_resol_join_halves", "40", "--pad", "2",
        "--pool", "10", "--preread_images", "--dont_combine_weights_via_disc", "--j", "1", "--random_seed", "1",
    ]  # fmt: skip


def run_relion(folder: Path, symmetry: str, diameter: float) -> dict[str, object]:
    """Run RELION to its end; returns its figures and the commands."""
    if shutil.which("relion_refine_mpi") is None:
        sys.exit("relion_refine_mpi was not found; install Debian's package relion")
    out = folder / "relion"
    out.mkdir(exist_ok=True)
    timed = out / "timed.sh"
    timed.write_text(TIMED, encoding="utf-8")
    timed.chmod(0o755)
    words = relion_command(folder, symmetry, diameter, out)
    launcher = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "3"]
    environment = os.environ | {
        "LOG": str(out / "rank"),
        "OMP_NUM_THREADS": "1",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    }
    seconds = []
    with (out / "times.txt").open("w+", encoding="utf-8") as times:
        subprocess.run([*launcher, "--tag-output", str(timed), *words], check=True, env=environment, stderr=times)
        times.seek(0)
        told = dict(re.findall(r"\[\d+,(\d+)\]<stderr>:([\d.]+ [\d.]+)$", times.read(), re.MULTILINE))
    for rank in range(3):
        user, system = told[str(rank)].split()
        seconds.append(round(float(user) + float(system), 1))
    iterations = max(int(m[1]) for f in out.iterdir() if (m := re.fullmatch(r"run_it(\d+)_data\.star", f.name)))
    return {
        "command": " ".join([*launcher, *words]).replace(str(folder), "FOLDER"),
        "cpu_seconds": round(sum(seconds[1:]), 1),
        "leader_cpu_seconds": seconds[0],
        "iterations": iterations,
        **score(folder, out / "run_class001.mrc", out / "run_data.star"),
    }


def prepare_set(name: str, folder: Path) -> Path:
    """Simulate the particles of a set once; returns their folder."""
    bed, n, box, pixel_size, snr, _ = SETS[name]
    return prepare(bed, folder, {"n": n, "snr": snr, "junk": 0.0}, box, pixel_size)


def refine_set(name: str, folder: Path) -> dict[str, float]:
    """Refine a set with this suite and score it."""
    return measure(prepare_set(name, folder))


def main() -> None:
    """Parse the command line and print one JSON line per set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", choices=sorted(SETS))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--run-relion", action="store_true")
    parser.add_argument("--no-ours", action="store_true", help="only run RELION")
    arguments = parser.parse_args()
    for name in arguments.sets:
        stored = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
        if arguments.run_relion:
            bed, *_, diameter = SETS[name]
            stored[name] = run_relion(prepare_set(name, arguments.folder), BEDS[bed].symmetry, diameter)
            STORE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        theirs = stored.get(name)
        line: dict[str, object] = {"set": name, "relion": theirs}
        if not arguments.no_ours:
            ours = refine_set(name, arguments.folder)
            line["cryoloom"] = ours
            if theirs:
                line["relion_over_ours"] = round(theirs["cpu_seconds"] / ours["cpu_seconds"], 1)
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

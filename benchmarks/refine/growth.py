"""How the cost of a refinement grows with the number of particles and with their box.

    python benchmarks/refine/growth.py --folder FOLDER [--particles 500 1000 2000 4000] [--boxes 64 96 128 192]

Images of a globule of 400 kDa over a field of 243 Å, so bright that every box is used to its Nyquist frequency; all
sets go through as many iterations. Numbers of particles are compared in boxes of 96, boxes with 500 particles. Printed
per size: CPU seconds per iteration (start of the program left out) and the exponent against the size before, 1 for
cost that grows with the particles, and with the pixels of a box.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

from cryoloom.io.map_file import write_map
from cryoloom.io.records import write_particles
from cryoloom.project.runner import run_stage
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

FIELD, BOX, N, ITERATIONS = 243.2, 96, 500, 6


def seconds_per_iteration(folder: Path, n: int, box: int) -> float:
    """CPU seconds (user and system, all threads) of one refinement over its iterations."""
    here = folder / f"n{n}_box{box}"
    if not (here / "particles.star").exists():
        atoms = phantom("globule", "C1", mass_kda=400.0)
        volume = potential_map(atoms, box, FIELD / box)
        specimen = Specimen(((volume,),), diameter=atoms.diameter)
        truth = simulate_particles(specimen, here / "images", ParticleRecipe(n=n, snr=1.0, junk=0.0), seed=1)
        write_particles(observed(truth), here / "particles.star")
        write_map(specimen.truth(0), here / "truth.mrc")
    inputs = {"particles": here / "particles.star", "reference": here / "truth.mrc"}
    settings = {"initial_lowpass": 40.0, "max_iterations": ITERATIONS}
    started = time.process_time()
    job = run_stage("refine", inputs, settings, out=here / f"refine_{time.time_ns()}", device="cpu")
    spent = time.process_time() - started
    done = (job.folder / "run.log").read_text(encoding="utf-8").count("iteration ")
    return spent / done


def main() -> None:
    """Parse the command line and print one line of JSON per size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--particles", type=int, nargs="*", default=[500, 1000, 2000, 4000])
    parser.add_argument("--boxes", type=int, nargs="*", default=[64, 96, 128, 192])
    arguments = parser.parse_args()
    seconds_per_iteration(arguments.folder, 100, 64)  # loops are compiled or loaded here
    for name, sizes in (("particles", arguments.particles), ("box", arguments.boxes)):
        before: tuple[float, float] | None = None
        for size in sizes:
            n, box = (size, BOX) if name == "particles" else (N, size)
            spent = seconds_per_iteration(arguments.folder, n, box)
            amount = float(n if name == "particles" else box**2)
            line: dict[str, object] = {name: size, "cpu_seconds_per_iteration": round(spent, 2)}
            if before is not None:
                line["exponent"] = round(math.log(spent / before[1]) / math.log(amount / before[0]), 2)
            before = (amount, spent)
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

"""CPU time of `class2d`, whole process: 1,000 particles of 64 px, 8 classes, 20 iterations (or other numbers).

    python benchmarks/class2d/speed.py [--particles 1000] [--classes 8] [--iterations 20] [--threads 2]

Particles are views of the built-in phantom of bed `c1`, box 64 at 3.75 Å, SNR 0.1, simulated first in a process of
their own whose time does not count. Prints one line of JSON. RELION 3.1.3 needs about 240 CPU seconds for the same task
(`relion_refine --iter 20 --K 8` on 1,000 particles of 64 px).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SIMULATE = """
import sys
from cryoloom.simulate.particles import observed, simulate_particles, ParticleRecipe, Specimen
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map
from cryoloom.io.records import write_particles
atoms = phantom("globule", "C1", mass_kda=400.0)
specimen = Specimen(((potential_map(atoms, 64, 3.75),),), diameter=atoms.diameter)
truth = simulate_particles(specimen, sys.argv[1], ParticleRecipe(n=int(sys.argv[2]), snr=0.1, junk=0.1), seed=1)
write_particles(observed(truth), sys.argv[1] + "/particles.star")
"""


def main() -> None:
    """Simulate, classify, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", SIMULATE, folder, str(a.particles)], check=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = Path(folder) / "job"
        code = (
            "from cryoloom.project.runner import run_stage\n"
            f"run_stage('class2d', inputs={{'particles': {folder + '/particles.star'!r}}}, "
            f"settings={{'classes': {a.classes}, 'iterations': {a.iterations}}}, out={str(out)!r}, threads={a.threads})"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        summary = json.loads((out / "summary.json").read_text())
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(
            json.dumps(
                {"particles": a.particles, "classes": a.classes, "iterations": a.iterations,
                 "cpu_seconds": round(cpu, 2), "seconds": summary["seconds"],
                 "peak_memory_mb": summary["peak_memory_mb"], "selected": summary["n_out"]}
            )
        )  # fmt: skip


if __name__ == "__main__":
    main()

"""100,000 particles of 64 px in 100 classes: seconds and peak memory of the whole job (row C2D-1).

    python benchmarks/class2d/large.py [--particles 100000] [--classes 100] [--threads 2] [--folder DIR] [--minutes 8]

Particles are views of the built-in phantom of bed `c1` at 3.75 Å and SNR 0.1, simulated once into the folder (about
1.6 GB) and used again by later runs. The job can be killed: the same command goes on after its last iteration. With
`--minutes` it stops itself after the iteration in which they are over, and the next run goes on; the seconds of all
runs add up in `seconds.json`. Prints one line of JSON, and adds a job that came to its end to the evidence of the row.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

SIMULATE = """
import sys
from cryoloom.compute.executor import ThreadExecutor
from cryoloom.simulate.particles import observed, simulate_particles, ParticleRecipe, Specimen
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map
from cryoloom.io.records import write_particles
atoms = phantom("globule", "C1", mass_kda=400.0)
specimen = Specimen(((potential_map(atoms, 64, 3.75),),), diameter=atoms.diameter)
recipe = ParticleRecipe(n=int(sys.argv[2]), snr=0.1, junk=0.1)
truth = simulate_particles(specimen, sys.argv[1], recipe, seed=1, executor=ThreadExecutor(int(sys.argv[3])))
write_particles(observed(truth), sys.argv[1] + "/particles.star")
"""

CLASSIFY = """
import json, sys, time
from cryoloom.class2d import stage
from cryoloom.project.runner import run_stage
folder, classes, threads, minutes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
start = time.time()
save = stage.save_state

def save_and_watch(path, state):
    save(path, state)
    print(f"after iteration {state.iteration}: {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    if minutes and time.time() - start > 60 * minutes:
        raise KeyboardInterrupt

stage.save_state = save_and_watch
run_stage("class2d", inputs={"particles": folder + "/particles.star"}, settings={"classes": classes},
          out=folder + "/job", threads=threads)
"""


def main() -> None:
    """Simulate, classify, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--particles", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("class2d-large"))
    parser.add_argument("--minutes", type=float, default=0.0)
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    if not (a.folder / "particles.star").exists():
        command = [sys.executable, "-c", SIMULATE, str(a.folder), str(a.particles), str(a.threads)]
        subprocess.run(command, check=True)
    book = a.folder / "seconds.json"
    former = json.loads(book.read_text()) if book.exists() else {"seconds": 0.0, "cpu_seconds": 0.0, "runs": 0}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    command = [sys.executable, "-c", CLASSIFY, str(a.folder), str(a.classes), str(a.threads), str(a.minutes)]
    done = subprocess.run(command).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {
        "seconds": round(former["seconds"] + time.time() - start, 1),
        "cpu_seconds": round(
            former["cpu_seconds"] + after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1
        ),
        "runs": former["runs"] + 1,
    }
    book.write_text(json.dumps(spent))
    peak = after.ru_maxrss // 1024
    case = {"particles": a.particles, "classes": a.classes, "ended": done, "peak_memory_mb": peak, **spent}
    print(json.dumps(case))
    if done:
        evidence = Path(__file__).resolve().parent.parent / "evidence" / "C2D-1.jsonl"
        evidence.parent.mkdir(parents=True, exist_ok=True)
        with evidence.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**case, "threads": a.threads, "date": time.strftime("%Y-%m-%d")}) + "\n")


if __name__ == "__main__":
    main()

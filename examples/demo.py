"""The main job on data it makes: movies with known truth to a map, a report, and the truth about the map.

python examples/demo.py --out demo

Simulates movies of apoferritin (PDB 1FHA; motion, radiation damage, ice, dirt, carbon, camera), takes them to a map
with `cryoloom run`, and compares it with the true map: the resolution it reaches, and the one that the true poses and
true CTFs give from the same images.
"""

import argparse
import time
from pathlib import Path

from cryoloom.cli.console import ConsoleSink
from cryoloom.io.map_file import read_map
from cryoloom.io.records import read_particles
from cryoloom.pipeline.api import run_stage_with_report, write_report
from cryoloom.pipeline.run import run_pipeline
from cryoloom.project.files import write_json
from cryoloom.scoring.maps import score_map, truth_mask
from cryoloom.scoring.oracle import oracle_particles

MODEL = Path(__file__).resolve().parent / "data" / "1fha.pdb"
SYMMETRY = "O"
MOVIES = {
    "movies": 12,
    "width": 1200,
    "height": 1200,
    "frames": 16,
    "pixel_size": 1.8,
    "dose_per_frame": 2.0,
    "particles": 90,
    "carbon": 0.1,
    "bad": 0.08,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    sink = ConsoleSink()
    data = run_stage_with_report(
        "simulate movies", {"model": MODEL}, MOVIES, out=arguments.out / "data", seed=arguments.seed, sink=sink
    )
    project = arguments.out / "project"
    summary = run_pipeline(
        {"movies": str(data["movies"]), "gain": data.folder / "gain.mrc"},
        {"symmetry": SYMMETRY},
        out=project,
        seed=arguments.seed,
        sink=sink,
    )
    if summary["map"]:
        summary |= compare_with_truth(project, data.folder, SYMMETRY, sink)
        write_json(project / "summary.json", summary)
        write_report(project)
    print(f"\nverdict: {summary['verdict']}")
    for name in ("true_resolution", "oracle_resolution", "ratio_to_oracle", "resolution", "n_out"):
        print(f"{name.replace('_', ' ')}: {summary.get(name)}")
    print(f"the whole demo took {(time.monotonic() - started) / 60:.1f} min")
    print(f"report: {project / 'report.html'}")
    print(f"map:    {project / summary['map'] if summary['map'] else 'none'}")


def compare_with_truth(project: Path, data: Path, symmetry: str, sink) -> dict[str, object]:
    """True resolution of the map, and that of the oracle from the same images."""
    refined = sorted((project / "refine").glob("[0-9]*"))[-1]
    truth_map, truth = read_map(data / "truth_map.mrc"), read_particles(data / "truth.star")
    found = score_map(read_map(refined / "map.mrc"), truth_map)
    images = oracle_particles(read_particles(refined / "particles.star"), truth, distance_px=40.0)
    oracle = run_stage_with_report(
        "reconstruct",
        {"particles": images},
        {"symmetry": symmetry},
        out=project.parent / "oracle",
        sink=sink,
    )
    mask = truth_mask(truth_map)
    best = score_map(read_map(oracle["map"]), truth_map, mask, superposed=True)
    return {
        "true_resolution": round(found.resolution, 3),
        "oracle_resolution": round(best.resolution, 3),
        "ratio_to_oracle": round(found.resolution / best.resolution, 3),
    }


if __name__ == "__main__":
    main()

"""Real micrographs to a map: apoferritin of EMPIAR-10146, with no coordinates, no model and no start map given.

python examples/apoferritin.py DATA_FOLDER --out apoferritin

DATA_FOLDER holds `apoferritin-empiar10146/` and `models/1fha.pdb` (`tests/data/real/README.md` says where they come
from). The run sees the micrographs alone; manual picks, independent defocus values and the model are used afterwards,
for marking. The pixel size is 1.55 Å: the nominal 1.5 Å makes the particle 3 % smaller than its model.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch

from cryoloom.cli.console import ConsoleSink
from cryoloom.data import PickSet
from cryoloom.io.map_file import read_map
from cryoloom.io.records import read_fsc, read_micrographs, read_picks
from cryoloom.maps.fsc import fourier_shell_correlation, resolution_at
from cryoloom.maps.mask import spherical_mask
from cryoloom.pipeline.run import run_pipeline
from cryoloom.scoring.maps import score_map
from cryoloom.scoring.picks import score_picks
from cryoloom.simulate.potential import potential_map
from cryoloom.simulate.structure import read_atoms

PIXEL_SIZE = 1.55


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("apoferritin"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mark-only", action="store_true", help="mark what is there already")
    arguments = parser.parse_args()
    folder = arguments.data / "apoferritin-empiar10146"
    if not arguments.mark_only:
        run_pipeline(
            {"micrographs": [str(folder / "micrographs" / "*.mrc")]},
            {"pixel_size": PIXEL_SIZE, "amplitude_contrast": 0.07, "symmetry": "O"},
            out=arguments.out,
            seed=arguments.seed,
            sink=ConsoleSink(),
        )
    marks = mark(arguments.out, folder, arguments.data / "models" / "1fha.pdb")
    (arguments.out / "marks.json").write_text(json.dumps(marks, indent=1))
    for name, value in marks.items():
        print(f"{name:48} {value}")


def mark(project: Path, folder: Path, model: Path) -> dict[str, object]:
    """Compare what the run found with what is known of this data set."""
    summary = json.loads((project / "summary.json").read_text())
    marks: dict[str, object] = {"verdict": summary["verdict"], "particles in the map": summary["n_out"]}
    micrographs = read_micrographs(newest(project, "ctf") / "micrographs.star")
    kept = {Path(path).stem for path in micrographs.path}
    marks["May08_06.09.02 rejected"] = "May08_06.09.02" not in kept
    marks["micrographs kept (of 13 good ones)"] = len(kept)
    marks["median defocus difference (Å)"] = round(defocus_difference(micrographs, folder), 1)
    for job in sorted((project / "pick").glob("[0-9]*")):
        found = score_picks(read_picks(job / "picks.star"), manual_picks(folder), distance_px=30)
        marks[f"picks {job.name}: F1, precision, recall"] = [
            round(v, 3) for v in (found.f1, found.precision, found.recall)
        ]
    if not summary["map"]:
        return marks
    refined = newest(project, "refine")
    marks["FSC 0.143 of the masked halves (Å)"] = summary["resolution"]
    marks["interval (Å)"] = summary["resolution_interval"]
    halves = [read_map(refined / f"half{i}.mrc") for i in (1, 2)]
    box, pixel_size = halves[0].data.shape[0], halves[0].pixel_size
    ball = spherical_mask(box, 68.0 / pixel_size, 6.0)
    a, b = (torch.from_numpy(half.data) * ball for half in halves)
    fsc = fourier_shell_correlation(a, b)
    marks["FSC 0.143 of the halves in a soft ball (Å)"] = round(resolution_at(fsc, 0.143, box, pixel_size), 2)
    truth = potential_map(read_atoms(model), box, pixel_size)
    scored = score_map(read_map(refined / "map.mrc"), truth, ball)
    # Near 20 Å the transform of the shell passes through zero, and the two ferritins differ there: what counts is where
    # the curve leaves 0.5 for good.
    above = np.flatnonzero(scored.fsc[: int(box * pixel_size / 4)] >= 0.5)
    marks["FSC 0.5 against 1FHA, last crossing (Å)"] = round(box * pixel_size / max(int(above[-1]), 1), 2)
    marks["FSC against 1FHA at 15, 12, 10, 9, 8, 7, 6 Å"] = [
        round(float(np.interp(1 / r, scored.frequency, scored.fsc)), 2) for r in (15, 12, 10, 9, 8, 7, 6)
    ]
    marks["hand"] = "mirror image" if scored.mirrored else "as the model"
    curve = read_fsc(refined / "fsc.star")
    marks["masked FSC at 12, 10, 8 Å"] = [
        round(float(np.interp(1 / r, curve.frequency, curve.corrected)), 2) for r in (12, 10, 8)
    ]
    return marks


def newest(project: Path, stage: str) -> Path:
    return sorted((project / stage).glob("[0-9]*"))[-1]


def manual_picks(folder: Path) -> PickSet:
    positions, names = [], []
    for path in sorted((folder / "coordinates").glob("*_manual.star")):
        picks = read_picks(path)
        positions.append(picks.position_px)
        names += [path.stem.removesuffix("_manual") + ".mrc"] * len(picks)
    return PickSet(position_px=np.concatenate(positions), micrograph=np.array(names))


def defocus_difference(micrographs, folder: Path) -> float:
    known = {}
    for line in (folder / "ctf_estimates.tsv").read_text().splitlines():
        words = line.split()
        if not line.startswith("#") and not math.isnan(float(words[1])):
            known[words[0]] = 0.5 * (float(words[1]) + float(words[2])) * (PIXEL_SIZE / 1.5) ** 2
    found = 0.5 * (micrographs.defocus_u + micrographs.defocus_v)
    return float(
        np.median(
            [
                abs(f - known[Path(p).stem])
                for p, f in zip(micrographs.path, found, strict=True)
                if Path(p).stem in known
            ]
        )
    )


if __name__ == "__main__":
    main()

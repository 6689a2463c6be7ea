"""Picks on real micrographs against manual ones, with a picture of what was missed and what is false.

    python benchmarks/picking/apoferritin_picks.py DATA_FOLDER --out FOLDER [--method consensus] [--project PROJECT]

DATA_FOLDER holds `apoferritin-empiar10146/` (see `examples/apoferritin.py`). Defocus is estimated, then particles are
picked as the first round of `run` does, told nothing; or the picks of the last round of a project of `run` are taken.
Printed are F1, precision and recall within 30 pixels; `picks.png` shows the micrographs with the lowest, the middle and
the highest F1: found particles (circles), missed ones (squares), and picks where nobody marked a particle (crosses).
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

from cryoloom.data import PickSet
from cryoloom.io.images import read_micrograph
from cryoloom.io.records import read_picks
from cryoloom.project.runner import run_stage
from cryoloom.scoring.picks import score_picks

PIXEL_SIZE, DISTANCE_PX = 1.55, 30.0
SMOOTH_PX = 3.0


def pick(folder: Path, out: Path, method: str) -> PickSet:
    """Picks on all micrographs whose CTF is found."""
    options = {"pixel_size": PIXEL_SIZE, "amplitude_contrast": 0.07}
    files = sorted((folder / "micrographs").glob("*.mrc"))
    job = run_stage("import", {"files": files}, {"kind": "micrographs", **options}, out=out / "import", threads=1)
    job = run_stage("ctf", {"micrographs": job["micrographs"]}, {}, out=out / "ctf", threads=1)
    job = run_stage("pick", {"micrographs": job["micrographs"]}, {"method": method}, out=out / method, threads=1)
    return read_picks(job["picks"])


def manual_picks(folder: Path) -> PickSet:
    """Where people saw particles."""
    parts = [(path, read_picks(path).position_px) for path in sorted((folder / "coordinates").glob("*_manual.star"))]
    names = [path.stem.removesuffix("_manual") + ".mrc" for path, _ in parts]
    return PickSet(
        position_px=np.concatenate([place for _, place in parts]),
        micrograph=np.repeat(np.asarray(names, dtype=object), [len(place) for _, place in parts]),
    )


def of(picks: PickSet, stem: str) -> PickSet:
    """The picks of one micrograph."""
    return picks.select(np.asarray([Path(str(name)).stem == stem for name in picks.micrograph]))


def draw(axis: plt.Axes, path: str, found: PickSet, truth: PickSet) -> None:
    """One micrograph with what was found, missed, and found in error."""
    score = score_picks(found, truth, DISTANCE_PX)
    image = gaussian_filter(read_micrograph(path).astype(np.float32), SMOOTH_PX)
    low, high = np.quantile(image, [0.005, 0.995])
    axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
    missed = np.delete(np.asarray(truth.position_px), score.matched_truth, axis=0)
    false = np.delete(np.asarray(found.position_px), score.matched_pick, axis=0)
    hit = np.asarray(found.position_px)[score.matched_pick]
    for place, marker, colour in ((hit, "o", "tab:green"), (missed, "s", "tab:blue"), (false, "x", "tab:red")):
        axis.plot(place[:, 1], place[:, 0], marker, color=colour, markersize=8, fillstyle="none", markeredgewidth=1.2)
    axis.set_title(f"{Path(path).stem}: F1 {score.f1:.2f}, {len(missed)} missed, {len(false)} false", fontsize=9)
    axis.axis("off")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--method", choices=("single", "consensus"), default="single")
    parser.add_argument("--project", type=Path)
    options = parser.parse_args()
    folder = options.data / "apoferritin-empiar10146"
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.project is None:
        picks = pick(folder, out, options.method)
    else:
        job = sorted((options.project / "pick").glob("[0-9]*"))[-1]
        picks = read_picks(job / "picks.star", root=options.project)
    truth = manual_picks(folder)
    total = score_picks(picks, truth, DISTANCE_PX)
    print(f"F1 {total.f1:.3f}, precision {total.precision:.3f}, recall {total.recall:.3f}")
    stems = sorted({Path(str(name)).stem for name in truth.micrograph} & {Path(p).stem for p in picks.micrographs})
    ranked = sorted(stems, key=lambda stem: score_picks(of(picks, stem), of(truth, stem), DISTANCE_PX).f1)
    figure, axes = plt.subplots(1, 3, figsize=(15, 5.4))
    for axis, stem in zip(axes, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True):
        draw(axis, str(folder / "micrographs" / f"{stem}.mrc"), of(picks, stem), of(truth, stem))
    figure.tight_layout()
    figure.savefig(out / "picks.png", dpi=80)


if __name__ == "__main__":
    main()

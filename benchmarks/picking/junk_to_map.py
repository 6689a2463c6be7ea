"""What junk costs the final map: picks of `run` against perfect picks, on micrographs with 30 % junk.

    python benchmarks/picking/junk_to_map.py --out FOLDER [--bed tripod] [--seed 0] [--arms single consensus perfect]

Objects lie apart on micrographs with coloured noise: true particles of a phantom, and three in ten that are broken
particles or contaminants. On the beds `tripod` and `ring` contaminants are as strong as particles, on the bed `shell`
2.5 times as strong, and what a round filter sees of a particle there hardly stands above noise. The micrographs carry
their true CTF. One arm picks with one picker, one with the consensus, in the rounds of picking and 2D classes that
`run` goes through; the third is given the true positions. All are then refined from the true map at 30 Å, those of
`run` again where its second look, with the refined map, finds more, so what differs is the picks. Printed are the share
of particles found, that of junk among what is refined, CPU seconds, and the true resolution. An arm that was done is
not done again.
"""

import argparse
import json
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree

from cryoloom.cli.console import ConsoleSink
from cryoloom.data import MicrographSet, ParticleSet, PickSet
from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.records import read_particles, write_micrographs, write_picks
from cryoloom.pipeline.picking_rounds import find_particles
from cryoloom.pipeline.second_look import refine_again
from cryoloom.pipeline.settings import RunSettings
from cryoloom.pipeline.way import Way
from cryoloom.project.folder import create_project
from cryoloom.project.runner import JobResult
from cryoloom.scoring.maps import score_map
from cryoloom.simulate.noise import coloured_noise, ice_spectrum
from cryoloom.simulate.particles import Specimen, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

PIXEL, SIZE, PER_MICROGRAPH = 2.0, 1024, 60
EMPTY, CONTAMINANT = 1, 3
SIMULATED_JUNK = 0.39  # a third of it is empty and left out: 0.3 of what remains
CLEAR = 1e4  # signal-to-noise ratio of the images that are laid on micrographs


@dataclass(frozen=True)
class Bed:
    """A particle, and how strong contaminants are: amplitude over that of `simulate particles`."""

    shape: str
    symmetry: str
    mass_kda: float
    diameter: float
    snr: float
    contaminants: float


BEDS = {
    "tripod": Bed("tripod", "C3", 300.0, 140.0, 0.1, 0.4),
    "ring": Bed("ring", "D7", 700.0, 190.0, 0.1, 0.4),
    "shell": Bed("shell", "O", 480.0, 150.0, 0.05, 1.0),
}


def make_micrographs(out: Path, n: int, bed: Bed, seed: int) -> tuple[MicrographSet, dict[str, np.ndarray]]:
    """Micrographs of true particles and junk; positions yx and kinds (0 is a particle) of each, `(m, 3)`."""
    box = round(1.8 * bed.diameter / PIXEL) // 2 * 2
    truth_map = potential_map(phantom(bed.shape, bed.symmetry, mass_kda=bed.mass_kda, seed=seed), box, PIXEL)
    write_map(truth_map, out / "truth_map.mrc")
    specimen = Specimen(states=((truth_map,),), symmetry=bed.symmetry, diameter=bed.diameter)
    objects = simulate_particles(
        specimen, out / "objects", seed=seed, n=n * PER_MICROGRAPH, snr=CLEAR, junk=SIMULATED_JUNK, shift=0.0,
        height=0.0, astigmatism=0.0, per_micrograph=PER_MICROGRAPH,
    )  # fmt: skip
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    spectrum = ice_spectrum((SIZE, SIZE), PIXEL)
    stacks = {path: read_mrc(path)[0] for path in np.unique(objects.image_path)}
    paths, defocus, lying = [], [], {}
    for name in np.unique(objects.micrograph):
        rows = np.flatnonzero((objects.micrograph == name) & (objects.extra["cryoloomKind"] != EMPTY))
        place = scatter(rng, len(rows), box // 2, 1.02 * bed.diameter / PIXEL)
        picture = coloured_noise(1, (SIZE, SIZE), spectrum, generator)[0].numpy()
        for row, (y, x) in zip(rows, place, strict=False):
            image = stacks[objects.image_path[row]][objects.image_index[row]]
            own = slice(y - box // 2, y - box // 2 + box), slice(x - box // 2, x - box // 2 + box)
            contrast = bed.contaminants if objects.extra["cryoloomKind"][row] == CONTAMINANT else 1.0
            picture[own] += contrast * (bed.snr / CLEAR) ** 0.5 * image
        path = str(out / Path(str(name)).name)
        write_mrc(path, picture.astype(np.float32), PIXEL)
        paths.append(path)
        defocus.append(objects.extra["cryoloomMicrographDefocusU"][rows[0]])
        lying[path] = np.column_stack([place, objects.extra["cryoloomKind"][rows[: len(place)]]])
    micrographs = MicrographSet(
        path=np.asarray(paths), optics=(objects.optics[0],), optics_index=np.zeros(len(paths), int),
        defocus_u=np.asarray(defocus), defocus_v=np.asarray(defocus), defocus_angle=np.zeros(len(paths)),
    )  # fmt: skip
    return micrographs, lying


def scatter(rng: np.random.Generator, n: int, margin: int, apart: float) -> np.ndarray:
    """Whole pixels yx at least `apart` from each other, as many of `n` as fit, `(m, 2)`."""
    placed: list[np.ndarray] = []
    for _ in range(200 * n):
        p = rng.integers(margin, SIZE - margin, 2)
        if len(placed) < n and all(np.hypot(*(p - q)) > apart for q in placed):
            placed.append(p)
    return np.asarray(placed)


def refine(way: Way, out: Path, particles: Path, bed: Bed, diameter: float) -> JobResult:
    """Particles refined from the true map at 30 Å."""
    return way.step(
        "refine", {"particles": particles, "reference": out / "truth_map.mrc"}, symmetry=bed.symmetry,
        mask_diameter=1.25 * diameter, initial_lowpass=30.0,
    )  # fmt: skip


def run_arm(arm: str, out: Path, lying: dict[str, np.ndarray], bed: Bed, seed: int) -> dict[str, float]:
    """One arm from micrographs to its figures."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    project = create_project(out / arm)
    options = {"project": project, "device": "cpu", "require_gpu": False, "threads": 1, "seed": seed, "new": False}
    settings = RunSettings(symmetry=bed.symmetry, picking="single" if arm == "perfect" else arm)
    way = Way(project.root, settings, options, ConsoleSink())
    micrographs, where, diameter = out / "micrographs.star", {}, bed.diameter
    if arm == "perfect":
        write_picks(true_picks(lying, bed), out / "true_picks.star")
        where["picks"] = out / "true_picks.star"
    else:
        found = find_particles(way, micrographs)
        if found is None:
            raise SystemExit(f"{arm}: nothing found")
        where["particles"], diameter = found.particles, found.diameter
    cut = way.step("extract", {"micrographs": micrographs, **where}, diameter=diameter)
    refined = refine(way, out, cut["particles"], bed, diameter)
    first = refined
    if arm != "perfect":
        refined = refine_again(way, micrographs, first, diameter, lambda p: refine(way, out, p, bed, diameter))
    once, score = (score_map(read_map(job["map"]), read_map(out / "truth_map.mrc")) for job in (first, refined))
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {"true_resolution": round(score.resolution, 3), "cpu_seconds": round(cpu), "diameter": round(diameter)}
    if first is not refined:
        figures["before_second_look"] = round(once.resolution, 3)
    return figures | kinds_of(read_particles(refined["particles"], root=project.root), lying, bed)


def true_picks(lying: dict[str, np.ndarray], bed: Bed) -> PickSet:
    """The places of the particles."""
    places = {path: rows[rows[:, 2] == 0, :2] for path, rows in lying.items()}
    return PickSet(
        position_px=np.concatenate(list(places.values())).astype(float),
        micrograph=np.concatenate([np.full(len(p), path) for path, p in places.items()]),
        score=np.ones(sum(map(len, places.values()))),
        probability=np.ones(sum(map(len, places.values()))),
        diameter=bed.diameter,
        micrographs=tuple(places),
    )


def kinds_of(particles: ParticleSet, lying: dict[str, np.ndarray], bed: Bed) -> dict[str, float]:
    """How many are particles, and what share of the true ones that is; junk is all else."""
    assert particles.position_px is not None and particles.micrograph is not None
    names = np.asarray([Path(str(name)).name for name in particles.micrograph])
    true, n_true = 0, 0
    for path, rows in lying.items():
        places = rows[rows[:, 2] == 0, :2]
        n_true += len(places)
        own = particles.position_px[names == Path(path).name]
        if len(own) and len(places):
            distance, _ = cKDTree(own).query(places)
            true += int((distance < 0.35 * bed.diameter / PIXEL).sum())
    n = len(particles.position_px)
    return {"n": n, "recall": round(true / n_true, 3), "junk": round(1 - true / max(n, 1), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--micrographs", type=int, default=8)
    parser.add_argument("--bed", choices=list(BEDS), default="tripod")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", nargs="+", default=["single", "consensus", "perfect"])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    out, bed = given.out.resolve(), BEDS[given.bed]
    micrographs, lying = make_micrographs(out, given.micrographs, bed, given.seed)
    write_micrographs(micrographs, out / "micrographs.star")
    kinds = np.concatenate(list(lying.values()))[:, 2]
    print(f"{(kinds == 0).sum()} particles, {100 * (kinds != 0).mean():.0f} % junk")
    for arm in given.arms:
        record = out / f"{arm}.json"
        if not record.exists():
            record.write_text(json.dumps(run_arm(arm, out, lying, bed, given.seed)))
        print(arm, record.read_text())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

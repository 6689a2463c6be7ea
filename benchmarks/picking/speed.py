"""Speed of picking on one micrograph of 4096 x 4096 pixels: without references, with a map, with a network.

    python benchmarks/picking/speed.py --out FOLDER [--threads 2] [--device cpu] [--repeats 3]

The micrograph holds compact particles of 300 kDa at 1 Å per pixel, SNR 0.05, with carbon, ice and aggregates. Each
search is run once to warm up and then `--repeats` times; printed are the least wall time and the least CPU time of one
micrograph, reading it from the disk included. Once for a whole set of micrographs, and so apart from that, come the
search for the size of the particle, the turned projections of the map, and the training of the network.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cryoloom.data import MicrographSet, Optics, PickSet, VolumeMap
from cryoloom.io.images import read_micrograph
from cryoloom.io.map_file import write_map
from cryoloom.io.mrc import write_mrc
from cryoloom.picking.bank import BankMaker
from cryoloom.picking.finders import Finder, bank_finder, round_finder
from cryoloom.picking.learn import transfer_of
from cryoloom.picking.learned.model import load_picker
from cryoloom.picking.matched import scales
from cryoloom.picking.prepare import CORE
from cryoloom.picking.references import load_references
from cryoloom.picking.search import search_micrograph, survey_scales
from cryoloom.picking.template import RoundTemplate
from cryoloom.project.runner import run_stage

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "picking"))
import picking_bed

SIZE, PIXEL, SNR = 4096, 1.0, 0.05
MASS, AXES, N_PARTICLES = 300.0, (1.0, 1.1, 1.4), 250
MAP_BOX, MAP_PIXEL = 64, 3.0
STEP_DEG = 15.0
N_LABELS = 20
ASKED = {"without references": 2.0, "a map at 15° steps": 15.0, "a network": 4.0, "training": 600.0}


def make_bed(out: Path) -> tuple[MicrographSet, picking_bed.Micrograph]:
    """One micrograph, and the map of its particle beside it."""
    beads = picking_bed.bead_cloud(MASS, AXES, 7)
    truth = picking_bed.simulate(
        beads, shape=(SIZE, SIZE), pixel_size=PIXEL, n_particles=N_PARTICLES, snr=SNR, junk=True, of_particles=True,
        gradient=0.5, seed=7,
    )  # fmt: skip
    path = out / "micrograph.mrc"
    write_mrc(path, truth.image, PIXEL)
    edges = [(np.arange(MAP_BOX + 1) - MAP_BOX // 2 - 0.5) * MAP_PIXEL] * 3
    density, _ = np.histogramdd(beads[:, ::-1], bins=edges)
    density = picking_bed.gaussian_filter(density, 5.0 / MAP_PIXEL)
    write_map(VolumeMap(density.astype(np.float32), MAP_PIXEL), out / "map.mrc")
    defocus = np.asarray([truth.defocus])
    micrographs = MicrographSet(
        path=np.asarray([str(path)]), optics=(Optics(pixel_size=PIXEL),), optics_index=np.zeros(1, int),
        defocus_u=defocus, defocus_v=defocus, defocus_angle=np.zeros(1), phase_shift=np.zeros(1),
    )  # fmt: skip
    return micrographs, truth


def timed(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least wall and least CPU seconds of several runs after one that warms up, or of the first if `repeats` is 0."""
    times = []
    for _ in range(repeats + 1):
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        times.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    times = times[1:] or times
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def train(out: Path, micrographs: MicrographSet, truth: picking_bed.Micrograph, options: argparse.Namespace) -> Path:
    """A network that learns from labels on the micrograph."""
    rng = np.random.default_rng(0)
    rows = rng.choice(len(truth.position_px), N_LABELS, replace=False)
    labels = PickSet(
        position_px=truth.position_px[rows], micrograph=np.full(N_LABELS, micrographs.path[0]), diameter=truth.diameter
    )
    inputs = {"micrographs": micrographs, "labels": labels}
    job = run_stage(
        "train-picker", inputs, {}, out=out / "training", threads=options.threads, device=options.device, new=True
    )
    return job.folder / "picker.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    micrographs, truth = make_bed(out)
    device, extent = options.device, truth.diameter
    core = CORE * extent
    transfer = transfer_of(micrographs, 0)
    print(f"{SIZE} x {SIZE}, particle of {extent:.0f} Å; device {device}, threads {options.threads}")

    def report(name: str, times: tuple[float, float]) -> None:
        asked = f"   asked: {ASKED[name]:g} s" if name in ASKED else ""
        print(f"{name:32}{times[0]:8.2f} s by the clock{times[1]:8.2f} CPU s{asked}", flush=True)

    def search(find: Finder, beside: float) -> None:
        image = torch.from_numpy(read_micrograph(micrographs.path[0])).to(device)
        search_micrograph(
            image, PIXEL, transfer, core, dark=True, distance=0.55 * extent, margin=0.0, exclude=True, beside=beside,
            find=find,
        )  # fmt: skip

    def survey() -> None:
        image = torch.from_numpy(read_micrograph(micrographs.path[0])).to(device)
        survey_scales(image, PIXEL, transfer, scales(50.0, 450.0), exclude=True)

    report("(search for the size)", timed(survey, options.repeats))
    free = round_finder(RoundTemplate.ball(core))
    report("without references", timed(lambda: search(free, 0.5), options.repeats))
    references = load_references(out / "map.mrc", pixel_size=None, contrast="auto")
    finder = bank_finder(BankMaker(references, extent, np.deg2rad(STEP_DEG)), core)
    n_turns = round(360 / STEP_DEG)
    first = timed(lambda: search(finder, 0.5), 0)
    report("a map at 15° steps", timed(lambda: search(finder, 0.5), max(options.repeats - 1, 0)))
    print(f"{len(references.images)} projections x {n_turns} turns; the first micrograph took {first[1]:.2f} CPU s")
    models: list[Path] = []
    report("training", timed(lambda: models.append(train(out, micrographs, truth, options)), 0))
    picker = load_picker(models[0])
    report("a network", timed(lambda: search(picker.find, 0.0), options.repeats))


if __name__ == "__main__":
    main()

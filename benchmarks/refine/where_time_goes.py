"""Where the processor time of a refinement goes, and which fraction of the hardware's rate each part reaches.

Run::

    python benchmarks/refine/where_time_goes.py d2 --folder /scratch/beds

Refines one of the sets of `against_relion.py` in this process on one thread, and prints a table: CPU seconds of every
part; for the search the rate of its matrix products beside that of one large product of the same operands; for parts
that walk through points of Fourier space the points per second, and the memory traffic that eight neighbours of eight
bytes each mean beside the rate at which this core copies an array that is larger than its caches. Most neighbours come
from the caches, so that fraction can exceed one: it says whether memory, and not arithmetic, could be the limit.
"""

import argparse
import json
import pickle
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from against_oracle import prepare
from against_relion import SETS
from torch.utils.flop_counter import FlopCounterMode

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.em.groups import half_sets
from cryoloom.em.images import ImageSource
from cryoloom.em.start import particle_diameter, place_reference
from cryoloom.io.map_file import read_map
from cryoloom.io.particles import ParticleImages
from cryoloom.io.records import read_particles
from cryoloom.refine import frames, schedule, searches
from cryoloom.refine.settings import RefineSettings
from cryoloom.refine.stage import plan_of
from cryoloom.refine.state import begin

BYTES_PER_POINT = 8 * 8  # eight neighbours, complex64


class Account:
    """CPU seconds, floating-point operations and points per part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.flops: dict[str, float] = defaultdict(float)
        self.points: dict[str, float] = defaultdict(float)
        self.depth = 0

    def watch(self, module: Any, name: str, part: str, points: Callable[..., float] | None = None) -> None:
        """Count the time of a function of a module; what it calls is its own."""
        real = getattr(module, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            if self.depth:
                return real(*arguments, **options)
            self.depth += 1
            start = time.process_time()
            try:
                with FlopCounterMode(display=False) as counter:
                    out = real(*arguments, **options)
            finally:
                self.depth -= 1
            self.seconds[part] += time.process_time() - start
            self.flops[part] += counter.get_total_flops()
            if points is not None:
                self.points[part] += points(*arguments, **options)
            return out

        setattr(module, name, watched)


def product_rate(dtype: torch.dtype, n: int = 1536) -> float:
    """Floating-point operations per CPU second of a large matrix product, the best of five."""
    a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
    best = np.inf
    for _ in range(5):
        start = time.process_time()
        torch.mm(a, b)
        best = min(best, time.process_time() - start)
    return 2 * n**3 / best


def copy_rate(n: int = 1 << 26) -> float:
    """Bytes per CPU second, read and written, of a copy that no cache holds; the best of five."""
    a, b = np.zeros(n, np.float32), np.ones(n, np.float32)
    best = np.inf
    for _ in range(5):
        start = time.process_time()
        np.copyto(a, b)
        best = min(best, time.process_time() - start)
    return 2 * a.nbytes / best


def refine(folder: Path, symmetry: str, account: Account) -> tuple[float, torch.dtype]:
    """Refine as the stage does, the parts watched; returns CPU seconds in all and the operands of the search."""
    start = time.process_time()
    particles, reference = read_particles(folder / "particles.star"), read_map(folder / "truth.mrc")
    settings = RefineSettings(symmetry=symmetry)
    reader = ParticleImages(particles)
    pixel_size = float(particles.optics[0].pixel_size)
    field = reader.shape[-1] * pixel_size
    placed = place_reference(reference, field, reader.shape[-1], settings.initial_lowpass)
    diameter = min(1.1 * particle_diameter(placed, field / placed.shape[0]) + 10.0, 0.95 * field)
    source = ImageSource(reader, particles, diameter, cache_bytes=1 << 30)
    ends = source.points.ends

    def fitted(_s: Any, _r: Any, _h: Any, candidates: Any, *_: Any, radius: int, n_steps: int = 5, **__: Any) -> float:
        return float(len(candidates) * (n_steps + 1) * ends[radius])

    def inserted(_s: Any, candidates: Any, *_: Any, radius: int, **__: Any) -> float:
        return float(len(candidates) * ends[radius])

    def over_rows(_s: Any, _r: Any, _p: Any, rows: Any, *_: Any, radius: int, **__: Any) -> float:
        return float(len(rows) * ends[radius])

    account.watch(searches, "search_poses", "search over all poses")
    account.watch(frames, "refine_poses", "poses off the grid", fitted)
    account.watch(schedule, "accumulate", "insertion", inserted)
    account.watch(schedule, "estimate_noise", "noise from residuals", over_rows)
    account.watch(schedule, "fit_defocus", "defocus of each particle", over_rows)
    account.watch(schedule, "prepare_sums", "symmetry of the sums")
    account.watch(schedule, "solve_halves", "solving, masks, FSC")
    account.watch(schedule, "reference_volumes", "references of the next iteration")
    account.watch(schedule, "prepare_references", "transforms of the references")
    executor = ThreadExecutor(1)
    half = half_sets(particles, torch.Generator().manual_seed(0))
    plan = plan_of(settings, diameter)
    state = begin(source, placed, half, plan, executor)
    while not state.finished:
        state, _ = schedule.iterate(source, state, plan, executor, lambda line: None)
    return time.process_time() - start, plan.dtype


def main() -> None:
    """Parse the command line, refine, and print the table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", choices=sorted(SETS))
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name, n, box, pixel_size, snr, _ = SETS[arguments.set]
    folder = prepare(name, arguments.folder, {"n": n, "snr": snr, "junk": 0.0}, box, pixel_size)
    with (folder / "truth.pkl").open("rb") as file:
        _, symmetry, _ = pickle.load(file)
    account = Account()
    total, dtype = refine(folder, symmetry, account)
    peak, bandwidth = product_rate(dtype), copy_rate()
    rows = []
    for part, seconds in sorted(account.seconds.items(), key=lambda item: -item[1]):
        row: dict[str, float | str] = {
            "part": part,
            "cpu_seconds": round(seconds, 2),
            "share": round(seconds / total, 3),
        }
        if account.flops[part] > 1e9:
            row["gflops"] = round(account.flops[part] / seconds / 1e9, 1)
            row["of_product_rate"] = round(account.flops[part] / seconds / peak, 3)
        if account.points[part]:
            row["million_points_per_s"] = round(account.points[part] / seconds / 1e6, 1)
            row["of_copy_rate"] = round(account.points[part] * BYTES_PER_POINT / seconds / bandwidth, 2)
        rows.append(row)
    rest = total - sum(account.seconds.values())
    rows.append({"part": "reading, transforms of images, all else", "cpu_seconds": round(rest, 2),
                 "share": round(rest / total, 3)})  # fmt: skip
    columns = ("part", "cpu_seconds", "share", "gflops", "of_product_rate", "million_points_per_s", "of_copy_rate")
    sys.stdout.write("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns) + "\n")
    for row in rows:
        sys.stdout.write("| " + " | ".join(str(row.get(c, "")) for c in columns) + " |\n")
    rates = {"product_gflops": round(peak / 1e9, 1), "copy_gb_per_s": round(bandwidth / 1e9, 2), "operands": str(dtype)}
    sys.stdout.write(json.dumps({"set": arguments.set, "cpu_seconds": round(total, 1), **rates, "parts": rows}) + "\n")


if __name__ == "__main__":
    main()

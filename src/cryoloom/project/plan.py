"""What a job would take: time, memory, disk, from the size of its inputs and a rate per stage.

The rates are first guesses, not measurements: they give the order of magnitude and say so in every plan.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryoloom.compute.threads import available_threads
from cryoloom.contract import Settings, StageDeclaration
from cryoloom.project.stores import input_paths


@dataclass(frozen=True)
class Rate:
    """Guessed cost of a stage on one core.

    Attributes
    ----------
    seconds_per_mb
        CPU seconds per MB of image data read.
    disk_per_mb
        MB written per MB of image data read.
    memory_mb, memory_per_mb
        MB held at once: a constant, and a part that follows the largest single file.
    """

    seconds_per_mb: float
    disk_per_mb: float
    memory_mb: float = 600.0
    memory_per_mb: float = 0.0


_RATES = {
    "import": Rate(0.0005, 0.0),
    "motion": Rate(0.025, 0.15, 700, 4.0),
    "ctf": Rate(0.04, 0.02, 700, 4.0),
    "pick": Rate(0.06, 0.001, 700, 8.0),
    "extract": Rate(0.02, 1.0, 700, 3.0),
    "class2d": Rate(0.5, 0.01, 1200),
    "abinitio": Rate(0.6, 0.01, 1500),
    "refine": Rate(0.5, 0.05, 1500),
    "reconstruct": Rate(0.05, 0.05, 1200),
    "postprocess": Rate(1.0, 2.0, 900, 12.0),
    "resolution": Rate(2.0, 1.0, 900, 12.0),
}
_DEFAULT = Rate(0.05, 0.1)


def estimate_plan(
    declaration: StageDeclaration, inputs: dict[str, Any], settings: Settings, *, threads: int | None = None
) -> dict[str, Any]:
    """Estimate time (s), memory (MB) and disk (MB) of a stage, and say what the estimate rests on."""
    threads = threads or available_threads()
    sizes = [size for value in inputs.values() for path in input_paths(value) for size in _image_sizes(path)]
    total, largest = sum(sizes) / 1e6, max(sizes, default=0) / 1e6
    rate = _RATES.get(declaration.name, _DEFAULT)
    disk = rate.disk_per_mb * total
    free = shutil.disk_usage(Path.cwd()).free / 1e6
    plan: dict[str, Any] = {
        "stage": declaration.name,
        "n_files": len(sizes),
        "input_mb": round(total, 1),
        "seconds": round(2 + rate.seconds_per_mb * total / threads, 1),
        "memory_mb": round(rate.memory_mb + rate.memory_per_mb * largest * threads),
        "disk_mb": round(disk, 1),
        "disk_free_mb": round(free),
        "threads": threads,
        "settings": settings.model_dump(mode="json"),
        "reasons": ["a rough guess from the size of the input; the rates behind it are not measured yet"],
        "warnings": [],
    }
    if disk > free:
        plan["warnings"].append(f"{disk:.0f} MB will be written but only {free:.0f} MB are free; free some space first")
    return plan


def _image_sizes(path: Path) -> list[int]:
    """Sizes in bytes of the image files behind an input: itself, or those a STAR file names."""
    if path.suffix.lower() != ".star":
        return [path.stat().st_size]
    found: dict[str, int] = {}
    for word in path.read_text(encoding="utf-8", errors="replace").split():
        name = word.rpartition("@")[2]
        if name not in found and name.lower().endswith((".mrc", ".mrcs", ".tif", ".tiff", ".eer")):
            for base in (path.parent, *path.parent.parents, Path.cwd()):
                candidate = base / name
                if candidate.is_file():
                    found[name] = candidate.stat().st_size
                    break
    return list(found.values()) or [path.stat().st_size]


def scale_plan(plan: dict[str, Any], stages: tuple[str, ...], settings: dict[str, Any]) -> dict[str, Any]:
    """The plan of a whole way from that of its import: the costs of its stages, one after the other.

    Later stages read what earlier ones wrote, so their input shrinks or grows by what those write per MB.
    """
    size = plan["input_mb"]
    seconds, disk, memory = 2.0, 0.0, 0.0
    steps = []
    for stage in stages:
        rate = _RATES.get(stage, _DEFAULT)
        cost = rate.seconds_per_mb * size / plan["threads"] + 2
        steps.append({"stage": stage, "seconds": round(cost, 1), "disk_mb": round(rate.disk_per_mb * size, 1)})
        seconds += cost
        disk += rate.disk_per_mb * size
        memory = max(memory, rate.memory_mb)
        if stage in ("motion", "extract"):
            size *= rate.disk_per_mb
    whole = plan | {
        "stage": "run",
        "seconds": round(seconds, 1),
        "disk_mb": round(disk, 1),
        "memory_mb": round(max(memory, plan["memory_mb"])),
        "steps": steps,
        "settings": settings,
    }
    if disk > plan["disk_free_mb"]:
        whole["warnings"] = [f"{disk:.0f} MB will be written but only {plan['disk_free_mb']} MB are free"]
    return whole

"""What of a classification survives a kill: poses, memberships, and the radii that are still to be done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.em.poses import PoseTable


@dataclass(frozen=True)
class Progress:
    """State between two levels of the sorting.

    Attributes
    ----------
    poses
        Poses at which the particles are sorted.
    share
        Memberships `(n, K)`, or None before the first.
    radii
        Radii still to be done; empty before the first level.
    gain
        What the classes of one half are worth to the other half, and its error; None where that was not asked.
    """

    poses: PoseTable
    share: np.ndarray | None
    radii: tuple[int, ...] = ()
    gain: tuple[float, float] | None = None


def save_progress(path: Path, progress: Progress) -> None:
    """Write beside the place, then rename."""
    columns: dict[str, Any] = {f"poses_{name}": column for name, column in progress.poses.arrays().items()}
    if progress.share is not None:
        columns["share"] = progress.share
    if progress.gain is not None:
        columns["gain"] = np.array(progress.gain)
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.savez(file, radii=np.array(progress.radii, dtype=np.int64), **columns)
    temporary.replace(path)


def load_progress(path: Path) -> Progress:
    """Read what `save_progress` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        data = {name: stored[name] for name in stored.files}
    poses = PoseTable(**{k[len("poses_") :]: v for k, v in data.items() if k.startswith("poses_")})
    gain = (float(data["gain"][0]), float(data["gain"][1])) if "gain" in data else None
    return Progress(poses, data.get("share"), tuple(int(r) for r in data["radii"]), gain)

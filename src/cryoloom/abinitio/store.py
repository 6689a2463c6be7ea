"""Starts put by as they finish, so that a job that was killed goes on where it was."""

from pathlib import Path

import numpy as np
import torch

from cryoloom.abinitio.model import StartModel
from cryoloom.abinitio.tournament import Contender


class StartStore:
    """Folder with one file per start and level.

    Parameters
    ----------
    folder
        Made when the first start is put by.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self, seed: int, level: int) -> Contender | None:
        """The start as it was at the end of a level, or None if it never got there."""
        path = self._path(seed, level)
        if not path.exists():
            return None
        with np.load(path) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in ("profiles", "volumes", "centre_px")}
            evidence = float(stored["evidence"])
        return Contender(seed, StartModel(arrays["profiles"], arrays["volumes"]), arrays["centre_px"], evidence)

    def keep(self, level: int, contender: Contender) -> None:
        """Put a start by: written beside its place, then renamed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(contender.seed, level)
        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as file:
            np.savez(
                file,
                profiles=contender.model.profiles.numpy(),
                volumes=contender.model.volumes.numpy(),
                centre_px=contender.centre_px.numpy(),
                evidence=contender.evidence,
            )
        temporary.replace(path)

    def _path(self, seed: int, level: int) -> Path:
        return self.folder / f"start{seed:04d}_level{level}.npz"

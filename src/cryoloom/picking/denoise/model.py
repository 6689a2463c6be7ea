"""A trained denoiser as a file, and a micrograph through it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cryoloom.contract import InputError
from cryoloom.io.atomic import write_whole
from cryoloom.picking.denoise.halves import HalfPair
from cryoloom.picking.denoise.network import DenoiserNetwork, denoise_half
from cryoloom.picking.networks import take_weights, weights_as_arrays

_FORMAT = 1


@dataclass(frozen=True)
class Denoiser:
    """A trained network.

    Attributes
    ----------
    network
        None where the linear filter was as good.
    working
        Å per pixel that it was trained at.
    """

    network: DenoiserNetwork | None
    working: float

    def denoise(self, pair: HalfPair) -> Tensor:
        """The denoised micrograph on the working grid, `(h, w)`: the mean of both halves, each denoised by itself."""
        if self.network is None:
            return pair.filtered.mean(0)
        network = self.network.to(pair.halves.device)
        return 0.5 * (
            denoise_half(network, pair.halves[0], pair.filtered[0])
            + denoise_half(network, pair.halves[1], pair.filtered[1])
        )


def save_denoiser(denoiser: Denoiser, path: Path) -> None:
    """Write a denoiser as a NumPy archive; the file appears whole."""
    network = denoiser.network
    arrays: dict[str, Any] = {}
    if network is not None:
        arrays = {"widths": np.asarray(network.widths)} | weights_as_arrays(network)
    with write_whole(path) as file:
        np.savez(file, denoiser=_FORMAT, working=denoiser.working, **arrays)


def load_denoiser(path: Path | str) -> Denoiser:
    """Read a denoiser that `denoise` wrote.

    Raises
    ------
    InputError
        If the file is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            if int(stored["denoiser"]) != _FORMAT:
                raise ValueError(f"format {int(stored['denoiser'])}, expected {_FORMAT}")
            network = None
            if "widths" in stored:
                network = DenoiserNetwork(tuple(int(n) for n in stored["widths"]))
                take_weights(network, stored)
                network.eval()
            return Denoiser(network, float(stored["working"]))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{path}: this is no network that `denoise` wrote ({error}).") from error

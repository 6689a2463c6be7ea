"""A trained picker as a file that any later job can use, and its search for particles.

The file is a plain NumPy archive, so reading it runs no code.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from cryoloom.contract import InputError
from cryoloom.io.atomic import write_whole
from cryoloom.picking.finders import LOWEST, Peaks
from cryoloom.picking.learned.network import PickerNetwork, answer_map, network_input
from cryoloom.picking.networks import take_weights, weights_as_arrays
from cryoloom.picking.peaks import find_peaks
from cryoloom.picking.prepare import Prepared

_FORMAT = 1


@dataclass(frozen=True)
class LearnedPicker:
    """A trained network and what it was trained for.

    Attributes
    ----------
    network
        Trained.
    background
        Median and standard deviation of its log odds over background.
    core, extent
        Å, diameter of the dense part of the particle, and its largest extent.
    dark
        Whether particles are darker than what is around them on the micrographs.
    """

    network: PickerNetwork
    background: tuple[float, float]
    core: float
    extent: float
    dark: bool

    def scores(self, prepared: Prepared) -> tuple[Tensor, Tensor]:
        """Scores of a micrograph and of its inverse in standard deviations of the background, `(h, w)` each."""
        seen = network_input(prepared)
        network = self.network.to(seen.device)
        middle, deviation = self.background
        score, decoy = ((answer_map(network, sign * seen) - middle) / deviation for sign in (1, -1))
        return score, decoy

    def find(self, prepared: Prepared, reach_px: float) -> Peaks:
        """Peaks of one micrograph; see `finders`."""
        score, decoy = self.scores(prepared)
        place, value = find_peaks(score, reach_px, lowest=LOWEST)
        return Peaks(place, value, decoy, {})


def save_picker(picker: LearnedPicker, path: Path) -> None:
    """Write a picker; the file appears whole."""
    arrays = weights_as_arrays(picker.network)
    facts = np.asarray([picker.core, picker.extent, *picker.background])
    with write_whole(path) as file:
        np.savez(
            file, format=_FORMAT, facts=facts, dark=picker.dark, widths=np.asarray(picker.network.widths), **arrays
        )


def load_picker(path: Path | str) -> LearnedPicker:
    """Read a picker that `train-picker` wrote.

    Raises
    ------
    InputError
        If the file is something else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            number = int(stored["format"])
            if number != _FORMAT:
                raise InputError(f"{path}: a picker of format {number}, expected {_FORMAT}; train it anew.")
            network = PickerNetwork(*(int(n) for n in stored["widths"]))
            take_weights(network, stored)
            core, extent, middle, deviation = (float(value) for value in stored["facts"])
            return LearnedPicker(network.eval(), (middle, deviation), core, extent, bool(stored["dark"]))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: this is no picker that `train-picker` wrote ({error}).") from error

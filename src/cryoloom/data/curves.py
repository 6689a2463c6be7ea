"""Curves over spatial frequency."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FscCurve:
    """Fourier shell correlation of two half maps, with what was done to correct it.

    Attributes
    ----------
    frequency
        Shell frequency in 1/Å, `(n,)`, shell s at `s / (box * pixel_size)`.
    corrected
        Mask-corrected FSC (Chen 2013), or the only curve there is, `(n,)`.
    unmasked, masked, phase_randomised
        The curves behind it, `(n,)`, or None.
    n_independent
        Independent complex coefficients of each shell, `(n,)`, or None.
    randomise_from
        Frequency in 1/Å from which phases were randomised, or None.
    """

    frequency: np.ndarray
    corrected: np.ndarray
    unmasked: np.ndarray | None = None
    masked: np.ndarray | None = None
    phase_randomised: np.ndarray | None = None
    n_independent: np.ndarray | None = None
    randomise_from: float | None = None

"""Detector transfer functions as RELION reads them: a STAR table of frequency in 1/pixel against MTF."""

from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.star import StarTable, read_star, write_star


def read_mtf(path: Path | str) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in cycles per pixel and MTF, two `(n,)` arrays of rising frequency.

    Raises
    ------
    InputError
        If the file holds no such table.
    """
    for table in read_star(path).values():
        if isinstance(table, StarTable) and "rlnMtfValue" in table and "rlnResolutionInversePixel" in table:
            frequency, value = table.numbers("rlnResolutionInversePixel"), table.numbers("rlnMtfValue")
            order = np.argsort(frequency)
            return frequency[order], value[order]
    raise InputError(f"{path}: no table with _rlnResolutionInversePixel and _rlnMtfValue; this is no MTF file.")


def write_mtf(path: Path | str, frequency_per_px: np.ndarray, value: np.ndarray) -> None:
    """Write an MTF file."""
    write_star(
        path, {"": {"rlnResolutionInversePixel": np.asarray(frequency_per_px), "rlnMtfValue": np.asarray(value)}}
    )

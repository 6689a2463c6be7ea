"""Micrographs and other single images, whatever their format: MRC or TIFF."""

from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.mrc import read_mrc, read_mrc_header

TIFF_SUFFIXES = (".tif", ".tiff", ".gain")
MRC_SUFFIXES = (".mrc", ".mrcs", ".map", ".st", ".ccp4", ".rec", ".gz", ".bz2")


def read_images(path: Path | str) -> np.ndarray:
    """Read a micrograph, `(y, x)`, or a stack, `(n, y, x)`, in the type of the file.

    Row 0 is the first row of an MRC file and the last row of a TIFF file, so that the same micrograph saved as
    either gives the same array (as RELION, MotionCor2 and IMOD do).

    Raises
    ------
    InputError
        If the format is unknown or the file is damaged.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        from cryoloom.io.tiff import read_tiff

        array = read_tiff(path)
    elif suffix in MRC_SUFFIXES:
        array = read_mrc(path)[0]
    else:
        raise InputError(f"{path}: unknown image format {suffix!r}; expected .mrc, .mrcs, .map, .tif or .tiff.")
    return array[0] if len(array) == 1 else array


def read_micrograph(path: Path | str) -> np.ndarray:
    """Read one micrograph as `(y, x)` float32.

    Raises
    ------
    InputError
        If the file holds several images, or pixels that are NaN or infinite.
    """
    array = read_images(path)
    if array.ndim != 2:
        raise InputError(f"{path}: {len(array)} images, one micrograph was expected; is it a movie?")
    image = array.astype(np.float32)
    bad = image.size - int(np.isfinite(image).sum())
    if bad:
        raise InputError(f"{path}: {bad} pixels are NaN or infinite; make the micrograph again.")
    return image


def image_shape(path: Path | str) -> tuple[int, int]:
    """Rows and columns of a micrograph or stack, from its header alone."""
    path = Path(path)
    if path.suffix.lower() in TIFF_SUFFIXES:
        from cryoloom.io.tiff import read_tiff_header

        return read_tiff_header(path).shape[1:]
    return read_mrc_header(path).shape[1:]

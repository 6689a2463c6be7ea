"""Gain references and defect maps, as factors that frames are multiplied by; 0 marks a defective pixel.

References come as MRC, TIFF or `.gain` (a TIFF), in one of eight orientations, to be multiplied or divided by. The
words are RELION's: rotation by 90 degrees clockwise as displayed with row 0 on top, then flip 1 upside down or 2 left
to right. EER movies differ (RELION's rules): an MRC or TIFF reference divides (mean over reference), a `.gain` file
multiplies and, like the EER frames, is not flipped on reading.
"""

from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.images import read_images

ORIENTATIONS = tuple((rotation, flip) for flip in (0, 2) for rotation in range(4))


def read_gain(
    path: Path | str,
    shape: tuple[int, int] | None = None,
    *,
    rotation: int = 0,
    flip: int = 0,
    divide: bool | None = None,
    eer: bool = False,
) -> np.ndarray:
    """Read a gain reference.

    Parameters
    ----------
    path
        MRC, TIFF or `.gain` file.
    shape
        Rows and columns of the frames it must fit; a reference of half or twice the size (for EER also a quarter or
        four times) is resampled: it was taken at another sampling of the same detector.
    rotation
        0 to 3, times 90 degrees clockwise with row 0 on top.
    flip
        0 none, 1 upside down, 2 left to right; after the rotation.
    divide
        Whether frames are divided by the reference; by default only for EER movies with a reference that is not
        `.gain`.
    eer
        True for EER movies.

    Returns
    -------
    factor
        `(h, w)` float32; frames are multiplied by it, 0 marks a defect.

    Raises
    ------
    InputError
        If the file is no reference, is zero everywhere, or does not fit the frames.
    """
    path = Path(path)
    if path.suffix.lower() in (".dm4", ".dm3"):
        raise InputError(f"{path}: {path.suffix} files are not read; save the gain reference as MRC or TIFF.")
    is_gain_file = path.suffix.lower() == ".gain"
    image = read_images(path)
    if image.ndim != 2:
        raise InputError(f"{path}: {len(image)} images, one gain reference was expected.")
    factor = image.astype(np.float32)
    if eer and is_gain_file:
        factor = factor[::-1]  # EER frames start at the top, and so does this file
    if not np.isfinite(factor).all():
        raise InputError(f"{path}: some values are NaN or infinite; the gain reference is damaged.")
    if not factor.any():
        raise InputError(f"{path}: the gain reference is zero everywhere; is it the right file?")
    if (factor < 0).any():
        raise InputError(f"{path}: some values are negative; this is no gain reference.")
    factor = orient(factor, rotation, flip)
    if divide if divide is not None else eer and not is_gain_file:
        good = factor > 0
        mean = float(factor[good].mean(dtype=np.float64))
        factor = np.divide(mean, factor, out=np.zeros_like(factor), where=good)
    if shape is not None:
        factor = _fit(factor, tuple(shape), path, eer)  # type: ignore[arg-type]
    return np.ascontiguousarray(factor, dtype=np.float32)


def orient(image: np.ndarray, rotation: int = 0, flip: int = 0) -> np.ndarray:
    """Turn `(y, x)` by `rotation` times 90 degrees clockwise (row 0 on top), then flip; see `read_gain`."""
    if rotation not in (0, 1, 2, 3) or flip not in (0, 1, 2):
        raise ValueError(f"rotation and flip: expected 0..3 and 0..2, got {rotation} and {flip}")
    turned = np.rot90(image, -rotation)
    return turned[::-1] if flip == 1 else turned[:, ::-1] if flip == 2 else turned


def read_defects(path: Path | str, shape: tuple[int, int]) -> np.ndarray:
    """Defective pixels `(h, w)` bool, from an image (not 0 is a defect) or a list of boxes `x y width height`.

    Raises
    ------
    InputError
        If the image has another size, or a line of the list is no box.
    """
    path = Path(path)
    if path.suffix.lower() != ".txt":
        image = read_images(path)
        if image.shape != tuple(shape):
            raise InputError(
                f"{path}: defect map of shape {image.shape}, the frames have {tuple(shape)} (rows, columns)."
            )
        return image != 0
    defects = np.zeros(shape, bool)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of defects ({error}).") from error
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            x, y, w, h = (int(float(word)) for word in words)
        except (ValueError, OverflowError) as error:
            raise InputError(f"{path}, line {number}: expected 'x y width height', found {line[:60]!r}.") from error
        if w > 0 and h > 0:
            defects[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = True
    return defects


def resample_gain(factor: np.ndarray, shape: tuple[int, int], times: int) -> np.ndarray | None:
    """A reference `times` finer or coarser than frames of `shape`, brought to them; None where the sizes differ else.

    Of a finer one the mean is taken, and 0 (a defect) where any part is 0.
    """
    h, w = factor.shape
    if (h * times, w * times) == shape:
        return np.repeat(np.repeat(factor, times, axis=0), times, axis=1)
    if (h, w) == (shape[0] * times, shape[1] * times):
        blocks = factor.reshape(shape[0], times, shape[1], times)
        return np.where((blocks > 0).all(axis=(1, 3)), blocks.mean(axis=(1, 3)), 0)
    return None


def _fit(factor: np.ndarray, shape: tuple[int, int], path: Path, eer: bool) -> np.ndarray:
    if factor.shape == shape:
        return factor
    for times in (2, 4) if eer else (2,):
        resampled = resample_gain(factor, shape, times)
        if resampled is not None:
            return resampled
    h, w = factor.shape
    hint = "turn it by 90 degrees (gain rotation)" if (w, h) == shape else "is it the reference of another camera mode?"
    raise InputError(f"{path}: gain reference of {w} x {h} pixels, the frames have {shape[1]} x {shape[0]}; {hint}")

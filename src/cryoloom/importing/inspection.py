"""A first look at image files: format, size, frames, pixels that cannot be right. One bad file is left out, not all."""

from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError
from cryoloom.importing.dose import electrons_per_pixel
from cryoloom.io.denoised import refuse_denoised
from cryoloom.io.images import read_micrograph
from cryoloom.io.movies import PACKED_MOVIES, movie_suffix, open_movie
from cryoloom.io.mrc import read_mrc_header


def guess_kind(path: Path) -> str:
    """`movies` or `micrographs`, from the format and the number of images in one file.

    Raises
    ------
    InputError
        If the format is unknown.
    """
    suffix = movie_suffix(path)
    if suffix == ".eer":
        return "movies"
    if suffix in (".mrc", ".mrcs", ".st", ".map", *PACKED_MOVIES):
        return "movies" if read_mrc_header(path).shape[0] > 1 else "micrographs"
    if suffix in (".tif", ".tiff"):
        with open_movie(path) as movie:
            return "movies" if movie.n_frames > 1 else "micrographs"
    raise InputError(f"{path}: unknown format {suffix!r}; expected MRC, TIFF or EER images, a STAR or a .cs file.")


def inspect_movie(path: str, eer_grouping: int | None, eer_upsampling: int) -> dict[str, Any]:
    """Frames, size, header pixel size and first-frame facts of a movie.

    Raises
    ------
    InputError
        If it cannot be read, has one frame only, or its first frame is constant or not finite.
    """
    with open_movie(path, eer_grouping=eer_grouping, eer_upsampling=eer_upsampling) as movie:
        if movie.n_frames < 2:
            raise InputError(f"{path}: one frame only, a movie was expected; import it as a micrograph (--kind).")
        first, second = (movie.frames(i, i + 1)[0] for i in (0, 1))
        _check_pixels(first, path, "frame 1")
        facts: dict[str, Any] = {
            "n_frames": movie.n_frames,
            "shape": list(movie.shape),
            "pixel_size": movie.pixel_size,
            "n_dropped": movie.n_dropped,
            "mean": float(first.mean(dtype=np.float64)),
            "electrons": electrons_per_pixel(first, second),
        }
        header = getattr(movie, "header", None)
        if header is not None and hasattr(header, "n_raw"):
            facts |= {"n_raw": header.n_raw, "exposure": header.exposure, "grouping": movie.grouping}  # type: ignore[attr-defined]
    return facts


def inspect_micrograph(path: str) -> dict[str, Any]:
    """Size and header pixel size of a micrograph.

    Raises
    ------
    InputError
        If it cannot be read, holds several images, is denoised, or is constant or not finite.
    """
    image = read_micrograph(path)
    _check_pixels(image, path, "the image")
    refuse_denoised(path)
    size = None
    if Path(path).suffix.lower() in (".mrc", ".mrcs", ".map"):
        size = read_mrc_header(path).pixel_size
    return {"shape": list(image.shape), "pixel_size": size}


def _check_pixels(image: np.ndarray, path: str, what: str) -> None:
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise InputError(f"{path}: {what} has pixels that are NaN or infinite; make it again.")
    if image.min() == image.max():
        raise InputError(f"{path}: {what} is {image.flat[0]} everywhere; the file holds no picture.")

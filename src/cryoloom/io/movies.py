"""Movies with one face, whatever their format: MRC (plain, or packed by gzip or bzip2), TIFF or EER.

Row order: MRC frames come as they lie in the file, TIFF frames are flipped along the slow axis, EER frames are not
flipped. So the same movie saved as MRC and as TIFF gives the same frames (`interfaces.md`, section 4).
"""

from pathlib import Path
from typing import Protocol, Self

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import MovieSet
from cryoloom.io.mrc import read_mrc, read_mrc_header
from cryoloom.io.stack import MrcStack
from cryoloom.io.tiff import TiffImages

MRC_MOVIES = (".mrc", ".mrcs", ".st")
TIFF_MOVIES = (".tif", ".tiff")
PACKED = (".gz", ".bz2")
PACKED_MOVIES = tuple(inner + outer for inner in MRC_MOVIES for outer in PACKED)
MOVIE_SUFFIXES = (*MRC_MOVIES, *TIFF_MOVIES, ".eer", *PACKED_MOVIES)


class Movie(Protocol):
    """An opened movie; a context manager.

    Attributes
    ----------
    path
        The file.
    n_frames
        Frames.
    shape
        Rows and columns.
    dtype
        Type of the pixels that `frames` returns.
    pixel_size
        Å per pixel as the file says, or None.
    n_dropped
        Raw EER frames that do not fill the last group; 0 for other formats.
    """

    path: Path
    n_frames: int
    shape: tuple[int, int]
    dtype: np.dtype
    pixel_size: float | None
    n_dropped: int

    def frames(self, first: int, last: int) -> np.ndarray:
        """Frames `first ... last - 1`, `(n, y, x)`, in the type of the file."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def open_movie(path: Path | str, *, eer_grouping: int | None = None, eer_upsampling: int = 1) -> Movie:
    """Open a movie.

    Parameters
    ----------
    path
        MRC (`.mrc`, `.mrcs`, also with `.gz` or `.bz2` behind), TIFF (`.tif`, `.tiff`) or EER (`.eer`) file.
    eer_grouping
        Raw EER frames in one frame; None makes about 40 frames.
    eer_upsampling
        1, 2 or 4: grid of EER frames in units of the detector's.

    Raises
    ------
    InputError
        If the format is unknown or the file is damaged.
    """
    path = Path(path)
    suffix = movie_suffix(path)
    if suffix in MRC_MOVIES:
        return _MrcMovie(path)
    if suffix in PACKED_MOVIES:
        return _PackedMrcMovie(path)
    if suffix in TIFF_MOVIES:
        return _TiffMovie(path)
    if suffix == ".eer":
        from cryoloom.io.eer import EerMovie

        return EerMovie(path, grouping=eer_grouping, upsampling=eer_upsampling)
    raise InputError(
        f"{path}: unknown movie format {suffix!r}; expected .mrc, .mrcs (also .gz, .bz2), .tif, .tiff or .eer."
    )


def movie_suffix(path: Path | str) -> str:
    """The suffix in small letters, with the one before it where a file is packed: `.mrcs.bz2`."""
    path = Path(path)
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() + last if last in PACKED else last


def movie_stem(path: Path | str) -> str:
    """The name of a movie without its suffix; results are named by it."""
    name = Path(path).name
    return name.removesuffix(name[len(name) - len(movie_suffix(name)) :])


def open_movie_of(movies: MovieSet, row: int) -> Movie:
    """Open one movie of a set, with the EER grouping and upsampling that the set was imported with."""
    given = {name: int(movies.extra[name][row]) for name in ("eer_grouping", "eer_upsampling") if name in movies.extra}
    return open_movie(str(movies.path[row]), **given)


class _MrcMovie:
    """Frames of an MRC file."""

    n_dropped = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = MrcStack(path)
        self.n_frames = self._stack.n
        self.shape = self._stack.shape
        self.dtype = self._stack.header.dtype
        self.pixel_size = self._stack.header.pixel_size

    def frames(self, first: int, last: int) -> np.ndarray:
        if not 0 <= first <= last <= self.n_frames:
            raise ValueError(f"frames: expected 0 <= first <= last <= {self.n_frames}, got {first}, {last}")
        return self._stack.read_as_stored(first, last - first)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _PackedMrcMovie:
    """Frames of a packed MRC file, which has to be unpacked from its start for every call."""

    n_dropped = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_mrc_header(path)
        self.n_frames = header.shape[0]
        self.shape = header.shape[1:]
        self.dtype = header.dtype
        self.pixel_size = header.pixel_size

    def frames(self, first: int, last: int) -> np.ndarray:
        if not 0 <= first <= last <= self.n_frames:
            raise ValueError(f"frames: expected 0 <= first <= last <= {self.n_frames}, got {first}, {last}")
        return read_mrc(self.path, sections=slice(first, last))[0]

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _TiffMovie:
    """Frames of a TIFF file."""

    n_dropped = 0

    def __init__(self, path: Path) -> None:
        self.path = path
        self._images = TiffImages(path)
        header = self._images.header
        self.n_frames = header.shape[0]
        self.shape = (header.shape[1], header.shape[2])
        self.dtype = header.dtype
        self.pixel_size = header.pixel_size

    def frames(self, first: int, last: int) -> np.ndarray:
        return self._images.frames(first, last)

    def close(self) -> None:
        self._images.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

"""TIFF movies, micrographs and gain references: stored, LZW, deflate or zstd, through `tifffile`.

A TIFF starts at the top left corner, an MRC file at the bottom left. RELION, MotionCor2 and IMOD therefore flip TIFF
images along the slow axis, whatever the orientation tag says, and so do we: row 0 of an array is the last row of
the TIFF, and the same movie saved as MRC and as TIFF gives the same array. `write_tiff` flips back.
"""

import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from cryoloom.contract import InputError
from cryoloom.io.atomic import write_whole

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # faults are raised here, in one sentence

_MOST_PIXELS = 1 << 33
_EER_COMPRESSIONS = (65000, 65001, 65002)
TIFF_FAULTS = (tifffile.TiffFileError, struct.error, ValueError, IndexError, KeyError, TypeError, AttributeError,
           ZeroDivisionError, OverflowError, EOFError, OSError, RuntimeError, NotImplementedError, MemoryError,
           AssertionError, UnicodeError, ImportError)  # fmt: skip
"""What the library raises on damaged files: a torn directory may ask for any type, size, codec or amount of memory.

`NotImplementedError` is the library's, for codecs and sample formats that it does not know."""


@dataclass(frozen=True)
class TiffHeader:
    """What the directories of a TIFF file say.

    Attributes
    ----------
    shape
        Frames, rows, columns.
    dtype
        Type of the pixels.
    compression
        Name, for instance `LZW`.
    pixel_size
        Å per pixel from ImageJ or resolution tags where they give a unit, or None.
    description
        Text of the first directory.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype
    compression: str
    pixel_size: float | None
    description: str


class TiffImages:
    """A TIFF file opened for reading frames; a context manager.

    Parameters
    ----------
    path
        TIFF file.

    Raises
    ------
    InputError
        If it is no TIFF file, its frames differ in shape, or it holds colours.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        check_tiff_start(self.path)
        try:
            self._tiff = tifffile.TiffFile(self.path)
        except TIFF_FAULTS as error:
            raise InputError(f"{self.path}: not a readable TIFF file ({short_text(error)}); copy it again.") from error
        try:
            self.header = self._read_header()
        except BaseException as error:
            self._tiff.close()
            if isinstance(error, InputError) or not isinstance(error, TIFF_FAULTS):
                raise
            raise InputError(f"{self.path}: the TIFF directories are damaged ({short_text(error)}).") from error

    def frames(self, first: int, last: int) -> np.ndarray:
        """Frames `first ... last - 1`, `(n, y, x)`, row 0 being the last row of the TIFF."""
        n, ny, nx = self.header.shape
        if not 0 <= first <= last <= n:
            raise ValueError(f"frames: expected 0 <= first <= last <= {n}, got {first}, {last}")
        out = np.empty((last - first, ny, nx), self.header.dtype)
        for i in range(first, last):
            try:
                page = self._tiff.pages[i]
                image = page.asarray(maxworkers=1)
            except TIFF_FAULTS as error:
                raise self._frame_error(i, error) from error
            except Exception as error:
                if type(error).__module__.startswith("imagecodecs"):
                    raise self._frame_error(i, error) from error
                raise
            if image.shape != (ny, nx) or image.dtype != out.dtype:
                raise InputError(
                    f"{self.path}, frame {i + 1}: {image.shape} {image.dtype}, expected {(ny, nx)} {out.dtype}."
                )
            out[i - first] = image[::-1]
        return out

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_tiff"):
            self._tiff.close()

    def __enter__(self) -> "TiffImages":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _frame_error(self, i: int, error: Exception) -> InputError:
        return InputError(
            f"{self.path}, frame {i + 1} of {self.header.shape[0]}: cannot be decoded ({short_text(error)}); the file "
            "is cut short or damaged. Copy it again."
        )

    def _read_header(self) -> TiffHeader:
        size = self.path.stat().st_size
        pages = self._tiff.pages
        first: Any = pages[0]
        n = count_directories(self.path)
        if len(pages) != n:
            raise InputError(f"{self.path}: {n} directories, only {len(pages)} are readable; copy the file again.")
        if n == 0 or len(first.shape) != 2:
            raise InputError(f"{self.path}: pages of shape {first.shape}, grey images (rows, columns) were expected.")
        if int(first.compression) in _EER_COMPRESSIONS:
            raise InputError(f"{self.path}: an EER movie; rename it to .eer.")
        if first.dtype is None or first.dtype.kind not in "iuf":
            raise InputError(f"{self.path}: pixels of type {first.dtype}, real numbers were expected.")
        ny, nx = first.shape
        if ny < 1 or nx < 1 or ny * nx > _MOST_PIXELS // 8:
            raise InputError(f"{self.path}: impossible size {nx} x {ny}; the file is damaged.")
        for i in range(n):
            page: Any = pages[i]
            if i and page.shape != first.shape:
                raise InputError(
                    f"{self.path}, frame {i + 1}: shape {str(page.shape)[:40]}, the first one has {first.shape}; the "
                    "file is damaged."
                )
            if len(page.dataoffsets) != int(np.prod(page.chunked)) or len(page.databytecounts) != len(page.dataoffsets):
                raise InputError(
                    f"{self.path}, frame {i + 1}: {len(page.dataoffsets)} strips, {str(page.chunked)[:40]} were "
                    "expected; the file is damaged."
                )
            end = max((o + c for o, c in zip(page.dataoffsets, page.databytecounts, strict=False)), default=0)
            if end > size or not page.dataoffsets:
                raise InputError(
                    f"{self.path}, frame {i + 1} of {n}: its pixels should end at byte {end}, the file has {size}; "
                    "it is cut short. Copy it again."
                )
            stored = sum(page.databytecounts)
            if ny * nx * first.dtype.itemsize > 5000 * max(stored, 1) + 1_000_000:
                raise InputError(f"{self.path}, frame {i + 1}: {stored} bytes cannot hold {nx} x {ny} pixels.")
        return TiffHeader((n, ny, nx), first.dtype, first.compression.name, None, str(first.description)[:10_000])


def read_tiff_header(path: Path | str) -> TiffHeader:
    """The header of a TIFF file."""
    with TiffImages(path) as images:
        return images.header


def read_tiff(path: Path | str) -> np.ndarray:
    """All frames of a TIFF file, `(n, y, x)`, row 0 being the last row of the TIFF."""
    with TiffImages(path) as images:
        return images.frames(0, images.header.shape[0])


def write_tiff(path: Path | str, array: np.ndarray, *, compression: str | None = "lzw") -> None:
    """Write images `(y, x)` or `(n, y, x)` as TIFF; row 0 of the array becomes the last row.

    Parameters
    ----------
    path
        The file.
    array
        Any real type that TIFF knows.
    compression
        `"lzw"`, `"deflate"`, `"zstd"` or None.
    """
    array = np.asarray(array)
    images = array if array.ndim == 3 else array[None]
    with write_whole(path) as file, tifffile.TiffWriter(file) as tiff:
        for image in images:
            tiff.write(
                np.ascontiguousarray(image[::-1]), compression=compression, contiguous=False, metadata=None,
                photometric="minisblack", predictor=False,
            )  # fmt: skip


def count_directories(path: Path) -> int:
    """Number of directories (frames) in a TIFF, followed from one to the next.

    Raises
    ------
    InputError
        If the chain leaves the file or runs in a circle: a file that is cut short must not pass as a shorter movie.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
        order = "<" if start[:2] == b"II" else ">"
        big = struct.unpack(order + "H", start[2:4])[0] == 43
        count_kind, entry_bytes, link_kind = ("Q", 20, "Q") if big else ("H", 12, "I")
        link_at, link_bytes = (8, 8) if big else (4, 4)
        count_bytes = struct.calcsize(count_kind)
        seen: set[int] = set()
        while True:
            file.seek(link_at)
            raw = file.read(link_bytes)
            if len(raw) < link_bytes:
                raise InputError(f"{path}: the file ends behind frame {len(seen)}; it is cut short. Copy it again.")
            offset = struct.unpack(order + link_kind, raw)[0]
            if offset == 0:
                return len(seen)
            if offset in seen or offset + count_bytes > size:
                what = "runs in a circle" if offset in seen else f"points beyond the end ({offset} of {size} bytes)"
                raise InputError(
                    f"{path}: the list of frames {what} after frame {len(seen)}; the file is cut short or damaged. "
                    "Copy it again."
                )
            seen.add(offset)
            file.seek(offset)
            n_entries = struct.unpack(order + count_kind, file.read(count_bytes))[0]
            link_at = offset + count_bytes + entry_bytes * n_entries
            if link_at + link_bytes > size:
                raise InputError(f"{path}: the directory of frame {len(seen)} is cut short. Copy the file again.")


def check_tiff_start(path: Path) -> None:
    """Refuse, with one sentence, what is not a TIFF container."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path.") from error
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}).") from error
    if not start:
        raise InputError(f"{path}: the file is empty; copy it again.")
    if start not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise InputError(f"{path}: not a TIFF file (it begins with {start!r}); is the suffix wrong?")


def short_text(error: Exception) -> str:
    """The first line of a message, for use inside another one."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text[:120]

"""Stacks of images: chosen sections are read by `preadv` into a buffer that is used again; written one by one.

Reading maps no file into memory: a mapped file that shrinks kills the process, a read only fails. Neighbouring
sections are read in one go.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.atomic import path_beside
from cryoloom.io.mrc import HEADER_BYTES, MrcHeader, decode_sections, make_header, read_mrc_header, to_storable

_RUN_BYTES = 8 << 20


class MrcStack:
    """An MRC file opened for reading sections in any order; a context manager.

    Parameters
    ----------
    path
        MRC file, not compressed.

    Attributes
    ----------
    header
        The header.
    n
        Number of sections.
    shape
        Rows and columns of a section.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() in (".gz", ".bz2"):
            raise InputError(f"{path}: sections of a compressed stack cannot be read one by one; unpack it first.")
        self.header: MrcHeader = read_mrc_header(self.path)
        self.n = self.header.shape[0]
        self.shape = self.header.shape[1:]
        self._file = os.open(self.path, os.O_RDONLY)
        self._buffer = np.zeros(0, np.uint8)

    def read(self, sections: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Sections by index, `(n, y, x)` float32, in the order asked; `out` is filled if given.

        Raises
        ------
        InputError
            If an index is outside the stack, or the file has become shorter.
        """
        sections = np.asarray(sections, dtype=np.int64)
        if out is None:
            out = np.empty((len(sections), *self.shape), np.float32)
        if not len(sections):
            return out
        low, high = int(sections.min()), int(sections.max())
        if low < 0 or high >= self.n:
            bad = high if high >= self.n else low
            raise InputError(
                f"{self.path}: image {bad + 1} was asked for, the stack has {self.n}; is it the right file?"
            )
        in_order = bool((np.diff(sections) > 0).all())
        order = np.arange(len(sections)) if in_order else np.argsort(sections, kind="stable")
        wanted = sections[order]
        straight = in_order and self.header.file_dtype == out.dtype == np.float32 and out.flags.c_contiguous
        size = self.header.section_bytes
        longest = max(1, _RUN_BYTES // max(size, 1))
        start = 0
        while start < len(wanted):
            end = start + 1
            while end < len(wanted) and end - start < longest and wanted[end] == wanted[end - 1] + 1:
                end += 1
            if straight:  # no buffer between the disk and the result
                self._fill(out[start:end].reshape(-1).view(np.uint8), int(wanted[start]), end - start)
            else:
                out[order[start:end]] = self._read_run(int(wanted[start]), end - start)
            start = end
        return out

    def read_as_stored(self, first: int, n: int) -> np.ndarray:
        """`n` sections from `first` on, `(n, y, x)`, a new array in the type of the file."""
        out = np.empty((n, *self.shape), self.header.dtype)
        step = max(1, _RUN_BYTES // max(self.header.section_bytes, 1))
        for start in range(0, n, step):
            count = min(step, n - start)
            out[start : start + count] = self._read_run(first + start, count)
        return out

    def _read_run(self, first: int, n: int) -> np.ndarray:
        """`n` sections from `first` on, in the type of the file; valid until the next call."""
        size = n * self.header.section_bytes
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        self._fill(self._buffer[:size], first, n)
        return decode_sections(self._buffer[:size], self.header, n)

    def _fill(self, target: np.ndarray, first: int, n: int) -> None:
        """Read the bytes of `n` sections from `first` on into `target`."""
        view, at, found = target.data, self.header.data_offset + first * self.header.section_bytes, 0
        while found < len(target):
            count = os.preadv(self._file, [view[found:]], at + found)
            if count == 0:
                raise InputError(
                    f"{self.path}: the file ends before image {first + n}; it has changed while being read."
                )
            found += count

    def close(self) -> None:
        """Close the file."""
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class StackWriter:
    """Writes a stack section by section; the file takes its name when the `with` block ends without an error.

    Parameters
    ----------
    path
        Final name.
    shape
        Rows and columns.
    pixel_size
        Å per pixel.
    dtype
        `float32`, `float16`, `int16`, `uint16` or `int8`.
    kind
        `"stack"` of images, or `"volume"`.
    """

    def __init__(
        self,
        path: Path | str,
        shape: tuple[int, int],
        pixel_size: float,
        *,
        dtype: np.dtype | type | str = np.float32,
        kind: str = "stack",
    ) -> None:
        self.path = Path(path)
        self.shape = (int(shape[0]), int(shape[1]))
        self.pixel_size = pixel_size
        self.dtype = np.dtype(dtype)
        self.kind = kind
        self.n = 0
        make_header((1, *self.shape), self.dtype, pixel_size, kind=kind, statistics=(0, 0, 0, 0))
        self._sums = np.zeros(2)
        self._range = [np.inf, -np.inf]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._beside = path_beside(self.path)
        self._file = self._beside.open("wb")
        self._file.write(bytes(HEADER_BYTES))

    def append(self, images: np.ndarray) -> int:
        """Add one image `(y, x)` or several `(n, y, x)`; returns the index of the first one."""
        images = np.asarray(images)
        if images.ndim == 2:
            images = images[None]
        if images.shape[1:] != self.shape:
            raise ValueError(f"images: expected {self.shape} rows and columns, got {images.shape[1:]}")
        first = self.n
        stored = self._converted(to_storable(images))
        self._file.write(stored.data)
        if stored.size:
            values = stored.astype(np.float64)
            self._sums += (values.sum(), np.vdot(values, values))
            self._range = [min(self._range[0], float(values.min())), max(self._range[1], float(values.max()))]
        self.n += len(images)
        return first

    def _converted(self, images: np.ndarray) -> np.ndarray:
        """The images in the type of the file; numbers that do not fit are refused, fractions are rounded."""
        if self.dtype.kind in "iu" and images.dtype.kind == "f":
            images = np.rint(images)
        if self.dtype != images.dtype and self.dtype.kind in "iu" and images.size:
            limits = np.iinfo(self.dtype)
            if not (images.min() >= limits.min and images.max() <= limits.max):
                raise ValueError(f"images: {images.min()} to {images.max()} do not fit into {self.dtype}")
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(images.astype(self.dtype.newbyteorder("<"), copy=False))
        if self.dtype == np.float16 and not np.array_equal(np.isfinite(stored), np.isfinite(images)):
            raise ValueError("images: some values are too large for float16 (65504); normalise them or use float32")
        return stored

    def close(self) -> None:
        """Write the header and give the file its name."""
        if self._file.closed:
            return
        if self.n == 0:
            self.discard()
            raise ValueError(f"{self.path}: a stack of no images cannot be written")
        count = self.n * self.shape[0] * self.shape[1]
        mean = self._sums[0] / count
        spread = np.sqrt(max(self._sums[1] / count - mean**2, 0.0))
        statistics = (*self._range, mean, spread)
        if not np.isfinite(statistics).all():
            statistics = (0.0, -1.0, -2.0, -1.0)
        self._file.seek(0)
        self._file.write(
            make_header((self.n, *self.shape), self.dtype, self.pixel_size, kind=self.kind, statistics=statistics)
        )
        self._file.close()
        self._beside.replace(self.path)

    def discard(self) -> None:
        """Give up: no file appears."""
        self._file.close()
        self._beside.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

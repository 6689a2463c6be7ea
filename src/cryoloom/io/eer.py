"""EER movies: lists of electrons instead of frames (Guo et al. 2020, doi 10.1107/S205225252000929X).

A raw frame is a string of bits: runs of empty pixels (7 or 8 bits; the largest run means "go on"), each followed by
an electron with its place inside the pixel (2 + 2 bits, on a grid four times as fine). Electrons of consecutive raw
frames are counted into one rendered frame; the count is conserved. Raw frames that do not fill the last group are left
out and reported by `n_dropped`.

EER frames are not flipped: row 0 is the first row of the detector, as in RELION.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import tifffile

from cryoloom.contract import InputError
from cryoloom.io.tiff import TIFF_FAULTS, check_tiff_start, count_directories, short_text

COMPRESSIONS = {65000: (8, 2, 2), 65001: (7, 2, 2), 65002: None}


@dataclass(frozen=True)
class EerHeader:
    """What an EER file says.

    Attributes
    ----------
    n_raw
        Raw frames.
    shape
        Rows and columns of the detector.
    bits
        Bits of a run, and of the horizontal and vertical place inside a pixel.
    exposure
        Total exposure in e-/Å2 if the metadata give it with the pixel size, or None.
    pixel_size
        Å of a detector pixel, or None.
    """

    n_raw: int
    shape: tuple[int, int]
    bits: tuple[int, int, int]
    exposure: float | None
    pixel_size: float | None


class EerMovie:
    """An EER file rendered as frames; a context manager.

    Parameters
    ----------
    path
        EER file.
    grouping
        Raw frames that make one frame; None makes about 40 frames of the movie.
    upsampling
        1, 2 or 4: size of the rendered grid in units of the detector's.

    Attributes
    ----------
    n_frames, shape, dtype
        Rendered frames, their rows and columns, `uint16`.
    n_dropped
        Raw frames at the end that do not fill a group.
    n_unclosed
        Raw frames read so far whose list of electrons did not end at the last pixel.
    """

    dtype = np.dtype(np.uint16)

    def __init__(self, path: Path | str, *, grouping: int | None = None, upsampling: int = 1) -> None:
        if upsampling not in (1, 2, 4):
            raise ValueError(f"upsampling: expected 1, 2 or 4, got {upsampling}")
        self.path = Path(path)
        check_tiff_start(self.path)
        try:
            with tifffile.TiffFile(self.path) as tiff:
                self.header, self._strips = _read_header(tiff, self.path)
        except InputError:
            raise
        except TIFF_FAULTS as error:
            raise InputError(f"{self.path}: not a readable EER file ({short_text(error)}); copy it again.") from error
        self.grouping = grouping if grouping is not None else max(1, round(self.header.n_raw / 40))
        if self.grouping < 1:
            raise ValueError(f"grouping: expected at least 1, got {grouping}")
        if self.grouping > self.header.n_raw:
            raise InputError(f"{self.path}: {self.header.n_raw} raw frames, fewer than one group of {self.grouping}.")
        self.upsampling = upsampling
        self.n_frames = self.header.n_raw // self.grouping
        self.n_dropped = self.header.n_raw - self.n_frames * self.grouping
        self.n_unclosed = 0
        self.shape = (self.header.shape[0] * upsampling, self.header.shape[1] * upsampling)
        size = None if self.header.pixel_size is None else self.header.pixel_size / upsampling
        self.pixel_size = size
        self._file = os.open(self.path, os.O_RDONLY)

    def frames(self, first: int, last: int) -> np.ndarray:
        """Rendered frames `first ... last - 1`, `(n, y, x)` uint16 counts.

        Raises
        ------
        InputError
            If the list of a raw frame is cut short or runs over the last pixel.
        """
        if not 0 <= first <= last <= self.n_frames:
            raise ValueError(f"frames: expected 0 <= first <= last <= {self.n_frames}, got {first}, {last}")
        out = np.zeros((last - first, *self.shape), np.uint16)
        for i in range(first, last):
            self._add_raw(i * self.grouping, (i + 1) * self.grouping, out[i - first])
        return out

    def close(self) -> None:
        """Close the file."""
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> "EerMovie":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _add_raw(self, first: int, last: int, image: np.ndarray) -> int:
        """Count the electrons of raw frames `first ... last - 1` into `image`; returns their number."""
        strips = self._strips[first:last]
        # Each list starts at a whole word and is followed by two empty ones.
        length = np.array([-(-size // 4) + 2 for _, size in strips], np.int64)
        start = np.cumsum(length) - length
        words = np.zeros(int(length.sum()), "<u4")
        places = words.data.cast("B")
        for raw, ((offset, size), at) in enumerate(zip(strips, 4 * start, strict=True), first + 1):
            if os.preadv(self._file, [places[int(at) : int(at) + size]], offset) < size:
                raise InputError(f"{self.path}, raw frame {raw} of {self.header.n_raw}: the file is cut short.")
        sizes = np.array([size for _, size in strips], np.int64)
        events, state = _render(words, start, sizes, *self.header.bits, *self.header.shape, self.upsampling, image)
        if (state == _OVERRUN).any():
            raise InputError(
                f"{self.path}, raw frame {first + 1 + int(np.argmax(state == _OVERRUN))} of {self.header.n_raw}: "
                "electrons beyond the last pixel; the file is damaged. Copy it again."
            )
        self.n_unclosed += int((state == _UNCLOSED).sum())
        return int(events.sum())


_CLOSED, _UNCLOSED, _OVERRUN = 0, 1, 2
_BAND = 1 << 17  # pixels that all lists of a group are counted into before the next: they stay in the cache


@numba.njit(nogil=True, cache=True)
def _render(words, start, n_bytes, run_bits, x_bits, y_bits, height, width, upsampling, image):  # type: ignore[no-untyped-def] # pragma: no cover
    """Add the electrons of some lists to `image`; returns the number of each and how it ended."""
    longest = (1 << run_bits) - 1
    x_mask, y_mask = (1 << x_bits) - 1, (1 << y_bits) - 1
    x_flip, y_flip = (1 << x_bits) >> 1, (1 << y_bits) >> 1  # places are stored as two's complement
    place_bits = x_bits + y_bits
    code_mask = (1 << (run_bits + place_bits)) - 1
    n_pixels = height * width
    flat = image.reshape(-1)
    n = len(start)
    events = np.zeros(n, np.int64)
    state = np.full(n, -1)
    bits = np.zeros(n, np.int64)
    pixels = np.zeros(n, np.int64)
    trailings = np.zeros(n, np.int64)  # all-zero codes at the end so far: padding, if the list is not closed
    end = 0
    while end < n_pixels:
        end += _BAND
        if end >= n_pixels:
            end = n_pixels + 1
        for f in range(n):
            if state[f] >= 0:
                continue
            bit, pixel, trailing, count = bits[f], pixels[f], trailings[f], events[f]
            first = start[f]
            n_bits = 8 * n_bytes[f]
            row = pixel // width
            row_end = (row + 1) * width
            while pixel < end:
                if bit > n_bits - run_bits:
                    state[f] = 1
                    break
                at = np.uint64(first + (bit >> 5))  # unsigned indices: no check for negative ones
                low, high = np.uint64(words[at]), np.uint64(words[at + np.uint64(1)])
                word = np.int64((low | (high << np.uint64(32))) >> np.uint64(bit & 31))
                run = word & longest
                pixel += run
                bit += run_bits
                if pixel >= n_pixels:
                    state[f] = 0 if pixel == n_pixels else 2
                    break
                if run == longest:
                    trailing = 0
                    continue
                if bit + place_bits > n_bits:
                    state[f] = 1
                    break
                if upsampling == 1:
                    flat[np.uint64(pixel)] += 1
                else:
                    place = word >> run_bits
                    x = ((place & x_mask) ^ x_flip) * upsampling >> x_bits
                    y = (((place >> x_bits) & y_mask) ^ y_flip) * upsampling >> y_bits
                    while pixel >= row_end:
                        row += 1
                        row_end += width
                    column = pixel - row_end + width
                    image[np.uint64(row * upsampling + y), np.uint64(column * upsampling + x)] += 1
                trailing = trailing + 1 if word & code_mask == 0 else 0
                bit += place_bits
                count += 1
                pixel += 1
            if state[f] == 1:
                # not closed: take the padding back, which looks like electrons at one place of successive pixels
                x, y = x_flip * upsampling >> x_bits, y_flip * upsampling >> y_bits
                for _ in range(trailing):
                    pixel -= 1
                    image[pixel // width * upsampling + y, pixel % width * upsampling + x] -= 1
                count -= trailing
                if pixel == n_pixels:
                    state[f] = 0
            bits[f], pixels[f], trailings[f], events[f] = bit, pixel, trailing, count
    return events, state


def _read_header(tiff: tifffile.TiffFile, path: Path) -> tuple[EerHeader, list[tuple[int, int]]]:
    size = path.stat().st_size
    n_directories = count_directories(path)
    if len(tiff.pages) != n_directories:
        raise InputError(f"{path}: {n_directories} raw frames, only {len(tiff.pages)} are readable; copy it again.")
    strips: list[tuple[int, int]] = []
    shape: tuple[int, int] | None = None
    bits: tuple[int, int, int] | None = None
    for i in range(len(tiff.pages)):
        page: Any = tiff.pages[i].aspage()
        code = int(page.compression)
        if code not in COMPRESSIONS:
            continue  # the first page may be a picture of the whole exposure
        found = COMPRESSIONS[code] or _variable_bits(page, path)
        if len(page.shape) != 2 or (shape is not None and page.shape != shape) or (bits is not None and found != bits):
            raise InputError(f"{path}, raw frame {len(strips) + 1}: its shape or coding differs from the first one's.")
        shape, bits = page.shape, found
        if len(page.dataoffsets) != 1:
            strips_here = list(zip(page.dataoffsets, page.databytecounts, strict=True))
            contiguous = all(a + n == b for (a, n), (b, _) in zip(strips_here, strips_here[1:], strict=False))
            if not contiguous or not strips_here:
                raise InputError(f"{path}, raw frame {len(strips) + 1}: {len(strips_here)} strips, expected one.")
        offset, count = page.dataoffsets[0], sum(page.databytecounts)
        if offset + count > size:
            raise InputError(
                f"{path}, raw frame {len(strips) + 1}: it should end at byte {offset + count}, the file has {size}; it "
                "is cut short. Copy it again."
            )
        strips.append((offset, count))
    if shape is None or bits is None:
        raise InputError(f"{path}: no page with EER compression (65000, 65001, 65002); this is no EER movie.")
    if not (0 < shape[0] <= 1 << 15 and 0 < shape[1] <= 1 << 15):
        raise InputError(f"{path}: impossible size {shape[1]} x {shape[0]}; the file is damaged.")
    exposure, pixel_size = _metadata(tiff)
    return EerHeader(len(strips), shape, bits, exposure, pixel_size), strips


def _variable_bits(page: Any, path: Path) -> tuple[int, int, int]:
    """Depths of a 65002 page, from tags 65007, 65008 and 65009."""
    values = [page.tags[tag].value if tag in page.tags else None for tag in (65007, 65008, 65009)]
    run, x, y = (int(v) if v is not None else d for v, d in zip(values, (7, 2, 2), strict=True))
    if not (2 <= run <= 12 and 0 <= x <= 4 and 0 <= y <= 4):
        raise InputError(f"{path}: runs of {run} bits and places of {x} and {y} bits; the file is damaged.")
    return run, x, y


def _metadata(tiff: tifffile.TiffFile) -> tuple[float | None, float | None]:
    """Exposure in e-/Å2 and pixel size in Å, where the metadata give them."""
    values: dict[str, tuple[float, str]] = {}
    for page in tiff.pages[:2]:
        text = next((page.tags[tag].value for tag in (65001, 65005) if tag in page.tags), None)  # type: ignore[union-attr]
        if text is None:
            continue
        values |= _xml_values(text if isinstance(text, bytes) else str(text).encode())
        break
    size = values.get("sensorPixelSize.width")
    dose = values.get("totalDose")
    factors = {"m": 1e10, "nm": 10.0, "pm": 0.01, "A": 1.0, "Å": 1.0}
    pixel_size = size[0] * factors[size[1]] if size and size[1] in factors else None
    exposure = None
    if dose and pixel_size and dose[0] > 0 and dose[1] in ("", "e/pixel", "e-/pixel"):
        exposure = dose[0] / pixel_size**2
    elif dose and dose[1] in ("e/A^2", "e/Å^2", "e/A2"):
        exposure = dose[0]
    return exposure, pixel_size


def _xml_values(text: bytes) -> dict[str, tuple[float, str]]:
    """Numbers of `<item name="..." unit="...">value</item>` lines."""
    values = {}
    for match in re.finditer(rb'<item\s+name="([^"]{1,80})"([^>]{0,200})>([^<]{1,80})</item>', text[:200_000]):
        unit = re.search(rb'unit="([^"]*)"', match[2])
        try:
            values[match[1].decode()] = (float(match[3]), unit[1].decode() if unit else "")
        except (ValueError, UnicodeDecodeError):
            continue
    return values

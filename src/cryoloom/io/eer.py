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
        Rendered frames, their rows and columns; `uint8` where a group is too small to overflow it, else `uint16`.
    n_dropped
        Raw frames at the end that do not fill a group.
    n_unclosed
        Raw frames read so far whose list of electrons did not end at the last pixel.
    """

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
        self.dtype = np.dtype(np.uint8 if self.grouping <= 255 else np.uint16)
        self.n_frames = self.header.n_raw // self.grouping
        self.n_dropped = self.header.n_raw - self.n_frames * self.grouping
        self.n_unclosed = 0
        self.shape = (self.header.shape[0] * upsampling, self.header.shape[1] * upsampling)
        size = None if self.header.pixel_size is None else self.header.pixel_size / upsampling
        self.pixel_size = size
        self._file = os.open(self.path, os.O_RDONLY)
        self._more_bits = self._bits_of_long_runs()

    def frames(self, first: int, last: int, out: np.ndarray | None = None) -> np.ndarray:
        """Rendered frames `first ... last - 1`, `(n, y, x)` counts of `dtype`.

        Parameters
        ----------
        out
            Array to write into, `(n, y, x)` of `dtype`; fresh memory costs as much time as the counting.

        Raises
        ------
        InputError
            If the list of a raw frame is cut short or runs over the last pixel.
        """
        if not 0 <= first <= last <= self.n_frames:
            raise ValueError(f"frames: expected 0 <= first <= last <= {self.n_frames}, got {first}, {last}")
        if out is None:
            out = np.empty((last - first, *self.shape), self.dtype)
        elif out.shape != (last - first, *self.shape) or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out: expected {(last - first, *self.shape)} {self.dtype}, got {out.shape} {out.dtype}")
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
        """Count the electrons of raw frames `first ... last - 1` as `image`; returns their number."""
        words, start, sizes = self._read_lists(first, last)
        events, state = _render(
            words, start, sizes, *self.header.bits, self._more_bits, *self.header.shape, self.upsampling, image
        )
        if (state == _OVERRUN).any():
            raise InputError(
                f"{self.path}, raw frame {first + 1 + int(np.argmax(state == _OVERRUN))} of {self.header.n_raw}: "
                "electrons beyond the last pixel; the file is damaged. Copy it again."
            )
        self.n_unclosed += int((state == _UNCLOSED).sum())
        return int(events.sum())

    def _bits_of_long_runs(self) -> int:
        """Bits of a run that goes on: those of the run, or in files of prototype cameras (65000) those of a whole code.

        The file itself tells: read the wrong way, its lists do not end at the last pixel.
        """
        run_bits, x_bits, y_bits = self.header.bits
        if run_bits != 8:
            return run_bits
        words, start, sizes = self._read_lists(0, min(5, self.header.n_raw))
        closed = [
            _count_closed(
                words, start, sizes, run_bits, x_bits + y_bits, more, self.header.shape[0] * self.header.shape[1]
            )
            for more in (run_bits, run_bits + x_bits + y_bits)
        ]
        return run_bits if closed[0] >= closed[1] else run_bits + x_bits + y_bits

    def _read_lists(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lists of raw frames as words, the first word of each, and their bytes."""
        strips = self._strips[first:last]
        # Each list starts at a whole word and is followed by two empty ones.
        length = np.array([-(-size // 8) + 2 for _, size in strips], np.int64)
        start = np.cumsum(length) - length
        words = np.zeros(int(length.sum()), "<u8")
        places = words.data.cast("B")
        for raw, ((offset, size), at) in enumerate(zip(strips, 8 * start, strict=True), first + 1):
            if os.preadv(self._file, [places[int(at) : int(at) + size]], offset) < size:
                raise InputError(f"{self.path}, raw frame {raw} of {self.header.n_raw}: the file is cut short.")
        return words, start, np.array([size for _, size in strips], np.int64)


_CLOSED, _UNCLOSED, _OVERRUN = 0, 1, 2
_BAND_BYTES = 1 << 16  # of the picture, which all lists of a group are counted into before the next: it stays in cache
_BAND_PIXELS = 1 << 14  # of the detector, at least: each list is taken up again for every band


@numba.njit(nogil=True, cache=True)
def _render(words, start, n_bytes, run_bits, x_bits, y_bits, more_bits, height, width, upsampling, image):  # type: ignore[no-untyped-def] # pragma: no cover
    """Write the electrons of some lists to `image`; returns the number of each and how it ended."""
    n_pixels = height * width
    flat = image.reshape(-1)
    n = len(start)
    events = np.zeros(n, np.int64)
    state = np.full(n, -1)
    bits = np.zeros(n, np.int64)
    pixels = np.zeros(n, np.int64)
    places = _place_table(x_bits, y_bits, upsampling, width)
    band = max(_BAND_BYTES // (image.itemsize * upsampling * upsampling), _BAND_PIXELS)
    band = width * max(band // width, 1)
    end = 0
    while end < n_pixels:
        begin, end = end, min(end + band, n_pixels)
        flat[begin * upsampling * upsampling : end * upsampling * upsampling] = 0
        for f in range(n):
            if state[f] >= 0:
                continue
            # A whole window of 64 bits needs no look at where the list ends.
            safe = 8 * n_bytes[f] - 64
            if upsampling == 1:
                found = _count(
                    words, start[f], bits[f], safe, pixels[f], end, run_bits, x_bits + y_bits, more_bits, flat
                )
            else:
                found = _count_places(
                    words, start[f], bits[f], safe, pixels[f], end, run_bits, x_bits + y_bits, more_bits, width,
                    upsampling, places, flat,
                )  # fmt: skip
            bits[f], pixels[f] = found[0], found[1]
            events[f] += found[2]
            if bits[f] >= safe or end == n_pixels:
                last = _count_carefully(
                    words, start[f], bits[f], 8 * n_bytes[f], pixels[f], end, n_pixels, run_bits, x_bits + y_bits,
                    more_bits, width, upsampling, places, flat,
                )  # fmt: skip
                bits[f], pixels[f], state[f] = last[0], last[1], last[3]
                events[f] += last[2]
                if state[f] == _UNCLOSED:
                    # Padding looks like electrons at one place of successive pixels: take it back.
                    trailing = _trailing(
                        words, start[f], 8 * n_bytes[f], n_pixels, run_bits, x_bits + y_bits, more_bits
                    )
                    pixel = pixels[f]
                    for _ in range(trailing):
                        pixel -= 1
                        row = pixel // width
                        flat[(row * upsampling * width + pixel - row * width) * upsampling + places[0]] -= 1
                    events[f] -= trailing
                    if pixel == n_pixels:
                        state[f] = _CLOSED
    return events, state


@numba.njit(nogil=True, cache=True)
def _count_closed(words, start, n_bytes, run_bits, place_bits, more_bits, n_pixels):  # type: ignore[no-untyped-def] # pragma: no cover
    """How many lists end at the last pixel."""
    longest = (1 << run_bits) - 1
    closed = 0
    for f in range(len(start)):
        bit, pixel = 0, 0
        while bit <= 8 * n_bytes[f] - run_bits and pixel < n_pixels:
            run = np.int64(_window(words, start[f], bit)) & longest
            pixel += run
            if run == longest:
                bit += more_bits
            elif pixel < n_pixels:
                pixel += 1
                bit += run_bits + place_bits
        closed += pixel == n_pixels
    return closed


@numba.njit(nogil=True, cache=True)
def _place_table(x_bits, y_bits, upsampling, width):  # type: ignore[no-untyped-def] # pragma: no cover
    """Offset in the picture of each place inside a pixel; places are stored as two's complement."""
    out = np.zeros(1 << (x_bits + y_bits), np.int64)
    for place in range(len(out)):
        x = ((place & ((1 << x_bits) - 1)) ^ ((1 << x_bits) >> 1)) * upsampling >> x_bits
        y = ((place >> x_bits) ^ ((1 << y_bits) >> 1)) * upsampling >> y_bits
        out[place] = y * upsampling * width + x
    return out


@numba.njit(nogil=True, cache=True, inline="always")
def _window(words, first, bit):  # type: ignore[no-untyped-def] # pragma: no cover
    """The 64 bits from a place in a list on."""
    at = np.uint64(first + (bit >> 6))  # unsigned indices: no check for negative ones
    past = np.uint64(bit & 63)
    return (words[at] >> past) | ((words[at + np.uint64(1)] << np.uint64(1)) << (np.uint64(63) - past))


@numba.njit(nogil=True, cache=True)
def _count(words, first, bit, safe, pixel, end, run_bits, place_bits, more_bits, flat):  # type: ignore[no-untyped-def] # pragma: no cover
    """Count electrons of one list before pixel `end` and bit `safe`; returns where it stopped and their number.

    Whether a run goes on cannot be foretold, so nothing branches on it: such a run adds 0 where it ends.
    """
    longest = np.uint64((1 << run_bits) - 1)
    code_bits = run_bits + place_bits
    n_codes = 64 // code_bits
    count = 0
    while bit < safe:
        window = _window(words, first, bit)
        for _ in range(n_codes):
            run = window & longest
            after = pixel + np.int64(run)
            if after >= end:
                return bit, pixel, count
            electron = int(run != longest)
            flat[np.uint64(after)] += electron
            pixel = after + electron
            count += electron
            step = more_bits + (code_bits - more_bits) * electron
            window >>= np.uint64(step)
            bit += step
    return bit, pixel, count


@numba.njit(nogil=True, cache=True)
def _count_places(  # type: ignore[no-untyped-def] # pragma: no cover
    words, first, bit, safe, pixel, end, run_bits, place_bits, more_bits, width, upsampling, places, flat
):
    """The same on a finer grid."""
    longest = np.uint64((1 << run_bits) - 1)
    place_mask = np.uint64((1 << place_bits) - 1)
    to_place, code_bits = np.uint64(run_bits), run_bits + place_bits
    n_codes = 64 // code_bits
    count = 0
    row = pixel // width
    row_end = (row + 1) * width
    # pixel (r, c) of the detector begins at upsampling² r width + upsampling c = upsampling p + row_base
    row_step = upsampling * (upsampling - 1) * width
    row_base = row * row_step
    while bit < safe:
        window = _window(words, first, bit)
        for _ in range(n_codes):
            run = window & longest
            after = pixel + np.int64(run)
            if after >= end:
                return bit, pixel, count
            while after >= row_end:
                row_end += width
                row_base += row_step
            electron = int(run != longest)
            flat[np.uint64(after * upsampling + row_base + places[(window >> to_place) & place_mask])] += electron
            pixel = after + electron
            count += electron
            step = more_bits + (code_bits - more_bits) * electron
            window >>= np.uint64(step)
            bit += step
    return bit, pixel, count


@numba.njit(nogil=True, cache=True)
def _count_carefully(  # type: ignore[no-untyped-def] # pragma: no cover
    words, first, bit, n_bits, pixel, end, n_pixels, run_bits, place_bits, more_bits, width, upsampling, places, flat
):
    """The same up to the very end of a list; also says how it ended, or -1 if it goes on after pixel `end`."""
    longest = (1 << run_bits) - 1
    place_mask = (1 << place_bits) - 1
    count = 0
    while True:
        if bit > n_bits - run_bits:
            return bit, pixel, count, _CLOSED if pixel == n_pixels else _UNCLOSED
        word = np.int64(_window(words, first, bit))
        run = word & longest
        after = pixel + run
        if after >= n_pixels:
            return bit, after, count, _CLOSED if after == n_pixels else _OVERRUN
        if after >= end:
            return bit, pixel, count, -1
        pixel = after
        if run == longest:
            bit += more_bits
            continue
        bit += run_bits
        if bit + place_bits > n_bits:
            return bit, pixel, count, _UNCLOSED
        row = pixel // width
        place = places[(word >> run_bits) & place_mask]
        flat[(row * upsampling * width + pixel - row * width) * upsampling + place] += 1
        pixel += 1
        bit += place_bits
        count += 1


@numba.njit(nogil=True, cache=True)
def _trailing(words, first, n_bits, n_pixels, run_bits, place_bits, more_bits):  # type: ignore[no-untyped-def] # pragma: no cover
    """All-zero codes at the end of a list that is not closed."""
    longest, code_bits = (1 << run_bits) - 1, run_bits + place_bits
    bit, pixel, trailing = 0, 0, 0
    while bit <= n_bits - run_bits:
        word = np.int64(_window(words, first, bit))
        run = word & longest
        pixel += run
        if pixel >= n_pixels:
            break
        if run == longest:
            bit += more_bits
            trailing = 0
            continue
        bit += run_bits
        if bit + place_bits > n_bits:
            break
        trailing = trailing + 1 if word & ((1 << code_bits) - 1) == 0 else 0
        bit += place_bits
        pixel += 1
    return trailing


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

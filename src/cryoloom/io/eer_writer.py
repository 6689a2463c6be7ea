"""Writing EER movies from lists of electrons: for simulated movies and for tests of the reader.

The container is a BigTIFF of one strip per raw frame, compression 65000 (runs of 8 bits) or 65001 (7 bits). As
prototype cameras wrote the former, and as RELION reads it, a run of 8 bits that goes on has a place behind it.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

import numba
import numpy as np

from cryoloom.io.atomic import write_whole

_RUN_BITS = {65000: 8, 65001: 7}


def write_eer(
    path: Path | str,
    frames: Iterable[np.ndarray],
    shape: tuple[int, int],
    *,
    compression: int = 65001,
    pixel_size: float | None = None,
    total_dose_per_pixel: float | None = None,
) -> int:
    """Write an EER movie.

    Parameters
    ----------
    path
        The file.
    frames
        For each raw frame the places of its electrons, `(n, 2)` integers yx on the grid four times as fine as the
        detector's. Of several electrons in one detector pixel the first one is kept, as a counting camera does.
    shape
        Rows and columns of the detector.
    compression
        65000 or 65001.
    pixel_size, total_dose_per_pixel
        Metadata: Å of a detector pixel, and electrons per pixel of the whole exposure.

    Returns
    -------
    n_electrons
        Electrons written.
    """
    if compression not in _RUN_BITS:
        raise ValueError(f"compression: expected 65000 or 65001, got {compression}")
    h, w = shape
    total = 0
    places: list[tuple[int, int]] = []
    metadata = _metadata(shape, pixel_size, total_dose_per_pixel)
    with write_whole(path) as file:
        file.write(b"II" + struct.pack("<HHHQ", 43, 8, 0, 0))
        metadata_at = file.tell()
        file.write(metadata)
        for events in frames:
            data, n = encode_frame(events, shape, _RUN_BITS[compression])
            total += n
            places.append((file.tell(), len(data)))
            file.write(data)
        link = 8
        for i, (offset, size) in enumerate(places):
            tags = [
                (256, 4, 1, w), (257, 4, 1, h), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
                (273, 16, 1, offset), (277, 3, 1, 1), (278, 4, 1, h), (279, 16, 1, size),
            ]  # fmt: skip
            if i == 0 and metadata:
                tags.append((65001, 7, len(metadata), metadata_at))
            file.seek(0, 2)
            start = file.tell() + (-file.tell()) % 8
            file.write(bytes(start - file.tell()))
            file.write(struct.pack("<Q", len(tags)))
            for tag, kind, count, value in tags:
                file.write(struct.pack("<HHQQ", tag, kind, count, value))
            next_link = file.tell()
            file.write(struct.pack("<Q", 0))
            file.seek(link)
            file.write(struct.pack("<Q", start))
            link = next_link
    return total


def encode_frame(events: np.ndarray, shape: tuple[int, int], run_bits: int = 7) -> tuple[bytes, int]:
    """The list of one raw frame, closed by a run to the last pixel, and the number of electrons in it.

    Its bytes are even in number, as cameras write them; some programs read no others.
    """
    h, w = shape
    events = np.asarray(events, dtype=np.int64).reshape(-1, 2)
    if len(events) and (events.min() < 0 or (events.max(axis=0) >= (4 * h, 4 * w)).any()):
        raise ValueError(f"events: expected places inside {4 * h} x {4 * w}, got {events.min(0)} to {events.max(0)}")
    pixel = (events[:, 0] >> 2) * w + (events[:, 1] >> 2)
    pixel, first = np.unique(pixel, return_index=True)
    place = ((events[first, 1] & 3) ^ 2) | (((events[first, 0] & 3) ^ 2) << 2)
    longest = (1 << run_bits) - 1
    n_bits = int((len(pixel) + h * w // longest + 2) * (run_bits + 4))
    data = np.zeros(n_bits // 8 + 8, np.uint8)
    used = _encode(pixel, place, h * w, run_bits, run_bits + 4 if run_bits == 8 else run_bits, data)
    return data[: 2 * ((used + 15) // 16)].tobytes(), len(pixel)


@numba.njit(nogil=True, cache=True)
def _encode(pixel, place, n_pixels, run_bits, more_bits, data):  # type: ignore[no-untyped-def] # pragma: no cover
    longest = (1 << run_bits) - 1
    bit, at = 0, 0
    for i in range(len(pixel) + 1):
        target = pixel[i] if i < len(pixel) else n_pixels
        gap = target - at
        while gap >= longest:
            bit = _put(data, bit, longest, more_bits)
            gap -= longest
            if gap == 0 and i == len(pixel):
                return bit
        bit = _put(data, bit, gap, run_bits)
        if i < len(pixel):
            bit = _put(data, bit, place[i], 4)
            at = target + 1
    return bit


@numba.njit(nogil=True, cache=True)
def _put(data, bit, value, n):  # type: ignore[no-untyped-def] # pragma: no cover
    for k in range(n):
        if (value >> k) & 1:
            data[(bit + k) >> 3] |= np.uint8(1 << ((bit + k) & 7))
    return bit + n


def _metadata(shape: tuple[int, int], pixel_size: float | None, dose: float | None) -> bytes:
    items = [f'<item name="sensorImageWidth" unit="pixel">{shape[1]}</item>',
             f'<item name="sensorImageHeight" unit="pixel">{shape[0]}</item>']  # fmt: skip
    if pixel_size is not None:
        for axis in ("width", "height"):
            items.append(f'<item name="sensorPixelSize.{axis}" unit="m">{pixel_size * 1e-10!r}</item>')
    if dose is not None:
        items.append(f'<item name="totalDose" unit="e/pixel">{dose!r}</item>')
    return ("<metadata>" + "".join(items) + "</metadata>").encode()

"""MRC2014 images, stacks and maps (Cheng et al. 2015, doi 10.1016/j.jsb.2015.04.002).

Read: modes 0 (int8), 1 (int16), 2 (float32), 6 (uint16), 12 (float16) and 101 (4 bits per pixel), of either byte
order, with extended headers, plain or compressed by gzip or bzip2. Written: modes 0, 1, 2, 6 and 12. Arrays are
`(z, y, x)`, section first, and row 0 of an array is the first row of the file.

A header that says something impossible is refused. Faults of the header that cannot touch the pixels, such as the
missing `MAP ` word of old files, are accepted if the size of the file proves the rest, and listed in
`MrcHeader.problems`.
"""

import bz2
import gzip
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cryoloom.contract import InputError
from cryoloom.io.atomic import write_whole

HEADER_BYTES = 1024
_MODES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_BITS = {0: 8, 1: 16, 2: 32, 6: 16, 12: 16, 101: 4}
_STAMPS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}
_IMOD_STAMP = 1146047817
_LARGEST_AXIS = 1 << 24


@dataclass(frozen=True)
class MrcHeader:
    """What the header of an MRC file says.

    Attributes
    ----------
    shape
        Sections, rows, columns.
    mode
        MRC mode.
    dtype
        Type of the pixels after reading, native byte order (`uint8` for mode 101).
    byte_order
        `"<"` or `">"`.
    voxel_size
        Å, in zyx; 0 where the header does not say.
    origin
        ORIGIN in Å, xyz.
    nstart
        First section, row, column of the grid, zyx.
    axes
        MAPC, MAPR, MAPS: the axis (1 x, 2 y, 3 z) that columns, rows and sections run along.
    angles_deg
        Cell angles.
    space_group
        ISPG: 0 images, 1 a volume, 401 and up stacks of volumes.
    sections_per_volume
        MZ.
    extended
        Bytes of the extended header.
    extended_type
        EXTTYP.
    labels
        Text labels.
    statistics
        Minimum, maximum, mean and standard deviation as written.
    data_offset, file_size
        Bytes.
    packed_rows
        For mode 101: whether each row starts at a whole byte.
    problems
        Faults of the header that do not touch the pixels.
    raw
        The 1024 bytes themselves.
    """

    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype
    byte_order: str
    voxel_size: tuple[float, float, float]
    origin: tuple[float, float, float]
    nstart: tuple[int, int, int]
    axes: tuple[int, int, int]
    angles_deg: tuple[float, float, float]
    space_group: int
    sections_per_volume: int
    extended: bytes
    extended_type: str
    labels: tuple[str, ...]
    statistics: tuple[float, float, float, float]
    data_offset: int
    file_size: int
    packed_rows: bool
    problems: tuple[str, ...]
    raw: bytes

    @property
    def file_dtype(self) -> np.dtype:
        """Type of the pixels as they lie in the file."""
        return self.dtype.newbyteorder(self.byte_order)  # type: ignore[arg-type]

    @property
    def section_bytes(self) -> int:
        """Bytes of one section."""
        return _section_bytes(self.mode, self.shape, self.packed_rows)

    @property
    def pixel_size(self) -> float | None:
        """Å per pixel along x, or None if the header does not say (0, or the filler 1.0 with no cell)."""
        size = self.voxel_size[2]
        return size if size > 0 else None


def read_mrc_header(path: Path | str, *, tolerant: bool = False) -> MrcHeader:
    """Read and check the header of an MRC file.

    Parameters
    ----------
    path
        MRC file, plain or `.gz` or `.bz2`.
    tolerant
        Accept a file that ends before its last section; only whole sections count. The fault is listed in
        `problems`.

    Raises
    ------
    InputError
        If the file is not MRC, is cut short, or its header cannot be true.
    """
    path = Path(path)
    with _open(path) as file:
        return _read_header(file, path, tolerant)


def read_mrc(
    path: Path | str, *, sections: slice | None = None, tolerant: bool = False
) -> tuple[np.ndarray, MrcHeader]:
    """Read an MRC file.

    Parameters
    ----------
    path
        MRC file, plain or `.gz` or `.bz2`.
    sections
        Sections to read (step 1); all by default.
    tolerant
        See `read_mrc_header`.

    Returns
    -------
    array
        `(z, y, x)`, native byte order, type as in the file; a file of one section gives `(1, y, x)`.
    header
        The header; `shape` is that of the whole file.
    """
    path = Path(path)
    with _open(path) as file:
        header = _read_header(file, path, tolerant)
        first, last, step = (sections or slice(None)).indices(header.shape[0])
        if step != 1:
            raise ValueError(f"sections: expected a step of 1, got {step}")
        n = max(0, last - first)
        file.seek(header.data_offset + first * header.section_bytes)
        array = decode_sections(_read_exactly(file, n * header.section_bytes, path), header, n)
    return array, header


def map_mrc(path: Path | str) -> tuple[np.ndarray, MrcHeader]:
    """A read-only view of the pixels on disk, for looking at a few places of a large file.

    A mapped file that shrinks kills the process: read data for computing by `read_mrc` or `MrcStack`.

    Returns
    -------
    view
        `(z, y, x)` in the byte order of the file.
    header
        The header.

    Raises
    ------
    InputError
        If the file is compressed or packed (mode 101).
    """
    path = Path(path)
    header = read_mrc_header(path)
    if header.mode == 101 or path.suffix.lower() in (".gz", ".bz2"):
        raise InputError(f"{path}: a packed or compressed file cannot be mapped; read it with read_mrc.")
    return np.memmap(path, header.file_dtype, "r", header.data_offset, header.shape), header


def write_mrc(
    path: Path | str,
    array: np.ndarray,
    pixel_size: float | Sequence[float],
    *,
    kind: str | None = None,
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    nstart: Sequence[int] = (0, 0, 0),
    labels: Sequence[str] = ("cryoloom",),
    extended: bytes = b"",
    extended_type: str = "",
) -> None:
    """Write an MRC file (little-endian, beside and then renamed).

    Parameters
    ----------
    path
        File; `.mrcs` means a stack of images.
    array
        `(y, x)` or `(z, y, x)`; int8, int16, uint16, float16 and float32 are written as they are, bool and uint8
        widen to int16 (mode 0 is signed), float64 and other integers become float32.
    pixel_size
        Å per pixel, one number or zyx.
    kind
        `"image"`, `"stack"` (space group 0) or `"volume"` (1); by default from the axes and the suffix.
    origin
        Position of the first voxel in Å, xyz.
    nstart
        Grid index of the first voxel, zyx.
    labels
        Up to ten lines of 80 characters.
    extended, extended_type
        Extended header and the four letters that say whose it is.
    """
    path = Path(path)
    array = to_storable(np.asarray(array))
    if array.ndim not in (2, 3):
        raise ValueError(f"array: expected two or three axes, got shape {array.shape}")
    if kind is None:
        kind = "stack" if array.ndim == 3 and path.suffix == ".mrcs" else "volume" if array.ndim == 3 else "image"
    volume = array if array.ndim == 3 else array[None]
    header = make_header(
        volume.shape, volume.dtype, pixel_size, kind=kind, origin=origin, nstart=nstart, labels=labels,
        extended=extended, extended_type=extended_type, statistics=statistics_of(volume),
    )  # fmt: skip
    with write_whole(path) as file:
        file.write(header)
        file.write(extended)
        for section in volume:  # one section at a time: no second copy of a large volume
            file.write(np.ascontiguousarray(section).astype(volume.dtype.newbyteorder("<"), copy=False).data)


def to_storable(array: np.ndarray) -> np.ndarray:
    """The same values in a type that MRC can hold; see `write_mrc`."""
    if array.dtype.newbyteorder("=").str[1:] in _MODES.values():
        return array
    if array.dtype == np.uint8 or array.dtype == np.bool_:
        return array.astype(np.int16)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"array: expected real numbers, got {array.dtype}")
    return array.astype(np.float32)


def statistics_of(array: np.ndarray) -> tuple[float, float, float, float]:
    """Minimum, maximum, mean and standard deviation, computed section by section in float64."""
    if array.size == 0:
        return 0.0, -1.0, -2.0, -1.0  # the standard's marks for "not determined"
    low, high, total, square = np.inf, -np.inf, 0.0, 0.0
    reference = float(array.flat[0])
    reference = reference if np.isfinite(reference) else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        for section in array:
            low, high = min(low, float(section.min())), max(high, float(section.max()))
            centred = section.astype(np.float64) - reference
            total += float(centred.sum())
            square += float(np.vdot(centred, centred))
        mean = total / array.size
        variance = square / array.size - mean**2
    values = (low, high, reference + mean, float(np.sqrt(max(variance, 0.0))))
    return values if np.isfinite(values).all() else (0.0, -1.0, -2.0, -1.0)


def make_header(
    shape: Sequence[int],
    dtype: np.dtype,
    pixel_size: float | Sequence[float],
    *,
    kind: str,
    statistics: Sequence[float],
    origin: Sequence[float] = (0.0, 0.0, 0.0),
    nstart: Sequence[int] = (0, 0, 0),
    labels: Sequence[str] = ("cryoloom",),
    extended: bytes = b"",
    extended_type: str = "",
) -> bytes:
    """The 1024 bytes of a header; the arguments are those of `write_mrc`."""
    if kind not in ("image", "stack", "volume"):
        raise ValueError(f"kind: expected image, stack or volume, got {kind!r}")
    modes = {code: mode for mode, code in _MODES.items()}
    mode = modes[np.dtype(dtype).newbyteorder("=").str[1:]]
    nz, ny, nx = (int(n) for n in shape)
    mz = nz if kind == "volume" else 1
    dz, dy, dx = (float(p) for p in np.broadcast_to(np.asarray(pixel_size, np.float64), 3))
    raw = bytearray(HEADER_BYTES)
    struct.pack_into("<10i", raw, 0, nx, ny, nz, mode, nstart[2], nstart[1], nstart[0], nx, ny, mz)
    struct.pack_into("<6f", raw, 40, nx * dx, ny * dy, mz * dz, 90.0, 90.0, 90.0)
    struct.pack_into("<3i", raw, 64, 1, 2, 3)
    struct.pack_into("<3f", raw, 76, *(_as_float32(v) for v in statistics[:3]))
    struct.pack_into("<2i", raw, 88, 1 if kind == "volume" else 0, len(extended))
    raw[104:108] = extended_type.encode("ascii").ljust(4)[:4] if extended else b"\0\0\0\0"
    struct.pack_into("<i", raw, 108, 20141)
    struct.pack_into("<3f", raw, 196, *origin)
    raw[208:212] = b"MAP "
    raw[212:216] = b"\x44\x44\x00\x00"
    struct.pack_into("<f", raw, 216, _as_float32(statistics[3]))
    struct.pack_into("<i", raw, 220, min(len(labels), 10))
    for i, label in enumerate(labels[:10]):
        raw[224 + 80 * i : 304 + 80 * i] = label.encode("ascii", "replace")[:80].ljust(80)
    return bytes(raw)


def decode_sections(data: np.ndarray, header: MrcHeader, n: int) -> np.ndarray:
    """Pixels `(n, y, x)` in native byte order from the bytes of `n` sections; shares memory where it can."""
    _, ny, nx = header.shape
    if header.mode != 101:
        array = data.view(header.file_dtype).reshape(n, ny, nx)
        return array.astype(header.dtype, copy=False)
    packed = data
    pixels = np.stack([packed & 15, packed >> 4], axis=-1)  # the low half byte comes first
    if header.packed_rows:
        return np.ascontiguousarray(pixels.reshape(n, ny, -1)[..., :nx])
    return np.ascontiguousarray(pixels.reshape(n, -1)[:, : ny * nx].reshape(n, ny, nx))


def _read_header(file: BinaryIO, path: Path, tolerant: bool) -> MrcHeader:
    raw = _read_some(file, HEADER_BYTES, path)
    if len(raw) < HEADER_BYTES:
        what = "is empty" if not raw else f"has only {len(raw)} bytes"
        raise InputError(f"{path}: the file {what}, an MRC header has {HEADER_BYTES}; copy or write it again.")
    if raw[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise InputError(f"{path}: this is a TIFF file, not MRC; rename it to .tif (or .eer).")
    problems: list[str] = []
    order = _byte_order(raw, path, problems)
    nx, ny, nz, mode, *nstart, mx, my, mz = struct.unpack_from(order + "10i", raw, 0)
    shape = (nz, ny, nx)
    if mode in (3, 4):
        raise InputError(f"{path}: mode {mode} holds complex numbers (a transform); export the real image instead.")
    if mode not in _BITS:
        raise InputError(f"{path}: unknown MRC mode {mode}, expected one of {sorted(_BITS)}; the header is damaged.")
    if min(shape) <= 0 or max(shape) > _LARGEST_AXIS:
        raise InputError(f"{path}: impossible size {nx} x {ny} x {nz} in the header; the file is damaged.")
    axes = struct.unpack_from(order + "3i", raw, 64)
    if sorted(axes) != [1, 2, 3]:
        if any(axes):
            raise InputError(f"{path}: the axis order {axes} is no permutation of 1, 2, 3; the header is damaged.")
        axes = (1, 2, 3)
        problems.append("MAPC, MAPR, MAPS are 0; columns, rows, sections are taken as x, y, z")
    space_group, extended_bytes = struct.unpack_from(order + "2i", raw, 88)
    if extended_bytes < 0:
        raise InputError(f"{path}: the extended header has {extended_bytes} bytes; the header is damaged.")
    size = _size_of(file, path)
    offset = HEADER_BYTES + extended_bytes
    if size is not None and offset > size:
        raise InputError(
            f"{path}: the extended header should end at byte {offset}, the file has {size}; it is cut short."
        )
    shape, packed_rows = _check_size(path, mode, shape, offset, size, tolerant, problems)
    extended = _read_some(file, extended_bytes, path)
    if len(extended) < extended_bytes:
        raise InputError(f"{path}: the file ends inside the extended header; it is cut short.")
    cell = struct.unpack_from(order + "6f", raw, 40)
    voxel_size = _voxel_size(cell[:3], (mx, my, mz), axes, path, problems)
    if space_group >= 401 and (mz <= 0 or shape[0] % mz):
        problems.append(f"a stack of volumes (ISPG {space_group}) of {mz} sections each, but {shape[0]} sections")
    version = struct.unpack_from(order + "i", raw, 108)[0]
    if version not in (20140, 20141):
        problems.append(f"NVERSION is {version}, expected 20140 or 20141")
    statistics = struct.unpack_from(order + "3f", raw, 76) + struct.unpack_from(order + "f", raw, 216)
    n_labels = min(max(struct.unpack_from(order + "i", raw, 220)[0], 0), 10)
    labels = [raw[224 + 80 * i : 304 + 80 * i].decode("ascii", "replace").rstrip(" \0") for i in range(n_labels)]
    return MrcHeader(
        shape=shape,
        mode=mode,
        dtype=_pixel_type(file, mode, raw, order, shape, path, problems),
        byte_order=order,
        voxel_size=voxel_size,
        origin=struct.unpack_from(order + "3f", raw, 196),
        nstart=(nstart[2], nstart[1], nstart[0]),
        axes=axes,
        angles_deg=cell[3:],
        space_group=space_group,
        sections_per_volume=mz,
        extended=extended,
        extended_type=raw[104:108].decode("ascii", "replace").rstrip(" \0"),
        labels=tuple(labels),
        statistics=statistics,
        data_offset=offset,
        file_size=size if size is not None else -1,
        packed_rows=packed_rows,
        problems=tuple(problems),
        raw=raw,
    )


def _byte_order(raw: bytes, path: Path, problems: list[str]) -> str:
    """`"<"` or `">"` from the machine stamp, confirmed by mode and axes; by those alone in old files."""
    likely = [order for order in "<>" if _is_plausible(raw, order)]
    stamp = raw[212:214]
    has_map = raw[208:211] == b"MAP"
    if not has_map:
        problems.append("the word MAP is missing at byte 209")
    if stamp in _STAMPS:
        order = _STAMPS[stamp]
        if order not in likely and likely:
            raise InputError(
                f"{path}: the machine stamp {stamp.hex(' ')} says {'little' if order == '<' else 'big'}-endian, but "
                "size and mode make sense only in the other byte order; correct bytes 213 and 214 of the header."
            )
        if not likely and not has_map:
            raise InputError(f"{path}: not an MRC file: neither the word MAP nor a possible size and mode.")
        return order
    if stamp != b"\0\0" and has_map:
        raise InputError(
            f"{path}: unknown machine stamp {stamp.hex(' ')}, expected 44 44, 44 41 or 11 11; the file is damaged or "
            "was written by a faulty program. Correct bytes 213 and 214 of the header."
        )
    if len(likely) != 1:
        raise InputError(f"{path}: not an MRC file: no word MAP, no machine stamp, and no possible size and mode.")
    problems.append(f"no machine stamp; {'little' if likely[0] == '<' else 'big'}-endian by size and mode")
    return likely[0]


def _is_plausible(raw: bytes, order: str) -> bool:
    nx, ny, nz, mode = struct.unpack_from(order + "4i", raw, 0)
    return 0 <= mode < 256 and all(0 < n <= _LARGEST_AXIS for n in (nx, ny, nz))


def _check_size(
    path: Path, mode: int, shape: tuple[int, int, int], offset: int, size: int | None, tolerant: bool,
    problems: list[str],
) -> tuple[tuple[int, int, int], bool]:  # fmt: skip
    """The number of sections that are there, and whether rows of 4-bit pixels start at whole bytes."""
    nz, ny, nx = shape
    padded = offset + nz * _section_bytes(mode, shape, True)
    if size is None or size == padded:
        return shape, True
    if mode == 101 and size == offset + nz * _section_bytes(mode, shape, False):
        return shape, False
    if size > padded:
        problems.append(f"{size - padded} bytes after the last section")
        return shape, True
    whole = (size - offset) // _section_bytes(mode, shape, True)
    if not tolerant or whole < 1:
        raise InputError(
            f"{path}: {nx} x {ny} x {nz} pixels of mode {mode} need {padded} bytes, the file has {size} "
            f"({whole} whole sections); it is cut short or the header is wrong. Copy it again."
        )
    problems.append(f"the file ends in section {whole + 1} of {nz}; only whole sections count")
    return (whole, ny, nx), True


def _section_bytes(mode: int, shape: tuple[int, int, int], packed_rows: bool) -> int:
    _, ny, nx = shape
    if mode == 101:
        return ny * ((nx + 1) // 2) if packed_rows else (ny * nx + 1) // 2
    return ny * nx * _BITS[mode] // 8


def _pixel_type(
    file: BinaryIO, mode: int, raw: bytes, order: str, shape: tuple[int, int, int], path: Path, problems: list[str]
) -> np.dtype:
    """Type of the pixels.

    Bytes are signed in files that follow the standard of 2014; in others IMOD's flag decides, else the histogram.
    """
    if mode == 101:
        return np.dtype(np.uint8)
    if mode != 0:
        return np.dtype(_MODES[mode])
    stamp, flags = struct.unpack_from(order + "2i", raw, 152)
    if stamp == _IMOD_STAMP:
        return np.dtype(np.int8 if flags & 1 else np.uint8)
    if struct.unpack_from(order + "i", raw, 108)[0] in (20140, 20141):
        return np.dtype(np.int8)
    sample = np.frombuffer(_read_some(file, min(shape[1] * shape[2], 1 << 20), path), np.int8)
    # unsigned counts above 127 appear as numbers near -128; signed values around zero appear near -1
    if (sample < -64).sum() > (sample[sample < 0] >= -64).sum():
        problems.append("mode 0 (signed) holds unsigned bytes, by its histogram")
        warnings.warn(
            f"{path}: the bytes look unsigned although mode 0 is signed; they are read as 0 to 255.", stacklevel=4
        )
        return np.dtype(np.uint8)
    return np.dtype(np.int8)


def _voxel_size(
    cell: Sequence[float], grid: Sequence[int], axes: Sequence[int], path: Path, problems: list[str]
) -> tuple[float, float, float]:
    """Å along sections, rows, columns of the array; CELLA and MX are given along x, y, z."""
    sizes = []
    for length, n in zip(cell, grid, strict=True):
        if not np.isfinite(length) or length < 0 or n < 0:
            problems.append(f"cell length {length} over {n} intervals; the pixel size is unknown")
            length = 0.0
        sizes.append(length / n if n > 0 else 0.0)
    column, row, section = (sizes[axis - 1] for axis in axes)
    return section, row, column


def _open(path: Path) -> BinaryIO:
    opener = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix.lower(), open)
    try:
        return opener(path, "rb")  # type: ignore[operator]
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file; check the path.") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: this is a folder, an MRC file was expected.") from error
    except PermissionError as error:
        raise InputError(f"{path}: this file may not be read; mend its permissions.") from error


def _size_of(file: BinaryIO, path: Path) -> int | None:
    """Bytes of the file, or None if it is compressed."""
    return path.stat().st_size if path.suffix.lower() not in (".gz", ".bz2") else None


def _read_some(file: BinaryIO, n: int, path: Path) -> bytes:
    """At most `n` bytes, in pieces, so that a lying header cannot claim memory that the file does not fill."""
    pieces = []
    try:
        while n > 0:
            piece = file.read(min(n, 1 << 26))
            if not piece:
                break
            pieces.append(piece)
            n -= len(piece)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(file, gzip.GzipFile | bz2.BZ2File):
            raise InputError(f"{path}: the compressed file is damaged ({error}).") from error
        raise
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _read_exactly(file: BinaryIO, n: int, path: Path) -> np.ndarray:
    """`(n,)` bytes that the caller may write to."""
    if isinstance(file, gzip.GzipFile | bz2.BZ2File):  # nothing vouches for the size: grow with what comes
        data = np.frombuffer(_read_some(file, n, path), np.uint8).copy()
        found = len(data)
    else:
        data, found = np.empty(n, np.uint8), 0
        while found < n:
            count = file.readinto(data.data[found : found + (1 << 30)])  # type: ignore[attr-defined]
            if not count:
                break
            found += count
    if found < n:
        raise InputError(f"{path}: the file ended {n - found} bytes early; it is cut short or still being written.")
    return data


def _as_float32(value: float) -> float:
    return float(np.clip(value, -3.4e38, 3.4e38))

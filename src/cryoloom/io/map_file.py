"""Maps on disk: MRC volumes to and from `VolumeMap`, axes in the order z, y, x whatever the file says."""

from pathlib import Path

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.io.mrc import read_mrc, write_mrc


def read_map(path: Path | str, *, pixel_size: float | None = None) -> VolumeMap:
    """Read a map (MRC, CCP4, also `.gz` and `.bz2`).

    Parameters
    ----------
    path
        Map file.
    pixel_size
        Å per voxel, in place of what the header says.

    Returns
    -------
    map
        float32, `(z, y, x)`. The origin is ORIGIN, or the start of the grid times the voxel size where ORIGIN is 0.

    Raises
    ------
    InputError
        If the file holds one image or a stack of volumes, its voxels are not cubes, or no voxel size is known.
    """
    path = Path(path)
    array, header = read_mrc(path)
    if header.shape[0] == 1:
        raise InputError(f"{path}: one image of {header.shape[2]} x {header.shape[1]} pixels, a map was expected.")
    if header.space_group >= 401 and 0 < header.sections_per_volume < header.shape[0]:
        n = header.shape[0] / header.sections_per_volume
        raise InputError(f"{path}: a stack of {n:g} volumes, one map was expected; split it first.")
    # axes[i] is the axis (1 x, 2 y, 3 z) of columns, rows, sections; the array is (sections, rows, columns)
    along = header.axes[::-1]
    order = [along.index(axis) for axis in (3, 2, 1)]
    data = np.ascontiguousarray(array.transpose(order), dtype=np.float32)
    voxel = tuple(header.voxel_size[i] for i in order)
    start = tuple(header.nstart[i] for i in order)
    if not np.isfinite(data).all():
        raise InputError(f"{path}: some voxels are NaN or infinite; the map is damaged.")
    if pixel_size is None:
        pixel_size = _one_size(voxel, header.angles_deg, path)
    if not pixel_size > 0:
        raise InputError(f"{path}: the header gives no voxel size; name it (Å per pixel).")
    if any(header.origin) and np.isfinite(header.origin).all():
        origin = tuple(float(v) for v in header.origin)
    else:
        origin = tuple(float(n) * pixel_size for n in reversed(start))
    return VolumeMap(data, float(pixel_size), origin)  # type: ignore[arg-type]


def write_map(volume: VolumeMap, path: Path | str, *, label: str = "cryoloom") -> None:
    """Write a map as MRC2014, mode 2 (float32)."""
    data = np.asarray(volume.data, dtype=np.float32)
    write_mrc(path, data, volume.pixel_size, kind="volume", origin=volume.origin, labels=(label,))


def _one_size(voxel: tuple[float, ...], angles_deg: tuple[float, float, float], path: Path) -> float:
    """The edge of a cubic voxel, to the precision of the header (its cell lengths are float32)."""
    if max(voxel) <= 0:
        return 0.0
    if any(angles_deg) and max(abs(a - 90) for a in angles_deg) > 0.01:
        raise InputError(f"{path}: the cell angles are {angles_deg}, all must be 90 degrees; resample the map first.")
    if max(voxel) - min(voxel) > 2e-3 * max(voxel):
        z, y, x = voxel
        raise InputError(
            f"{path}: the voxels are {x:g} x {y:g} x {z:g} Å, cubes were expected; resample the map first."
        )
    size = float(voxel[2])
    rounded = float(f"{size:.6g}")
    return rounded if abs(rounded - size) < 2e-7 * size else size

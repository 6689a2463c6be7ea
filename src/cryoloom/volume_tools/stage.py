"""Tools for maps and masks. The centre voxel stays where it is in space, so origins move with the first voxel."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import InputError, Run, stage
from cryoloom.data import VolumeMap
from cryoloom.geometry import symmetry_matrices
from cryoloom.io.model_file import read_model
from cryoloom.maps.filter import apply_bfactor, highpass, lowpass
from cryoloom.maps.mask import cosine_edge, find_mask
from cryoloom.maps.points import distance_to_points
from cryoloom.maps.resample import resample_map, resize_box
from cryoloom.maps.rotate import transform_map
from cryoloom.maps.symmetry_axes import find_symmetry_frame
from cryoloom.volume_tools.settings import (
    ALIGN,
    ARITHMETIC,
    CROP,
    FILTER,
    FLIP,
    MASK_MAP,
    MASK_MODEL,
    RESAMPLE,
    AlignSettings,
    ArithmeticSettings,
    CropSettings,
    FilterSettings,
    FlipSettings,
    MaskMapSettings,
    MaskModelSettings,
    ResampleSettings,
)

_AXES = {"z": 0, "y": 1, "x": 2}


@stage(FLIP)
def flip_map(map: VolumeMap, settings: FlipSettings, run: Run) -> VolumeMap:
    """Mirror a map about its centre voxel."""
    axis = _AXES[settings.axis]
    flipped = np.flip(map.data, axis)
    if map.data.shape[axis] % 2 == 0:
        flipped = np.roll(flipped, 1, axis)
    _tell(run, 1, "Mirrored: the hand is the other one.")
    return VolumeMap(np.ascontiguousarray(flipped), map.pixel_size, map.origin)


@stage(RESAMPLE)
def resample_volume(map: VolumeMap, settings: ResampleSettings, run: Run) -> VolumeMap:
    """Give a map another pixel size."""
    _need_cube(map)
    if settings.pixel is None:
        raise InputError("Give the new size of a voxel: --pixel (Å).")
    result = resample_map(_tensor(map), map.pixel_size, settings.pixel, settings.box).numpy()
    _tell(run, 1, f"{map.data.shape[0]} voxels of {map.pixel_size:g} Å became {result.shape[0]} of {settings.pixel:g}.")
    return _placed(result, settings.pixel, map)


@stage(CROP)
def crop_map(map: VolumeMap, settings: CropSettings, run: Run) -> VolumeMap:
    """Crop or pad a map."""
    if settings.box is None:
        raise InputError("Give the new box: --box (voxels).")
    centre, box = _centre_voxel(map, settings.centre), settings.box
    result = resize_box(_tensor(map), (box,) * 3, fill=settings.fill, centre=centre).numpy()
    origin = tuple(o + (c - box // 2) * map.pixel_size for o, c in zip(map.origin, centre[::-1], strict=True))
    _tell(run, 1, f"Box of {box} voxels around voxel {centre[::-1]} (xyz).")
    return VolumeMap(result, map.pixel_size, origin)  # type: ignore[arg-type]


@stage(ALIGN)
def align_map(map: VolumeMap, settings: AlignSettings, run: Run) -> VolumeMap:
    """Bring the symmetry axes of a map onto those of the convention."""
    _need_cube(map)
    volume = _tensor(map)
    try:
        frame = find_symmetry_frame(volume, map.pixel_size, settings.symmetry, resolution=settings.resolution)
    except ValueError as error:
        raise InputError(f"--symmetry: {error}") from error
    result = frame.apply(volume)
    if settings.symmetrise:
        operators = symmetry_matrices(settings.symmetry)
        result = torch.stack([transform_map(result, op) for op in operators]).mean(0)
    verdict = "found" if frame.correlation > 0.5 else "doubtful"
    _tell(run, 1, f"Turned copies correlate by {frame.correlation:.3f} up to the resolution compared.", verdict)
    if verdict != "found":
        run.warn(f"The map hardly has the symmetry {settings.symmetry}: look at the result before using it.")
    run.summarise(
        correlation=round(frame.correlation, 4),
        rotation=frame.rotation.tolist(),
        shift_A=[round(float(v), 4) for v in frame.shift],
        symmetry=settings.symmetry.upper(),
    )
    return VolumeMap(result.numpy(), map.pixel_size, map.origin)


@stage(FILTER)
def filter_volume(map: VolumeMap, settings: FilterSettings, run: Run) -> VolumeMap:
    """Low-pass, high-pass, blur or sharpen a map."""
    if settings.lowpass is None and settings.highpass is None and settings.bfactor is None:
        raise InputError("Say how: --lowpass, --highpass or --bfactor.")
    volume = _tensor(map)
    if settings.lowpass is not None:
        volume = lowpass(volume, map.pixel_size, settings.lowpass)
    if settings.highpass is not None:
        volume = highpass(volume, map.pixel_size, settings.highpass)
    if settings.bfactor is not None:
        volume = apply_bfactor(volume, map.pixel_size, settings.bfactor)
    _tell(run, 1, "Filtered.")
    return VolumeMap(volume.numpy(), map.pixel_size, map.origin)


@stage(ARITHMETIC)
def combine_maps(maps: tuple[VolumeMap, ...], settings: ArithmeticSettings, run: Run) -> VolumeMap:
    """Combine maps voxel by voxel, or change one."""
    first = maps[0]
    for i, other in enumerate(maps[1:], 2):
        if other.data.shape != first.data.shape or abs(other.pixel_size / first.pixel_size - 1) > 1e-3:
            raise InputError(
                f"map {i}: {other.data.shape} voxels of {other.pixel_size:g} Å, the first has {first.data.shape} of "
                f"{first.pixel_size:g} Å; resample and crop it first."
            )
    data = [np.asarray(one.data, np.float32) for one in maps]
    if settings.operation in _OF_ONE:
        if len(maps) != 1:
            raise InputError(f"--operation {settings.operation} takes one map, got {len(maps)}.")
        result = _OF_ONE[settings.operation](data[0], settings)
    else:
        if len(maps) < 2:
            raise InputError(f"--operation {settings.operation} takes two maps or more; give --maps several times.")
        if settings.operation == "divide" and any((other == 0).any() for other in data[1:]):
            run.warn("Where a divisor is 0 the result is 0.")
        result = _OF_SEVERAL[settings.operation](data)
    _tell(run, len(maps), f"{settings.operation} of {len(maps)}.")
    return VolumeMap(result.astype(np.float32), first.pixel_size, first.origin)


@stage(MASK_MAP)
def mask_from_map(map: VolumeMap, settings: MaskMapSettings, run: Run) -> dict[str, VolumeMap]:
    """Make a soft mask around the density of a map."""
    found = find_mask(
        _tensor(map), map.pixel_size, lowpass_resolution=settings.lowpass, threshold=settings.threshold,
        extend=settings.extend, edge=settings.edge,
    )  # fmt: skip
    if not bool((found.mask > 0.5).any()):
        raise InputError("No density lies above the threshold; lower --threshold.")
    _tell(run, 1, f"Level {found.threshold:.4g}; {found.n_pieces} connected pieces.")
    run.summarise(threshold=found.threshold, body_volume_A3=round(found.volume, 1))
    return {"mask": VolumeMap(found.mask.numpy(), map.pixel_size, map.origin)}


@stage(MASK_MODEL)
def mask_from_model(model: Path, map: VolumeMap, settings: MaskModelSettings, run: Run) -> dict[str, VolumeMap]:
    """Make a soft mask around the atoms of a model; distances to atoms are exact."""
    atoms = read_model(model, assembly=settings.assembly)
    position = atoms.position
    if settings.chains is not None:
        wanted = [name.strip() for name in settings.chains.split(",")]
        missing = sorted(set(wanted) - set(atoms.chain.tolist()))
        if missing:
            raise InputError(f"{model}: there is no chain {missing[0]}; it has {', '.join(np.unique(atoms.chain))}.")
        position = position[np.isin(atoms.chain, wanted)]
    place = ((position - np.asarray(map.origin)) / map.pixel_size)[:, ::-1]
    outside = ((place < 0) | (place > np.array(map.data.shape) - 1)).any(1)
    if outside.all():
        raise InputError(f"{model}: all atoms lie outside of the map; the model must lie in its frame (see `fit`).")
    if outside.any():
        run.warn(f"{int(outside.sum())} of {len(place)} atoms lie outside of the map.")
    reach = (settings.radius + settings.edge) / map.pixel_size + 1
    distance = torch.from_numpy(distance_to_points(place, map.data.shape, reach)) * map.pixel_size
    mask = cosine_edge(distance - settings.radius, settings.edge)
    _tell(run, 1, f"{len(place)} atoms.")
    run.summarise(n_atoms=len(place), body_volume_A3=round(float((mask > 0.999).sum()) * map.pixel_size**3, 1))
    return {"mask": VolumeMap(mask.numpy(), map.pixel_size, map.origin)}


_OF_ONE: dict[str, Callable[[np.ndarray, ArithmeticSettings], np.ndarray]] = {
    "scale": lambda data, s: data * np.float32(s.factor) + np.float32(s.offset),
    "invert": lambda data, s: 1 - data,
    "threshold": lambda data, s: (data > s.level).astype(np.float32),
    "clip": lambda data, s: np.clip(data, 0, 1),
}
_OF_SEVERAL: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
    "add": lambda data: _sum(data),
    "subtract": lambda data: data[0] - _sum(data[1:]),
    "multiply": lambda data: _product(data),
    "divide": lambda data: _quotient(data[0], _product(data[1:])),
    "mean": lambda data: _sum(data) / len(data),
    "minimum": lambda data: np.min(data, axis=0),
    "maximum": lambda data: np.max(data, axis=0),
}


def _sum(data: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.sum(data, axis=0, dtype=np.float64))


def _product(data: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.prod(data, axis=0, dtype=np.float64))


def _quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(above.shape, np.float64), where=below != 0)


def _tensor(volume: VolumeMap) -> Tensor:
    return torch.from_numpy(np.array(volume.data, dtype=np.float32))


def _need_cube(volume: VolumeMap) -> None:
    if len(set(volume.data.shape)) != 1:
        raise InputError(f"map: expected a cube, got {volume.data.shape}; crop or pad it by `volume crop` first.")


def _placed(data: np.ndarray, pixel_size: float, source: VolumeMap) -> VolumeMap:
    """A resampled map whose centre voxel lies where that of its source does."""
    origin = tuple(
        o + (n // 2) * source.pixel_size - (m // 2) * pixel_size
        for o, n, m in zip(source.origin, source.data.shape[::-1], data.shape[::-1], strict=True)
    )
    return VolumeMap(data, pixel_size, origin)  # type: ignore[arg-type]


def _centre_voxel(volume: VolumeMap, text: str | None) -> list[int]:
    if text is None:
        return [n // 2 for n in volume.data.shape]
    if text.strip() == "mass":
        mask = find_mask(_tensor(volume), volume.pixel_size, lowpass_resolution=max(20.0, 4 * volume.pixel_size)).mask
        weight = np.clip(np.asarray(volume.data) * mask.numpy(), 0, None).astype(np.float64)
        lines = [weight.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
        return [round(float((line * np.arange(len(line))).sum() / max(line.sum(), 1e-30))) for line in lines]
    try:
        x, y, z = (int(word) for word in text.split(","))
    except ValueError as error:
        raise InputError(f"--centre: expected x,y,z in voxels or `mass`, got {text!r}.") from error
    return [z, y, x]


def _tell(run: Run, n_in: int, reason: str, verdict: str = "found") -> None:
    run.summarise(verdict=verdict, reasons=[reason], n_in=n_in, n_out=1)

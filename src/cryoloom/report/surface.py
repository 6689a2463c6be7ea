"""Rendered isosurfaces of maps: orthographic ray marching with soft light, on the CPU.

Rays step through the map until it exceeds the level, leaping over what a distance map knows to be empty; the crossing
is refined by bisection, and the surface is lit by a key, a fill and a rim light. Hollows are darkened by an
ambient-occlusion term from the blurred occupancy, which is what makes grooves and channels readable in a still picture.
"""

import numba
import numpy as np
import scipy.ndimage
import torch

from cryoloom.fourier import fourier_crop

RADIAL_COLOURS = ((0.17, 0.24, 0.47), (0.27, 0.50, 0.70), (0.66, 0.80, 0.84), (0.93, 0.87, 0.74))
"""From the centre of the particle to its rim."""


def view_rotations() -> list[tuple[str, np.ndarray]]:
    """Names and matrices (volume frame to camera frame; the camera looks along -z) of the standard views."""
    front = np.eye(3)
    side = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    top = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
    return [("front", front), ("side, turned 90° about y", side), ("top, turned 90° about x", top)]


def oblique_rotation(turn_deg: float = 35.0, tilt_deg: float = 25.0) -> np.ndarray:
    """A view from above and beside."""
    a, b = np.deg2rad([turn_deg, tilt_deg])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_x @ about_y


def suggest_level(volume: np.ndarray) -> float:
    """Grey level for a surface when none is given: 3 standard deviations of the solvent above its median."""
    box = min(volume.shape)
    axes = [np.arange(n) - n // 2 for n in volume.shape]
    radius = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)
    shell = volume[(radius > 0.42 * box) & (radius < 0.5 * box)]
    top = float(np.quantile(volume[radius < 0.42 * box], 0.995))
    solvent = float(np.median(shell)) if shell.size else 0.0
    spread = float(shell.std()) if shell.size else 0.0
    return float(np.clip(solvent + 3 * spread, solvent + 0.15 * (top - solvent), solvent + 0.7 * (top - solvent)))


def render_surface(
    volume: np.ndarray,
    level: float,
    rotation: np.ndarray,
    *,
    size: int = 420,
    oversample: int = 2,
    colour: np.ndarray | None = None,
) -> np.ndarray:
    """Picture of the surface of a map at a level.

    Parameters
    ----------
    volume
        Cube `(n, n, n)` zyx.
    level
        Grey level of the surface.
    rotation
        Volume frame to camera frame, `(3, 3)`; the camera looks along -z, y is up, x to the right.
    size
        Width and height in pixels.
    oversample
        Rays per pixel and axis.
    colour
        Colour of each voxel, `(n, n, n, 3)` in [0, 1]; by default from the distance to the centre.

    Returns
    -------
    picture
        `(size, size, 4)` uint8; transparent where no ray hits.
    """
    volume = np.ascontiguousarray(volume, dtype=np.float32)
    occupied = volume > level
    n = volume.shape[0]
    blur = scipy.ndimage.gaussian_filter(occupied.astype(np.float32), max(1.5, 0.03 * n), truncate=3)
    where = np.argwhere(occupied)
    centre = (np.array(volume.shape) - 1) / 2.0
    if len(where):
        centre = (where.min(0) + where.max(0)) / 2.0
        reach = float(np.sqrt(((where - centre) ** 2).sum(1).max())) + 2.0
    else:
        reach = n / 2.0
    pixels = size * oversample
    depth = np.full((pixels, pixels), np.nan, np.float32)
    normal = np.zeros((pixels, pixels, 3), np.float32)
    hit = np.zeros((pixels, pixels, 3), np.float32)
    clear = scipy.ndimage.distance_transform_cdt(~occupied, metric="chessboard").astype(np.int16)
    turn = np.ascontiguousarray(rotation, np.float64)
    _march(volume, clear, float(level), turn, centre, reach, depth, normal, hit)
    seen = np.isfinite(depth)
    picture = np.zeros((pixels, pixels, 4), np.float32)
    if seen.any():
        points = hit[seen]  # zyx
        facing = normal[seen]
        if colour is None:
            radius = np.linalg.norm(points - centre, axis=1) / reach
            inner, outer = np.quantile(radius, [0.02, 0.98])
            place = np.clip((radius - inner) / max(outer - inner, 0.15), 0, 1)
            stops = np.linspace(0, 1, len(RADIAL_COLOURS))
            albedo = np.stack([np.interp(place, stops, [c[i] for c in RADIAL_COLOURS]) for i in range(3)], axis=1)
        else:
            index = tuple(np.clip(np.rint(points).astype(int).T, 0, n - 1))
            albedo = colour[index]
        out = (points + 0.03 * n * (facing @ rotation)[:, ::-1]).T
        occlusion = scipy.ndimage.map_coordinates(blur, out, order=1, mode="nearest")
        picture[seen, :3] = _shade(albedo, facing, occlusion, depth[seen] / (2 * reach))
        picture[seen, 3] = 1.0
        picture[..., :3] *= picture[..., 3:]
    picture = picture.reshape(size, oversample, size, oversample, 4).mean((1, 3))
    alpha = picture[..., 3:]
    rgb = np.where(alpha > 0, picture[..., :3] / np.maximum(alpha, 1e-6), 1.0)
    return (np.clip(np.concatenate([rgb, alpha], axis=-1), 0, 1) * 255 + 0.5).astype(np.uint8)


def without_dust(volume: np.ndarray, level: float, smallest: float = 0.02) -> np.ndarray:
    """Lower connected pieces above the level that are smaller than this part of the largest to just below it."""
    labels, n = scipy.ndimage.label(volume > level)
    if n <= 1:
        return volume
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    dust = (sizes < smallest * sizes.max())[labels] & (labels > 0)
    return np.where(dust, np.float32(level) - 1e-3 * abs(level), volume).astype(np.float32)


def smooth_for_surface(volume: np.ndarray, smallest: int = 96) -> np.ndarray:
    """Resample a small map finely enough for a smooth surface (Fourier interpolation)."""
    n = volume.shape[0]
    if len(set(volume.shape)) != 1 or n >= smallest:
        return np.asarray(volume, dtype=np.float32)
    factor = int(np.ceil(smallest / n))
    return fourier_crop(torch.from_numpy(np.asarray(volume, dtype=np.float32)), (n * factor,) * 3).numpy()


def _shade(albedo: np.ndarray, normal: np.ndarray, occlusion: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Colours of lit points; `normal` in the camera frame, `depth` from 0 (near) to 1 (far)."""

    def unit(v: list[float]) -> np.ndarray:
        return np.array(v) / np.linalg.norm(v)

    key, fill, sight = unit([-0.45, 0.65, 0.75]), unit([0.8, -0.15, 0.5]), np.array([0.0, 0.0, 1.0])
    lit = 0.62 * np.clip(normal @ key, 0, 1) + 0.20 * np.clip(normal @ fill, 0, 1) + 0.30
    half = unit(list(key + sight))
    gloss = 0.16 * np.clip(normal @ half, 0, 1) ** 28
    ambient = np.clip(1.30 - 1.05 * occlusion, 0.32, 1.0)
    rim = 0.10 * (1 - np.clip(normal @ sight, 0, 1)) ** 3
    fog = np.clip(1.05 - 0.30 * depth, 0.7, 1.0)
    colour = albedo * (lit * ambient * fog)[:, None] * 1.12 + (gloss * ambient + rim)[:, None]
    return np.clip(colour, 0, 1) ** (1 / 1.15)


@numba.njit(nogil=True, cache=True, fastmath=True)
def _value(volume: np.ndarray, z: float, y: float, x: float) -> float:
    """Trilinear value; outside of the box a very low one."""
    d, h, w = volume.shape
    if z < 0 or y < 0 or x < 0 or z >= d - 1 or y >= h - 1 or x >= w - 1:
        return -1e30
    iz, iy, ix = int(z), int(y), int(x)
    fz, fy, fx = z - iz, y - iy, x - ix
    a = volume[iz, iy, ix] * (1 - fx) + volume[iz, iy, ix + 1] * fx
    b = volume[iz, iy + 1, ix] * (1 - fx) + volume[iz, iy + 1, ix + 1] * fx
    c = volume[iz + 1, iy, ix] * (1 - fx) + volume[iz + 1, iy, ix + 1] * fx
    e = volume[iz + 1, iy + 1, ix] * (1 - fx) + volume[iz + 1, iy + 1, ix + 1] * fx
    return (a * (1 - fy) + b * fy) * (1 - fz) + (c * (1 - fy) + e * fy) * fz


@numba.njit(nogil=True, cache=True, fastmath=True)
def _above(value: float, lowest: float) -> float:
    """The value, but not below `lowest`: outside of the box there is no gradient to follow."""
    return value if value > lowest else lowest


@numba.njit(nogil=True, cache=True, fastmath=True)
def _march(
    volume: np.ndarray,
    clear: np.ndarray,
    level: float,
    rotation: np.ndarray,
    centre: np.ndarray,
    reach: float,
    depth: np.ndarray,
    normal: np.ndarray,
    hit: np.ndarray,
) -> None:
    """Fill depth, normal (camera frame) and hit point (zyx voxels) of each pixel; untouched where nothing is hit.

    `clear` is the chessboard distance of each voxel to the nearest one above the level. A point whose lower corner is
    at distance `c` can move by `c - 2` voxels before a corner of its cell can be one of those.
    """
    pixels = depth.shape[0]
    d, h, w = volume.shape
    step = 0.8
    for row in range(pixels):
        for column in range(pixels):
            u = (2 * (column + 0.5) / pixels - 1) * reach
            v = (1 - 2 * (row + 0.5) / pixels) * reach
            inside = reach * reach - u * u - v * v
            if inside <= 0:
                continue
            start = np.sqrt(inside)
            i, t = 0, start
            # Camera point (u, v, t) in the volume frame: transpose of the rotation.
            while t > -start:
                x = rotation[0, 0] * u + rotation[1, 0] * v + rotation[2, 0] * t + centre[2]
                y = rotation[0, 1] * u + rotation[1, 1] * v + rotation[2, 1] * t + centre[1]
                z = rotation[0, 2] * u + rotation[1, 2] * v + rotation[2, 2] * t + centre[0]
                if _value(volume, z, y, x) > level:
                    low, high = t, t + step
                    for _ in range(7):
                        middle = 0.5 * (low + high)
                        x = rotation[0, 0] * u + rotation[1, 0] * v + rotation[2, 0] * middle + centre[2]
                        y = rotation[0, 1] * u + rotation[1, 1] * v + rotation[2, 1] * middle + centre[1]
                        z = rotation[0, 2] * u + rotation[1, 2] * v + rotation[2, 2] * middle + centre[0]
                        if _value(volume, z, y, x) > level:
                            low = middle
                        else:
                            high = middle
                    gx = _above(_value(volume, z, y, x + 1), level - 1.0) - _above(
                        _value(volume, z, y, x - 1), level - 1.0
                    )
                    gy = _above(_value(volume, z, y + 1, x), level - 1.0) - _above(
                        _value(volume, z, y - 1, x), level - 1.0
                    )
                    gz = _above(_value(volume, z + 1, y, x), level - 1.0) - _above(
                        _value(volume, z - 1, y, x), level - 1.0
                    )
                    length = np.sqrt(gx * gx + gy * gy + gz * gz) + 1e-20
                    gx, gy, gz = -gx / length, -gy / length, -gz / length
                    for axis in range(3):
                        normal[row, column, axis] = (
                            rotation[axis, 0] * gx + rotation[axis, 1] * gy + rotation[axis, 2] * gz
                        )
                    depth[row, column] = reach - low
                    hit[row, column, 0], hit[row, column, 1], hit[row, column, 2] = z, y, x
                    break
                i += 1
                if z >= 0 and y >= 0 and x >= 0 and z < d and y < h and x < w:
                    i += max(0, int((clear[int(z), int(y), int(x)] - 2) / step))
                t = start - i * step

"""References of the user or of the project: class averages or a map, made ready for the search.

Averages may have either contrast; they are brought to bright particles by comparing the inside with the outside.
A map is projected in directions that cover half the sphere.
"""

from pathlib import Path

import numpy as np
import torch

from cryoloom.contract import InputError
from cryoloom.em.extent import particle_extent
from cryoloom.fourier import dft_to_image
from cryoloom.fourier.slices import extract_slices, prepare_volume
from cryoloom.geometry.directions import direction_grid, grid_rotations
from cryoloom.io.mrc import read_mrc
from cryoloom.picking.bank import References

MOST_REFERENCES = 40


def load_references(path: Path, *, pixel_size: float | None, contrast: str) -> References:
    """Read a stack of averages (or a map) as bright references with a background of 0.

    Parameters
    ----------
    path
        MRC file: `.mrcs` a stack, `.mrc` with as many sections as rows a map.
    pixel_size
        Å per pixel, or None for that of the header.
    contrast
        `bright`, `dark`, or `auto`.

    Raises
    ------
    InputError
        If the file holds nothing that can be a reference.
    """
    array, header = read_mrc(path)
    array = np.asarray(array, dtype=np.float32)
    array = array[None] if array.ndim == 2 else array
    size = pixel_size or header.pixel_size
    if not size or size <= 0:
        raise InputError(f"{path}: the header gives no pixel size; add --reference-pixel-size (Å per pixel).")
    is_map = Path(path).suffix.lower() != ".mrcs" and array.shape[0] == array.shape[1] == array.shape[2]
    images = _project(array) if is_map else array
    images = images[np.isfinite(images).all((1, 2)) & (images.std((1, 2)) > 0)]
    if not len(images):
        raise InputError(f"{path}: no image in it can be a reference; all are empty.")
    images = images - _border_mean(images)[:, None, None]
    if contrast == "dark" or (contrast == "auto" and _inner_mean(images).sum() < 0):
        images = -images
    if len(images) > MOST_REFERENCES and not is_map:
        images = images[np.linspace(0, len(images) - 1, MOST_REFERENCES).astype(int)]
    return References(images / images.std(axis=(1, 2), keepdims=True), float(size))


def reference_diameter(references: References) -> float:
    """Diameter in Å of the circle that holds the references, long views too.

    Where no reference shows a connected particle, or they are not square, the circle that holds nine tenths of the
    positive density of all of them together.
    """
    n, h, w = references.images.shape
    extent = particle_extent(references.images, np.ones(n), references.pixel_size) if h == w else None
    if extent is not None:
        return extent
    mean = np.clip(references.images, 0, None).mean(0)
    mean = np.clip(mean - np.median(mean), 0, None)
    radius = np.hypot(np.arange(h)[:, None] - h // 2, np.arange(w)[None, :] - w // 2)
    order = np.argsort(radius, axis=None)
    total = np.cumsum(mean.reshape(-1)[order])
    inside = int(np.searchsorted(total, 0.9 * total[-1]))
    return 2 * float(radius.reshape(-1)[order][min(inside, len(order) - 1)]) * references.pixel_size


def _border_mean(images: np.ndarray) -> np.ndarray:
    return images[:, _radius(images) > 0.9].mean(1)


def _inner_mean(images: np.ndarray) -> np.ndarray:
    return images[:, _radius(images) < 0.35].mean(1)


def _radius(images: np.ndarray) -> np.ndarray:
    h, w = images.shape[1:]
    y, x = (np.arange(h) - h // 2) / (h / 2), (np.arange(w) - w // 2) / (w / 2)
    return np.hypot(y[:, None], x[None, :])


def _project(volume: np.ndarray) -> np.ndarray:
    """Projections of a map in directions about 15° apart, over the half sphere."""
    directions = direction_grid(4)
    directions = directions[directions[:, 2] >= -1e-9]
    n = volume.shape[0]
    spectrum = prepare_volume(torch.from_numpy(volume))
    slices = extract_slices(spectrum, grid_rotations(directions).float(), (n, n))
    return dft_to_image(slices, (n, n)).numpy()

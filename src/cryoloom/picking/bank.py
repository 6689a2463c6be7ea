"""A bank of turned templates in a compressed form.

Templates turned to all angles are alike, so the bank is replaced by a few orthogonal components (truncated
singular value decomposition): a micrograph is correlated with each component by FFT, and the correlation with every
turned template is a weighted sum of those maps at each pixel; see `bank_match`.
"""

import math
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from scipy.ndimage import affine_transform
from torch import Tensor


@dataclass(frozen=True)
class References:
    """Images to look for.

    Attributes
    ----------
    images
        `(n, h, w)` float32, bright, masked, mean 0 around the particle.
    pixel_size
        Å per pixel.
    """

    images: np.ndarray
    pixel_size: float


@dataclass(frozen=True)
class Bank:
    """Compressed bank.

    Attributes
    ----------
    components
        `(k, m, m)`, centre at `m // 2`.
    coefficients
        `(j, k)`.
    psi, class_number
        Angle (radians) and reference (from 1) of each template, `(j,)`.
    """

    components: Tensor
    coefficients: Tensor
    psi: Tensor
    class_number: Tensor


def build_bank(
    references: References, pixel_size: float, diameter: float, angle_step: float, *, energy: float = 0.995
) -> Bank:
    """Turn all references and compress the result.

    Parameters
    ----------
    references
        What to look for.
    pixel_size
        Å per pixel of the images that will be searched.
    diameter
        Å; templates are cut to 1.1 of it.
    angle_step
        Radians between turns.
    energy
        Fraction of the sum of squares that the components keep.
    """
    half = math.ceil(0.6 * diameter / pixel_size)
    size = 2 * half + 1
    n_psi = max(1, round(2 * math.pi / angle_step))
    angles = np.arange(n_psi) * (2 * math.pi / n_psi)
    axis = np.arange(size) - half
    radius = np.hypot(axis[:, None], axis[None, :]) * pixel_size
    edge = np.clip((0.6 * diameter - radius) / (0.1 * diameter), 0, 1)
    mask = 0.5 - 0.5 * np.cos(np.pi * edge)
    templates = np.empty((len(references.images), n_psi, size, size), dtype=np.float32)
    for i, image in enumerate(references.images):
        smooth = _lowpass(image, references.pixel_size / pixel_size)
        for j, angle in enumerate(angles):
            turned = turn(smooth, angle, size, pixel_size / references.pixel_size) * mask
            templates[i, j] = turned - mask * (turned.sum() / mask.sum())
        templates[i] /= np.sqrt((templates[i] ** 2).sum((1, 2)).mean()) + 1e-12
    flat = torch.from_numpy(templates.reshape(len(references.images) * n_psi, -1))
    gram = (flat.T if len(flat) > flat.shape[1] else flat).double()
    values, vectors = torch.linalg.eigh(gram @ gram.T)
    order = torch.argsort(values, descending=True)
    kept = int((values[order].cumsum(0) < energy * values.sum()).sum()) + 1
    order = order[:kept]
    basis = vectors[:, order].T.float()  # (k, pixels) or (k, templates)
    if len(flat) <= flat.shape[1]:
        basis = torch.linalg.qr((basis @ flat).T).Q.T
    return Bank(
        components=basis.reshape(-1, size, size).contiguous(),
        coefficients=(flat @ basis.T).contiguous(),
        psi=torch.from_numpy(np.tile(angles, len(references.images))).float(),
        class_number=torch.arange(1, len(references.images) + 1).repeat_interleave(n_psi),
    )


class BankMaker:
    """Makes the bank of templates for a pixel size, once for each; any thread may call it.

    Parameters
    ----------
    references, diameter, angle_step
        As for `build_bank`.
    """

    def __init__(self, references: References, diameter: float, angle_step: float) -> None:
        self._arguments = (references, diameter, angle_step)
        self._banks: dict[float, Bank] = {}
        self._lock = Lock()

    def __call__(self, pixel_size: float) -> Bank:
        """The bank for images of `pixel_size` Å per pixel."""
        references, diameter, angle_step = self._arguments
        key = round(pixel_size, 3)
        with self._lock:
            if key not in self._banks:
                self._banks[key] = build_bank(references, key, diameter, angle_step)
            return self._banks[key]


def turn(image: np.ndarray, angle: float, size: int, step: float) -> np.ndarray:
    """Turn an image by `angle` (as `Rz(angle)` on xy vectors), sampled every `step` pixels, `(size, size)`."""
    cos, sin = math.cos(angle), math.sin(angle)
    # the value at p comes from Rz(-angle) p; in yx order that is [[cos, -sin], [sin, cos]]
    matrix = np.asarray([[cos, -sin], [sin, cos]]) * step
    centre = np.asarray(image.shape) // 2
    offset = centre - matrix @ np.asarray([size // 2, size // 2])
    return affine_transform(image, matrix, offset=offset, output_shape=(size, size), order=3, mode="constant")


def _lowpass(image: np.ndarray, ratio: float) -> np.ndarray:
    """Remove what a grid coarser by `1 / ratio` cannot hold."""
    if ratio >= 1:
        return image
    dft = np.fft.rfft2(image)
    radius = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None, :])
    edge = np.clip((0.5 * ratio - radius) / (0.1 * ratio), 0, 1)
    return np.fft.irfft2(dft * (0.5 - 0.5 * np.cos(np.pi * edge)), s=image.shape)

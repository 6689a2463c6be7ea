"""A bank of turned templates in a compressed form.

Templates turned to all angles are alike. Over the turns of one reference each pixel is a sum of waves, and the images
that belong to one wave are alike for all references: a few of them, orthogonal, stand for all (steerable filters:
Freeman and Adelson 1991, doi:10.1109/34.93808; principal components for all turns: Zhao, Singer 2013,
doi:10.1364/JOSAA.30.000871, here by a truncated singular value decomposition of each wave on the grid of the images,
so that nothing is assumed of how a grid turns). A micrograph is correlated with these components only. At each pixel,
each reference has few sums of them per wave, and the waves of a reference give the scores of all its turns; see
`bank_scores`.
"""

import math
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from scipy.ndimage import affine_transform
from torch import Tensor

_ALIKE = 0.98
"""Correlation of two references, one of them turned, from which on they are one: a fiftieth of a score is lost."""


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
        `(k, m, m)`, centre at `m // 2`; real and imaginary parts of those of one wave after the other.
    waves
        What the references are made of, one per kept wave, in the order of the components.
    coefficients
        Of each template in the components, `(j, k)`, all turns of the first reference first.
    psi, class_number
        Angle (radians) and reference (from 1) of each template, `(j,)`.
    """

    components: Tensor
    waves: "tuple[Wave, ...]"
    coefficients: Tensor
    psi: Tensor
    class_number: Tensor

    @property
    def n_turns(self) -> int:
        """Turns of each reference."""
        return len(self.psi) // len(self.class_number.unique())


@dataclass(frozen=True)
class Wave:
    """One wave over the turns.

    A template at turn `j` of `n` is the sum over its waves of `share * Re(exp(2 pi i order j / n) mix @ images)`,
    where `images` are the complex components of the wave.

    Attributes
    ----------
    order
        Periods in a whole turn.
    share
        1 or 2, over the number of turns.
    mix
        Complex, `(n_references, q)`.
    """

    order: int
    share: float
    mix: np.ndarray

    @property
    def is_real(self) -> bool:
        """Whether mix and images have no imaginary part."""
        return not np.iscomplexobj(self.mix)

    @property
    def n_components(self) -> int:
        """Real components of the wave."""
        return self.mix.shape[1] * (1 if self.is_real else 2)

    def sums(self) -> np.ndarray:
        """What makes real and imaginary part of `mix @ images` from the real components, `(r, n_references, r q)`."""
        if self.is_real:
            return np.asarray(self.mix[None])
        a, b = self.mix.real, self.mix.imag
        return np.stack([np.concatenate([a, -b], 1), np.concatenate([b, a], 1)])

    def turns(self, n: int) -> np.ndarray:
        """Part of real and imaginary part of `mix @ images` in each of `n` turns, `(n, r)`."""
        phase = 2 * np.pi * self.order * np.arange(n) / n
        parts = [np.cos(phase)] if self.is_real else [np.cos(phase), -np.sin(phase)]
        return self.share * np.stack(parts, 1)


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
        Radians between turns. Of references that are the same but for a turn the first is taken.
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
    kept = different_views(templates)
    waves, components = _decompose(templates[kept].reshape(len(kept), n_psi, -1), energy)
    rows = [np.einsum("jr,rpk->pjk", wave.turns(n_psi), wave.sums()) for wave in waves]
    coefficients = np.concatenate(rows, axis=2).reshape(len(kept) * n_psi, -1)
    return Bank(
        components=torch.from_numpy(components.reshape(-1, size, size)).float(),
        waves=waves,
        coefficients=torch.from_numpy(coefficients).float(),
        psi=torch.from_numpy(np.tile(angles, len(kept))).float(),
        class_number=torch.from_numpy(kept + 1).repeat_interleave(n_psi),
    )


def different_views(templates: np.ndarray) -> np.ndarray:
    """References that are not those before them, turned: views of a symmetric particle repeat, `(q,)` rising.

    Parameters
    ----------
    templates
        All references in all turns, `(p, n, h, w)`; turns of one reference are of about the same strength.
    """
    flat = templates.reshape(*templates.shape[:2], -1)
    unit = flat / (np.linalg.norm(flat, axis=2, keepdims=True) + 1e-12)
    alike = np.tensordot(unit[:, 0], unit, axes=(1, 2)).max(2)  # (p, p), the best over the turns
    kept: list[int] = []
    for i in range(len(alike)):
        if not kept or alike[i, kept].max() < _ALIKE:
            kept.append(i)
    return np.asarray(kept)


def _decompose(templates: np.ndarray, energy: float) -> tuple[tuple[Wave, ...], np.ndarray]:
    """Waves over the turns of templates `(p, n, pixels)`, and their real components `(k, pixels)`.

    Of all components of all waves those with the largest energy are kept.
    """
    n = templates.shape[1]
    over_turns = np.fft.rfft(templates.astype(np.float64), axis=1)
    parts = []
    for order in range(n // 2 + 1):
        real = order == 0 or 2 * order == n
        images = over_turns[:, order].real if real else over_turns[:, order]
        u, strength, v = np.linalg.svd(images, full_matrices=False)
        parts.append((order, (1 if real else 2) / n, u * strength, v, strength**2 * (1 if real else 2) / n))
    power = np.sort(np.concatenate([part[-1] for part in parts]))[::-1]
    least = power[min(int((np.cumsum(power) < energy * power.sum()).sum()), len(power) - 1)]
    waves, components = [], []
    for order, share, mix, images, own in parts:
        q = int((own >= least).sum())
        if q:
            waves.append(Wave(order, share, mix[:, :q]))
            components += [images[:q].real] if waves[-1].is_real else [images[:q].real, images[:q].imag]
    return tuple(waves), np.concatenate(components)


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

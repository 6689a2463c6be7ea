"""The part of each half's map that is subtracted, and where what is kept sits in every image.

Images `X = s C (V_in + V_out) + n` lose `g s C V_out` at their own pose (Bai et al. 2015, doi:10.7554/eLife.11182),
`V_out` the map of the particle's own half outside the mask, weighted per shell by the FSC of the halves so that little
of its noise goes in, and `g` one factor for all particles that brings the map to the grey scale of the images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.halves import ball_mask, prepare_references
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import estimate_image_power
from cryoloom.em.poses import PoseTable
from cryoloom.em.products import slice_products
from cryoloom.fourier import dft_to_image, shift_dft
from cryoloom.fourier.slices import PaddedSpectrum, extract_slices
from cryoloom.maps.filter import weight_shells
from cryoloom.maps.fsc import fourier_shell_correlation


@dataclass(frozen=True)
class Outside:
    """What is subtracted.

    Attributes
    ----------
    spectra
        Of the part outside the mask, one per half, in the grey scale of the images.
    inside
        What is kept: mean of the halves inside the mask, in that grey scale, `(box, box, box)`.
    gain
        Factor from maps to images.
    """

    spectra: list[PaddedSpectrum]
    inside: Tensor
    gain: float


def outside_of(
    source: ImageSource, halves: tuple[Tensor, Tensor], mask: Tensor, poses: PoseTable, executor: Executor
) -> Outside:
    """Weight, scale and cut the maps.

    Parameters
    ----------
    halves, mask
        Over the field of the images, in their box.
    """
    ball = ball_mask(source.box, source.pixel_size, source.mask_diameter)
    fsc = fourier_shell_correlation(halves[0] * ball, halves[1] * ball)
    falls = int(np.argmax((fsc.numpy() < 0.143) & (np.arange(len(fsc)) > 2)))
    weight = fsc.clamp(0.0, 1.0)
    if falls:
        weight[falls:] = 0.0
    radius = source.points.radius if not falls else min(falls + 1, source.points.radius)
    smooth = [weight_shells(h * ball, weight) for h in halves]
    rows = np.linspace(0, len(source) - 1, min(len(source), 1000)).astype(np.int64)
    rows = np.unique(rows)
    whole = prepare_references(smooth, executor, radius)
    noise = estimate_image_power(source, executor, rows)
    cross, gram = slice_products(
        source, [[w] for w in whole], poses.half[rows] - 1, rows, poses.rotation[rows], poses.shift_px[rows], noise,
        executor, radius=radius,
    )  # fmt: skip
    scale = poses.scale[rows]
    gain = float((scale * cross[:, 0]).sum() / max((scale**2 * gram[:, 0, 0]).sum(), 1e-30))
    outside = prepare_references([gain * v * (1.0 - mask) for v in smooth], executor, radius)
    return Outside(outside, 0.5 * gain * (smooth[0] + smooth[1]) * mask, gain)


def subtracted_images(source: ImageSource, outside: Outside, poses: PoseTable, rows: np.ndarray) -> np.ndarray:
    """Normalised images of rows without what lies outside the mask, `(n, box, box)` float32."""
    box = source.box
    images = torch.from_numpy(source.images(rows))
    ky = torch.fft.fftfreq(box) * box
    kx = torch.arange(box // 2 + 1, dtype=torch.float32)
    for h in (1, 2):
        mine = np.flatnonzero(poses.half[rows] == h)
        if not len(mine):
            continue
        some = rows[mine]
        slices = extract_slices(outside.spectra[h - 1], torch.from_numpy(poses.rotation[some]), (box, box))
        y, x = torch.meshgrid(ky, kx, indexing="ij")
        ctf = torch.from_numpy(source.ctf_at(some, x.reshape(-1), y.reshape(-1))).reshape(len(some), box, -1)
        slices = slices * ctf * torch.from_numpy(poses.scale[some].astype(np.float32))[:, None, None]
        shift = torch.from_numpy(poses.shift_px[some].astype(np.float32))
        images[mine] -= dft_to_image(shift_dft(slices, shift, (box, box)), (box, box))
    return images.numpy()


def window(images: np.ndarray, centre_px: np.ndarray, box: int) -> np.ndarray:
    """Windows of `box` pixels about whole-pixel centres `(n, 2)` yx, counted from the middle; 0 beyond the images."""
    n, old = len(images), images.shape[-1]
    out = np.zeros((n, box, box), np.float32)
    for i in range(n):
        start = old // 2 + centre_px[i] - box // 2
        low = np.maximum(start, 0)
        high = np.minimum(start + box, old)
        if (high <= low).any():
            continue
        to = low - start
        size = high - low
        out[i, to[0] : to[0] + size[0], to[1] : to[1] + size[1]] = images[i, low[0] : high[0], low[1] : high[1]]
    return out

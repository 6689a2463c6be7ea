"""Whether particles are dark or bright on micrographs, from the places where they are said to be."""

import numpy as np
import torch
from torch import Tensor

from cryoloom.extraction.cut import cut_boxes
from cryoloom.fourier import rfftn, shell_mean, spread_shells


def contrast_evidence(image: Tensor, position: np.ndarray, diameter_px: float) -> np.ndarray:
    """For each particle the mean in the inner circle minus that of the ring around the particle.

    The image is whitened first, so that each particle counts with the noise of a white background, and the result
    is in standard deviations of that noise: negative for dark particles.

    Parameters
    ----------
    image
        Micrograph, `(h, w)`.
    position
        Pixels yx, `(n, 2)`.
    diameter_px
        Diameter of the particle in pixels.

    Returns
    -------
    contrast
        `(n,)`.
    """
    step = max(1, int(diameter_px / 24))
    coarse = torch.nn.functional.avg_pool2d((image - image.mean())[None, None], step)[0, 0]
    dft = rfftn(coarse, 2)
    shape = (int(coarse.shape[0]), int(coarse.shape[1]))
    power = shell_mean(dft.abs() ** 2, shape)
    weight = spread_shells(power.clamp_min(1e-4 * float(power.max())) ** -0.25, shape).float()
    coarse = torch.fft.irfft2(dft * weight, s=shape)
    d = diameter_px / step
    box = 2 * int(np.ceil(0.8 * d)) + 2
    boxes = cut_boxes(coarse, np.rint((position + 0.5) / step - 0.5).astype(np.int64), box)
    axis = torch.arange(box) - box // 2
    radius = (axis[:, None] ** 2 + axis[None, :] ** 2).float().sqrt().to(image.device)
    inner, ring = radius < 0.35 * d, (radius > 0.55 * d) & (radius < 0.75 * d)
    contrast = boxes[:, inner].mean(1) - boxes[:, ring].mean(1)
    noise = 1.4826 * coarse.abs().median().clamp_min(1e-12)
    return (contrast / noise).cpu().numpy()

"""A small classification bed: a few clearly different views, turned and shifted, with junk."""

import math

import numpy as np
import torch

from cryoloom.data import Optics, ParticleSet
from cryoloom.fourier import dft_to_image, image_to_dft, shift_dft
from cryoloom.optics import ctf

BOX, PIXEL_SIZE = 40, 4.0


def view_images(n_views, seed=0, box=BOX, extent=6.5):
    """Random blobs inside a circle, `(n_views, box, box)`; every view is another arrangement."""
    generator = torch.Generator().manual_seed(seed)
    axis = (torch.arange(box) - box // 2).float()
    out = torch.zeros(n_views, box, box)
    for v in range(n_views):
        for _ in range(14):
            radius = extent * float(torch.rand(1, generator=generator)) ** 0.5
            turn = 2 * math.pi * float(torch.rand(1, generator=generator))
            y, x = radius * math.sin(turn), radius * math.cos(turn)
            width = 1.0 + 0.6 * float(torch.rand(1, generator=generator))
            out[v] += torch.exp(-((axis[:, None] - y) ** 2 + (axis - x) ** 2) / (2 * width**2))
    return out


def particles(n, n_views, snr=0.3, seed=0, junk=0.0, weights=None, reach_px=2.0):
    """Images, their `ParticleSet`, the view of each (-1 junk), psi and shift of truth."""
    generator = torch.Generator().manual_seed(seed + 1)
    rng = np.random.default_rng(seed)
    view = rng.choice(n_views, n, p=weights)
    view[rng.random(n) < junk] = -1
    views = view_images(n_views)
    psi = torch.rand(n, generator=generator) * 2 * math.pi
    shift = (torch.rand(n, 2, generator=generator) * 2 - 1) * reach_px
    clean = _turn(views[torch.from_numpy(np.clip(view, 0, None))], psi)
    clean[torch.from_numpy(view < 0)] = 0.0
    defocus = 12_000 + 10_000 * torch.rand(n, generator=generator)
    ky = torch.fft.fftfreq(BOX, PIXEL_SIZE)[:, None]
    kx = torch.fft.rfftfreq(BOX, PIXEL_SIZE)
    value = ctf(
        ky, kx, defocus_u=defocus, defocus_v=defocus - 300, defocus_angle=0.5, voltage_kv=300.0, cs_mm=2.7,
        amplitude_contrast=0.1,
    )  # fmt: skip
    images = dft_to_image(shift_dft(image_to_dft(clean) * value, shift, (BOX, BOX)), (BOX, BOX))
    axis = torch.arange(BOX) - BOX // 2
    circle = torch.hypot(axis[:, None].float(), axis.float()) < 9
    real = torch.from_numpy(view >= 0)
    images *= math.sqrt(snr / float(images[real][:, circle].var(1).mean()))
    images += torch.randn(images.shape, generator=generator)
    optics = Optics(pixel_size=PIXEL_SIZE, box=BOX)
    record = ParticleSet(
        image_path=np.full(n, "memory.mrcs"), image_index=np.arange(n), optics=(optics,),
        optics_index=np.zeros(n, np.int64), defocus_u=defocus.double().numpy(),
        defocus_v=defocus.double().numpy() - 300, defocus_angle=np.full(n, 0.5),
    )  # fmt: skip
    return images.numpy(), record, view, psi.numpy(), shift.numpy()


def _turn(images, psi):
    """Images whose content is turned by `Rz(psi)` (x towards y)."""
    c, s = psi.cos(), psi.sin()
    zero = torch.zeros_like(c)
    # grid_sample maps output xy to input xy: content turns by psi if the grid turns by -psi
    matrix = torch.stack([torch.stack([c, s, zero], -1), torch.stack([-s, c, zero], -1)], 1)
    n = images.shape[-1]
    # centre pixel n // 2 at the origin of the grid
    centre = (n // 2 - (n - 1) / 2) * 2 / n
    matrix[:, 0, 2] = centre - c * centre - s * centre
    matrix[:, 1, 2] = centre + s * centre - c * centre
    grid = torch.nn.functional.affine_grid(matrix, [len(images), 1, n, n], align_corners=False)
    return torch.nn.functional.grid_sample(images[:, None], grid, mode="bicubic", align_corners=False)[:, 0]


class Memory:
    """Images in memory with the face of a stack."""

    def __init__(self, images):
        self.images = images

    def read(self, rows):
        return self.images[rows]

"""Images of the starts: a random sample of particles, small, centred on their round average.

All starts use the same few thousand images at low resolution, so these are kept in memory as transforms in a
small box over the same field; the number of particles in the set does not matter.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.images import ImageSource
from cryoloom.em.rings import RingPlan
from cryoloom.fourier import (
    crop_dft,
    dft_to_image,
    good_size,
    image_to_dft,
    irfftn,
    shell_index,
    shell_mean,
    spread_shells,
)
from cryoloom.fourier.polar import PointSampler


@dataclass(frozen=True)
class SmallImages:
    """Particle images in a small box over the same field.

    Attributes
    ----------
    rows
        Rows of the particle set, `(n,)`.
    dft
        Transforms with the phase origin at the centre, `(n, m, m // 2 + 1)` complex64; values are those of
        the full images.
    ctf
        CTF of each, `(n, m, m // 2 + 1)`.
    noise_power
        Power of the images per shell, `(n, m // 2 + 1)`: the mean over the particles of a noise group.
    box
        Side `m` in small pixels.
    pixel_size
        Å per small pixel.
    """

    rows: np.ndarray
    dft: Tensor
    ctf: Tensor
    noise_power: Tensor
    box: int
    pixel_size: float

    def __len__(self) -> int:
        return len(self.dft)


def small_box(radius: int, full_box: int) -> int:
    """Side of the small box whose transforms reach `radius` Fourier pixels with room for slices."""
    return min(int(full_box), good_size(2 * (radius + 4)))


def load_small_images(source: ImageSource, rows: np.ndarray, radius: int, executor: Executor) -> SmallImages:
    """Read, normalise and crop the images of `rows` to the frequencies within `radius`."""
    box = small_box(radius, source.box)
    full = (source.box, source.box)
    ky = torch.fft.fftfreq(box, d=1 / box)[:, None].expand(box, box // 2 + 1).contiguous()
    kx = torch.fft.rfftfreq(box, d=1 / box).expand(box, box // 2 + 1).contiguous()

    def work(some: np.ndarray) -> tuple[Tensor, Tensor]:
        dft = image_to_dft(torch.from_numpy(source.images(some)))
        return crop_dft(dft, full, (box, box)), torch.from_numpy(source.ctf_at(some, kx, ky))

    chunks = [rows[i : i + source.chunk_size] for i in range(0, len(rows), source.chunk_size)]
    parts = list(executor.map(work, chunks))
    dft, ctf = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    power = shell_mean(dft.abs() ** 2, (box, box))
    group = torch.from_numpy(source.noise_group[rows])
    per_group = torch.ones(int(group.max()) + 1, power.shape[1], dtype=torch.float64)
    for g in group.unique():
        per_group[g] = power[group == g].mean(0)
    noise = per_group[group].clamp_min(1e-12).to(torch.float32)
    return SmallImages(rows, dft, ctf, noise, box, source.field / box)


def centre_on_round_average(images: SmallImages, reach: float, resolution: float, rounds: int = 4) -> Tensor:
    """Shifts that bring each particle to the round average of all, small pixels yx, `(n, 2)`.

    The model is the rotational average of the CTF-corrected mean image, found from the data alone and improved
    with the shifts over a few rounds.

    Parameters
    ----------
    reach
        Largest shift in Å.
    resolution
        Å to which images are compared.
    """
    shape = (images.box, images.box)
    n, c = len(images), images.box // 2
    last = int(images.box * images.pixel_size / resolution)
    inside = shell_index(shape) <= last
    weight = torch.where(inside, 1.0 / spread_shells(images.noise_power, shape, beyond=1.0), torch.zeros(()))
    window = max(1, min(int(reach / images.pixel_size), c - 2))
    shift = torch.zeros(n, 2)
    ky = torch.fft.fftfreq(images.box)[:, None]
    kx = torch.fft.rfftfreq(images.box)
    for _ in range(rounds):
        ramp = torch.polar(
            torch.ones(()),
            2 * torch.pi * (shift[:, 0, None, None] * ky + shift[:, 1, None, None] * kx),
        )
        numerator = (images.dft * ramp * images.ctf * weight).sum(0)
        denominator = (images.ctf**2 * weight).sum(0)
        average = numerator / (denominator + 0.05 * denominator[inside].mean())
        profile = shell_mean(average.real, shape).to(torch.float32)
        model = spread_shells(profile, shape)
        correlation = torch.fft.fftshift(irfftn(images.dft * images.ctf * model * weight, shape), dim=(-2, -1))
        shift = _peaks(correlation, c, window)
    return shift


def _peaks(correlation: Tensor, centre: int, window: int) -> Tensor:
    """Sub-pixel maxima within `window` pixels of the centre, yx, `(n, 2)`."""
    n, side = len(correlation), 2 * window + 1
    part = correlation[:, centre - window : centre + window + 1, centre - window : centre + window + 1]
    place = part.reshape(n, -1).argmax(1)
    y, x = place // side - window + centre, place % side - window + centre
    row = torch.arange(n)
    here = correlation[row, y, x]
    moved = []
    for dy, dx in ((1, 0), (0, 1)):
        after, before = correlation[row, y + dy, x + dx], correlation[row, y - dy, x - dx]
        curvature = (before - 2 * here + after).clamp_max(-1e-12)
        moved.append((0.5 * (before - after) / curvature).clamp(-0.5, 0.5))
    return torch.stack([y - centre + moved[0], x - centre + moved[1]], dim=1)


def sample_on_rings(
    images: SmallImages, source: ImageSource, plan: RingPlan, executor: Executor
) -> tuple[Tensor, Tensor]:
    """Images on the rings of a plan, weighted for a search.

    Returns
    -------
    weighted
        `C X / σ²` at the points of the plan, complex64 `(n, rings, half)`; not centred.
    inverse_variance
        `<C²> / σ²` on each ring, `(n, rings)`.
    """
    sampler = PointSampler(images.box, plan.points)
    shape = (images.box, images.box)
    kx, ky = plan.points.to(torch.float32).unbind(-1)
    inverse = 1.0 / images.noise_power[:, plan.radii.round().to(torch.int64)]

    def work(rows: Tensor) -> tuple[Tensor, Tensor]:
        samples = sampler(dft_to_image(images.dft[rows], shape)).reshape(len(rows), plan.n_rings, -1)
        ctf = torch.from_numpy(source.ctf_at(images.rows[rows.numpy()], kx.contiguous(), ky.contiguous()))
        ctf = ctf.reshape(samples.shape)
        return samples * (ctf * inverse[rows][..., None]), (ctf**2).mean(-1) * inverse[rows]

    blocks = [torch.arange(i, min(i + 100, len(images))) for i in range(0, len(images), 100)]
    parts = list(executor.map(work, blocks))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

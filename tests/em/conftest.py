"""Small simulated sets for the engine's tests: blobs, their slices, CTFs and noise, with known truth."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.data import Optics, ParticleSet
from cryoloom.em import ImageSource
from cryoloom.fourier import dft_to_image, frequency_grid, shift_dft
from cryoloom.fourier.slices import extract_slices, prepare_volume
from cryoloom.geometry import random_rotations, symmetry_matrices
from cryoloom.optics import ctf


class InMemory:
    """A reader of images that lie in memory."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]


@dataclass(frozen=True)
class SimulatedSet:
    """Images and everything that is true of them."""

    volume: torch.Tensor
    images: np.ndarray
    truth: ParticleSet
    noise_sigma: float
    symmetry: str
    pixel_size: float

    @property
    def box(self) -> int:
        return self.volume.shape[0]

    def source(self, **options) -> ImageSource:
        return ImageSource(InMemory(self.images), self.truth, 0.72 * self.box * self.pixel_size, **options)


def blobs(box, generator, n, symmetry="C1", radius=0.28, width=None):
    """Gaussian blobs inside a ball, symmetric, `(box, box, box)` float32."""
    width = 1.6 * box / 64 if width is None else width
    p = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    p = p / p.norm(dim=1, keepdim=True) * torch.rand(n, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    p = torch.einsum("sij,nj->sni", symmetry_matrices(symmetry), p * radius * box).reshape(-1, 3)
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    g = [torch.exp(-((axis[None] - p[:, i : i + 1]) ** 2) / (2 * width**2)) for i in range(3)]
    return torch.einsum("nz,ny,nx->zyx", g[2], g[1], g[0]).float()


def simulate(n, *, box=48, pixel_size=4.0, snr=0.1, symmetry="C1", seed=0, shift_px=2.0, scale_spread=0.0, n_blobs=40):
    generator = torch.Generator().manual_seed(seed)
    volume = blobs(box, generator, n_blobs, symmetry)
    rotation = random_rotations(n, generator)
    uniform = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    shift = (2 * uniform(n, 2) - 1) * shift_px
    scale = (1 + scale_spread * torch.randn(n, generator=generator, dtype=torch.float64)).clamp_min(0.3)
    defocus_u = 10_000 + 12_000 * uniform(n)
    defocus_v, angle = defocus_u - 400 * uniform(n), np.pi * uniform(n)
    grid = frequency_grid((box, box), pixel_size)
    optics = Optics(pixel_size=pixel_size, box=box)
    value = ctf(
        grid[..., 0], grid[..., 1], defocus_u=defocus_u, defocus_v=defocus_v, defocus_angle=angle,
        voltage_kv=optics.voltage_kv, cs_mm=optics.cs_mm, amplitude_contrast=optics.amplitude_contrast,
    )  # fmt: skip
    slices = extract_slices(prepare_volume(volume), rotation, (box, box)) * value * scale[:, None, None].float()
    clean = dft_to_image(shift_dft(slices, shift.float(), (box, box)), (box, box))
    sigma = float(clean.std()) / np.sqrt(snr)
    images = (clean + sigma * torch.randn(clean.shape, generator=generator)).numpy()
    truth = ParticleSet(
        image_path=np.array(["memory"] * n), image_index=np.arange(n), optics=(optics,),
        optics_index=np.zeros(n, np.int64), defocus_u=defocus_u.numpy(), defocus_v=defocus_v.numpy(),
        defocus_angle=angle.numpy(), rotation=rotation.numpy(), shift=shift.numpy() * pixel_size,
        half=np.arange(n) % 2 + 1, scale=scale.numpy(),
    )  # fmt: skip
    return SimulatedSet(volume, images, truth, sigma, symmetry, pixel_size)


@pytest.fixture(scope="session")
def simulated():
    """The simulator: `simulated(n, box=48, ...)`; equal arguments give one set."""
    made = {}

    def get(n, **options):
        key = (n, *sorted(options.items()))
        if key not in made:
            made[key] = simulate(n, **options)
        return made[key]

    return get


@pytest.fixture(autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def executor():
    return ThreadExecutor(2)

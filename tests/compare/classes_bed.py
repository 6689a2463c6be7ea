"""Sets of images of a few views of bed `c1`, made at the small box that they are classified at.

Images of 160 pixels of 1.5 Å that are cropped to 40 pixels of 6 Å hold the same as images made there: the projection,
the CTF and the noise in that band. The grey scale is that which gives the large image the SNR of the bed.
"""

import functools
import math
import sys
from pathlib import Path

import numpy as np
import torch

from cryoloom.data import Optics, ParticleSet
from cryoloom.fourier import dft_to_image, fourier_crop
from cryoloom.fourier.exact import exact_spectrum
from cryoloom.geometry import random_rotations, rotation_about_z
from cryoloom.simulate.beds import BEDS
from cryoloom.simulate.imaging import image_dfts
from cryoloom.simulate.noise import coloured_noise, ice_spectrum

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "class2d"))
from bed_views import specimen

BOX, PER_VIEW = 40, 75


@functools.cache
def _volumes():
    volume = torch.from_numpy(specimen("c1").states[0][0].data)
    return exact_spectrum(volume), exact_spectrum(fourier_crop(volume, (BOX,) * 3))


def _images(spectrum, box, rotation, record, shift, recipe):
    dft = image_dfts(
        [spectrum], rotation, optics=record.optics[0], box=box, defocus_u=torch.from_numpy(record.defocus_u),
        defocus_v=torch.from_numpy(record.defocus_v), defocus_angle=torch.from_numpy(record.defocus_angle),
        phase_shift=torch.zeros(len(rotation)), shift=shift, bfactor=recipe.bfactor,
    )  # fmt: skip
    return dft_to_image(dft, (box, box))


def _record(box, mean, astigmatism, angle):
    bed, recipe = BEDS["c1"], BEDS["c1"].recipe
    optics = Optics(pixel_size=bed.pixel_size * bed.box / box, voltage_kv=recipe.voltage_kv, cs_mm=recipe.cs_mm,
                    amplitude_contrast=recipe.amplitude_contrast, box=box)  # fmt: skip
    n = len(mean)
    return ParticleSet(
        image_path=np.full(n, "memory.mrcs"), image_index=np.arange(n), optics=(optics,),
        optics_index=np.zeros(n, np.int64), defocus_u=mean + astigmatism, defocus_v=mean - astigmatism,
        defocus_angle=angle,
    )  # fmt: skip


@functools.cache
def _gain():
    """Factor that gives images of the full size the SNR of the bed."""
    bed = BEDS["c1"]
    rotation = random_rotations(24, torch.Generator().manual_seed(5))
    mean = np.linspace(*bed.recipe.defocus, 24)
    record = _record(bed.box, mean, np.zeros(24), np.zeros(24))
    images = _images(_volumes()[0], bed.box, rotation, record, torch.zeros(24, 2), bed.recipe)
    axis = torch.arange(bed.box) - bed.box // 2
    circle = torch.hypot(axis[:, None].float(), axis.float()) <= 0.5 * specimen("c1").diameter / bed.pixel_size
    return math.sqrt(bed.recipe.snr / float(images[:, circle].double().var(1, correction=0).mean()))


def classes_case(seed):
    """Images `(n, BOX, BOX)`, what a pipeline knows of them, and the view of each from 0, `(n,)`."""
    bed, recipe = BEDS["c1"], BEDS["c1"].recipe
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    n_views = int(rng.integers(4, 7))
    n = PER_VIEW * n_views
    # no two views look alike: rare views take part as well
    view = rng.choice(n_views, n, p=rng.dirichlet(np.full(n_views, 20.0)))
    views = random_rotations(n_views, generator)
    psi = 2 * math.pi * torch.rand(n, generator=generator, dtype=torch.float64)
    rotation = views[torch.from_numpy(view)] @ rotation_about_z(psi)
    micrograph = np.arange(n) // 50
    mean = rng.uniform(*recipe.defocus, n)[micrograph]
    half = 0.5 * rng.uniform(0, recipe.astigmatism, n)[micrograph]
    angle = rng.uniform(0, math.pi, n)[micrograph]
    height = rng.uniform(-recipe.height, recipe.height, n)
    shift = (2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1) * recipe.shift
    grey = 1 + recipe.scale_spread * torch.randn(n, generator=generator)
    clean = _images(_volumes()[1], BOX, rotation, _record(BOX, mean + height, half, angle), shift, recipe)
    # cropping divides the variance of white noise by the ratio of the pixel counts
    large = ice_spectrum((bed.box, bed.box), bed.pixel_size, rise=recipe.rise, knee=recipe.knee)
    small = ice_spectrum((BOX, BOX), bed.pixel_size * bed.box / BOX, rise=recipe.rise, knee=recipe.knee)
    level = float(large[0, 0] / small[0, 0]) * (BOX / bed.box) ** 2
    # a projection sums voxels, of which the small volume has fewer along the beam
    images = _gain() * (bed.box / BOX) * grey[:, None, None] * clean + coloured_noise(
        n, (BOX, BOX), small * level, generator
    )
    return images.to(torch.float32).numpy(), _record(BOX, mean, half, angle), view

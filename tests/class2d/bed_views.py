"""Images of a named bed that show chosen views, cropped in Fourier space to a smaller box, with their truth."""

import functools
import math
import os
from pathlib import Path

import numpy as np
import torch

from cryoloom.data import Optics, ParticleSet
from cryoloom.fourier import dft_to_image
from cryoloom.fourier.exact import exact_spectrum, project_dft
from cryoloom.fourier.resize import fourier_crop
from cryoloom.geometry import grid_rotations, rotation_about_z
from cryoloom.simulate.beds import BEDS, bed_specimen
from cryoloom.simulate.imaging import image_dfts
from cryoloom.simulate.junk import junk_dfts
from cryoloom.simulate.noise import coloured_noise, ice_spectrum
from cryoloom.simulate.particles import KINDS


def has_models():
    """Whether the public models are at hand; a phantom of like size stands in where they are not."""
    return (Path(os.environ.get("CRYOLOOM_DATA", "/nowhere")) / "models").is_dir()


@functools.cache
def specimen(name):
    """Map of a bed."""
    return bed_specimen(name, phantom=not has_models())


def even_views(n):
    """Directions spread evenly over the whole sphere on a spiral, as rotations `(n, 3, 3)`."""
    z = 1 - (2 * torch.arange(n, dtype=torch.float64) + 1) / n
    turn = math.pi * (1 + 5**0.5) * torch.arange(n, dtype=torch.float64)
    r = (1 - z**2).sqrt()
    return grid_rotations(torch.stack([r * turn.cos(), r * turn.sin(), z], -1))


def view_images(name, view, views, *, box=64, seed=0, snr=None, kind=None):
    """Images of a bed: image `i` shows view `view[i]`, turned at random, or junk where `kind[i]` is not 0.

    Returns the images `(n, box, box)`, the `ParticleSet` that a pipeline may see, and the true in-plane turn and shift.
    """
    bed = BEDS[name]
    recipe, what, n = bed.recipe, specimen(name), len(view)
    snr = recipe.snr if snr is None else snr
    kind = np.zeros(n, np.int64) if kind is None else kind
    generator = torch.Generator().manual_seed(seed + 7)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    micrograph = np.arange(n) // 50
    mean = uniform(*recipe.defocus, n)[micrograph]
    half = 0.5 * uniform(0, recipe.astigmatism, n)[micrograph]
    angle = uniform(0, math.pi, n)[micrograph]
    height = uniform(-recipe.height, recipe.height, n)
    psi, shift = uniform(0, 2 * math.pi, n), uniform(-recipe.shift, recipe.shift, n, 2)
    scale = 1 + recipe.scale_spread * torch.randn(n, generator=generator, dtype=torch.float64)
    optics = Optics(pixel_size=bed.pixel_size, voltage_kv=recipe.voltage_kv, cs_mm=recipe.cs_mm,
                    amplitude_contrast=recipe.amplitude_contrast, box=bed.box)  # fmt: skip
    truth = ParticleSet(
        image_path=np.full(n, "memory.mrcs"), image_index=np.arange(n), optics=(optics,),
        optics_index=np.zeros(n, np.int64), micrograph=np.asarray([f"m{i:05d}.mrc" for i in micrograph]),
        defocus_u=(mean + half + height).numpy(), defocus_v=(mean - half + height).numpy(),
        defocus_angle=angle.numpy(),
    )  # fmt: skip
    rotation = views[torch.from_numpy(np.clip(view, 0, None))] @ rotation_about_z(psi)
    spectrum = [exact_spectrum(torch.from_numpy(what.states[0][0].data))]
    axis = torch.arange(bed.box) - bed.box // 2
    circle = torch.hypot(axis[:, None].float(), axis.float()) <= 0.5 * what.diameter / bed.pixel_size
    noise = ice_spectrum((bed.box, bed.box), bed.pixel_size, rise=recipe.rise, knee=recipe.knee)
    real = np.flatnonzero(kind == 0)

    def clean(rows, moved):
        at = torch.from_numpy(rows)
        dft = image_dfts(
            spectrum, rotation[at], optics=optics, box=bed.box, defocus_u=torch.from_numpy(truth.defocus_u[rows]),
            defocus_v=torch.from_numpy(truth.defocus_v[rows]), defocus_angle=angle[at],
            phase_shift=torch.zeros(len(rows)), shift=shift[at] * float(moved), bfactor=recipe.bfactor,
        )  # fmt: skip
        return dft_to_image(dft, (bed.box, bed.box))

    some = real[np.linspace(0, len(real) - 1, 64).astype(int)]
    gain = math.sqrt(snr / float(clean(some, False)[:, circle].double().var(1, correction=0).mean()))
    out = torch.empty(n, box, box)
    for start in range(0, n, 64):
        rows = np.arange(start, min(start + 64, n))
        images = coloured_noise(len(rows), (bed.box, bed.box), noise, generator)
        mine = np.flatnonzero(kind[rows] == 0)
        if len(mine):
            grey = gain * scale[torch.from_numpy(rows[mine])].float()
            images[mine] += clean(rows[mine], True) * grey[:, None, None]
        for i in np.flatnonzero(kind[rows] > 1):
            dft = junk_dfts(KINDS[kind[rows[i]]], truth.select(rows[i : i + 1]), bed.box, diameter=what.diameter,
                            snr=snr, bfactor=recipe.bfactor, generator=generator)  # fmt: skip
            images[i] += dft_to_image(dft, (bed.box, bed.box))[0]
        out[start : start + len(rows)] = fourier_crop(images, (box, box))
    pixel_size = bed.pixel_size * bed.box / box
    seen = Optics(pixel_size=pixel_size, voltage_kv=recipe.voltage_kv, cs_mm=recipe.cs_mm,
                  amplitude_contrast=recipe.amplitude_contrast, box=box)  # fmt: skip
    # the CTF is known per micrograph only, as in practice
    record = truth.replace(optics=(seen,), defocus_u=(mean + half).numpy(), defocus_v=(mean - half).numpy())
    return out.numpy(), record, psi.numpy(), shift.numpy() / pixel_size


def clean_views(name, views, box=64):
    """Views of a bed without CTF and noise, `(n, box, box)`, grey scale arbitrary."""
    bed, what = BEDS[name], specimen(name)
    dft = project_dft(exact_spectrum(torch.from_numpy(what.states[0][0].data)), views, bed.box)
    return fourier_crop(dft_to_image(dft.to(torch.complex64), (bed.box, bed.box)), (box, box))

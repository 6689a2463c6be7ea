"""The two halves of a refinement never meet: a watermark in one is looked for in the other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.em import ImageSource, solve
from cryoloom.em.start import place_reference
from cryoloom.fourier import dft_to_image, frequency_grid, shift_dft
from cryoloom.fourier.slices import extract_slices, prepare_volume
from cryoloom.io.particles import ParticleImages
from cryoloom.maps.filter import lowpass
from cryoloom.maps.mask import spherical_mask
from cryoloom.optics import ctf
from cryoloom.refine import marginal
from cryoloom.refine.plan import Plan
from cryoloom.refine.schedule import iterate
from cryoloom.refine.state import begin


class Marked:
    """Images of half 1 carry the projections of a watermark, at their true poses."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]


def _watermark_images(data, watermark, half):
    truth = data.truth
    box, pixel_size = watermark.shape[0], data.volume.pixel_size
    grid = frequency_grid((box, box), pixel_size)
    optics = truth.optics[0]
    value = ctf(
        grid[..., 0], grid[..., 1], defocus_u=torch.from_numpy(truth.defocus_u),
        defocus_v=torch.from_numpy(truth.defocus_v), defocus_angle=torch.from_numpy(truth.defocus_angle),
        voltage_kv=optics.voltage_kv, cs_mm=optics.cs_mm, amplitude_contrast=optics.amplitude_contrast,
    )  # fmt: skip
    dft = extract_slices(prepare_volume(watermark), torch.from_numpy(truth.rotation), (box, box)) * value
    shift_px = torch.from_numpy(truth.shift / pixel_size).to(torch.float32)
    images = dft_to_image(shift_dft(dft, shift_px, (box, box)), (box, box)).numpy()
    images[half != 1] = 0
    return images


@pytest.mark.capability("VAL-7")
@pytest.mark.parametrize("kind", ["uniform", "local", "weak"])
def test_a_watermark_in_one_half_never_shows_in_the_other(kind, small_set, half_column, measure, monkeypatch):
    # with fewer particles chance alone reaches the threshold: the deviation over unrelated marks is told in the note
    data = small_set(symmetry="D2", n=480)
    if kind == "weak":  # all poses share each image at first, and each fold of a half meets the map of the others
        monkeypatch.setattr(marginal, "WEAK", np.inf)
    n, box, pixel_size = len(data.particles), data.volume.data.shape[0], data.volume.pixel_size
    half = half_column(n)
    ball = spherical_mask(box, 0.4 * data.diameter / pixel_size, 3.0)
    watermark = _random_mark(box, pixel_size, ball, 5)
    images = ParticleImages(data.particles).read(np.arange(n))
    mark = _watermark_images(data, watermark, half)
    mark *= 0.15 * images.std() / mark[half == 1].std()
    executor = ThreadExecutor(2)
    torch.set_num_threads(1)
    volumes = []
    for stack in (images, images + mark):
        source = ImageSource(Marked(stack), data.particles, 1.1 * data.diameter, normalise=False)
        reference = place_reference(data.volume, source.field, box, 40.0)
        plan = Plan(symmetry="D2", diameter=1.1 * data.diameter, max_iterations=4, local_filter=kind == "local")
        state = begin(source, reference, half, plan, executor)
        while not state.finished:
            # the schedule of both runs is one: its numbers per iteration are not what is tested
            state, outcome = iterate(source, replace(state), plan, executor, lambda _: None)
        volumes.append([solve(h, box) for h in outcome.halves])
    changed = [b - a for a, b in zip(*volumes, strict=True)]
    own = _seen(changed[0], watermark, ball)
    leak = abs(_seen(changed[1], watermark, ball) / own)
    chance = np.std([_seen(changed[1], _random_mark(box, pixel_size, ball, k), ball) / own for k in range(100, 120)])
    measure(
        leak, threshold="< 1e-3",
        note=f"watermark's amplitude in the other half over that in its own; of unrelated marks there {chance:.1e}",
    )  # fmt: skip
    assert own > 0
    assert leak < 1e-3


def _random_mark(box, pixel_size, ball, seed):
    """Smooth noise with D2 symmetry, as the map will have: the mark must survive what it is put through."""
    noise = lowpass(torch.randn((box,) * 3, generator=torch.Generator().manual_seed(seed)), pixel_size, 12.0)
    noise = noise + torch.roll(noise.flip(0, 1), (1, 1), (0, 1))
    noise = noise + torch.roll(noise.flip(1, 2), (1, 1), (1, 2))
    return noise * ball


def _seen(change, mark, ball):
    """How much of a mark is in a change of a map."""
    return float((change * (mark - mark[ball > 0.5].mean() * ball)).sum())

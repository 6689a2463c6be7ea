"""Rows of the capability table that belong to the engine alone."""

import numpy as np
import pytest
import torch

from cryoloom.data import Optics, ParticleSet
from cryoloom.em import ImageSource, NoiseModel, accumulate, prepare_sums, single_candidates, solve
from cryoloom.fourier import dft_to_image, frequency_grid, image_to_dft, shell_index, shell_mean, shift_dft
from cryoloom.fourier.exact import exact_spectrum, project_dft
from cryoloom.fourier.slices import padded_half_size
from cryoloom.geometry import random_rotations
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.optics import ctf


@pytest.fixture(scope="module")
def exact_set(executor):
    """Images made by an exact projector, not by the engine's own slices, and the sums of their insertion."""
    box, pixel_size, n, snr = 48, 3.0, 3000, 0.3
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(80, 3, generator=generator, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    points = points * torch.rand(80, 1, generator=generator, dtype=torch.float64) ** (1 / 3) * 0.3 * box
    axis = torch.arange(box, dtype=torch.float64) - box // 2
    lines = [torch.exp(-((axis[None] - points[:, i : i + 1]) ** 2) / (2 * 0.85**2)) for i in range(3)]
    volume = torch.einsum("nz,ny,nx->zyx", lines[2], lines[1], lines[0]).float()
    rotation = random_rotations(n, generator)
    shift = (2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1) * 2
    defocus = 10_000 + 12_000 * torch.rand(n, generator=generator, dtype=torch.float64)
    grid = frequency_grid((box, box), pixel_size)
    value = ctf(
        grid[..., 0], grid[..., 1], defocus_u=defocus, defocus_v=defocus, defocus_angle=0.0,
        voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1,
    )  # fmt: skip
    dft = project_dft(exact_spectrum(volume), rotation, box) * value
    clean = dft_to_image(shift_dft(dft, shift.float(), (box, box)), (box, box))
    sigma = float(clean.std()) / snr**0.5
    images = (clean + sigma * torch.randn(clean.shape, generator=generator)).numpy()
    truth = ParticleSet(
        image_path=np.array(["memory"] * n), image_index=np.arange(n),
        optics=(Optics(pixel_size=pixel_size, box=box),), optics_index=np.zeros(n, np.int64),
        defocus_u=defocus.numpy(), defocus_v=defocus.numpy(), defocus_angle=np.zeros(n),
    )  # fmt: skip

    class Reader:
        def read(self, rows):
            return images[rows]

    source = ImageSource(Reader(), truth, 0.8 * box * pixel_size, normalise=False)
    noise = NoiseModel(np.full((1, source.points.radius + 1), (sigma * box) ** 2))
    found = single_candidates(np.arange(n), rotation.numpy(), shift.numpy())
    sums = accumulate(source, found, np.zeros(n, np.int64), 1, noise, executor, radius=source.points.radius)
    return volume, prepare_sums(sums[0], "C1", executor)


@pytest.mark.capability("REC-1")
def test_reconstruction_reaches_the_predicted_signal_to_noise_and_is_flat(exact_set, measure):
    volume, sums = exact_set
    box = volume.shape[0]
    result = solve(sums, box, floor=1e-3)
    fsc = fourier_shell_correlation(result, volume).numpy()
    # noise per Fourier voxel of the box: the inverse of the weight that fell into it (eight padded voxels each)
    n = padded_half_size(sums.radius)
    k, kx = torch.arange(-n, n + 1.0), torch.arange(0, n + 2.0)
    shell = ((k[:, None, None] ** 2 + k[:, None] ** 2 + kx**2).sqrt() / 2).round().long()
    weight = sums.sums[..., 2]
    power = shell_mean(image_to_dft(volume, 3).abs() ** 2, (box,) * 3).numpy()
    deviation = []
    for s in range(2, sums.radius - 1):
        noise = float((1 / (8 * weight[shell == s]).clamp_min(1e-12)).mean())
        predicted = np.sqrt(power[s] / (power[s] + noise))
        # below this the finite number of voxels in a shell moves the FSC itself by more than half a per cent
        if predicted > 0.8:
            deviation.append(abs(fsc[s] / predicted - 1))
    keep = (shell_index((box,) * 3) >= 2) & (shell_index((box,) * 3) <= box // 3)
    a, b = (dft_to_image(image_to_dft(v, 3) * keep, (box,) * 3) for v in (result, volume))
    axis = torch.arange(box) - box // 2
    r = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).float().sqrt()
    rings = [(r >= q) & (r < q + 3) for q in (0, 3, 6, 9, 12)]
    ratio = [float((a * b)[ring].sum() / (b**2)[ring].sum()) for ring in rings]
    flatness = max(abs(x / np.mean(ratio) - 1) for x in ratio)
    measure(
        round(100 * max(deviation), 2), unit="%", threshold="<= 2 per shell",
        note=f"{len(deviation)} shells; real-space ratio flat within {100 * flatness:.2f} %",
    )  # fmt: skip
    assert len(deviation) >= 10
    assert max(deviation) < 0.02
    assert flatness < 0.01

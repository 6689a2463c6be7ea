"""SIM-1: the laws that a simulator must obey, each as a property, and its accuracy."""

import math

import numpy as np
import pytest
import torch

from cryoloom.data import Optics, VolumeMap
from cryoloom.fourier import dft_to_image, image_to_dft
from cryoloom.fourier.exact import exact_spectrum, project_dft
from cryoloom.fourier.shells import half_spectrum_weights
from cryoloom.geometry import random_rotations, symmetry_matrices
from cryoloom.io.map_file import read_map, write_map
from cryoloom.maps import fourier_shell_correlation, shell_counts
from cryoloom.simulate.detector import gain_reference, random_sensitivity
from cryoloom.simulate.imaging import image_dfts
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

pytestmark = pytest.mark.capability("SIM-1")


@pytest.fixture(scope="module")
def volume():
    return torch.from_numpy(potential_map(phantom("globule", mass_kda=100), 64, 2.5).data)


def test_slices_are_the_sum_over_voxels(volume, measure):
    rotations = random_rotations(6, torch.Generator().manual_seed(0))
    n = volume.shape[0]
    found = project_dft(exact_spectrum(volume), rotations)
    r = torch.arange(n, dtype=torch.float64) - n // 2
    ky, kx = torch.meshgrid(
        torch.fft.fftfreq(n, dtype=torch.float64), torch.fft.rfftfreq(n, dtype=torch.float64), indexing="ij"
    )
    worst = 0.0
    for rotation, image in zip(rotations, found, strict=True):
        inside = image != 0
        k = torch.stack([kx, ky, torch.zeros_like(kx)], -1)[inside] @ rotation.T
        wave = [torch.exp(-2j * torch.pi * k[:, i : i + 1] * r) for i in (2, 1, 0)]
        # one axis at a time: (z, y, x) -> (k, z, y) -> (k, z) -> (k,)
        exact = []
        for z, y, x in zip(*[w.split(500) for w in wave], strict=True):
            line = torch.einsum("zyx,kx->kzy", volume.to(torch.complex128), x)
            exact.append(torch.einsum("kzy,kz,ky->k", line, z, y))
        exact = torch.cat(exact)
        worst = max(worst, float((image[inside] - exact).norm() / exact.norm()))
    measure(worst, "relative", "< 1e-3", note="largest of six projections of a protein-like map")
    assert worst < 1e-3


def test_parseval(volume):
    """The sum of squares of a projection equals the mean power of its slice."""
    dft = project_dft(exact_spectrum(volume), random_rotations(3, torch.Generator().manual_seed(1)))
    n = volume.shape[0]
    power = ((dft.abs() ** 2).double() * half_spectrum_weights(n)).sum((-2, -1)) / n**2
    square = (dft_to_image(dft, (n, n)).double() ** 2).sum((-2, -1))
    torch.testing.assert_close(power, square, rtol=1e-5, atol=0)


def test_turning_the_image_frame_turns_the_image(volume):
    """Equivariance: `R Rz(90°)` gives the image of `R` turned back by 90 degrees."""
    spectrum = exact_spectrum(volume)
    rotation = random_rotations(1, torch.Generator().manual_seed(2))[0]
    quarter = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    plain, turned = dft_to_image(project_dft(spectrum, torch.stack([rotation, rotation @ quarter])), (64, 64))
    inner = slice(1, 64)  # odd part, symmetric about the centre pixel
    # content at (x, y) of the first image sits at Rz(-90°) (x, y) = (y, -x) of the second
    expected = torch.rot90(plain[inner, inner], 1, (0, 1))
    torch.testing.assert_close(turned[inner, inner], expected, atol=2e-4 * float(plain.abs().max()), rtol=0)


def test_defocus_and_shift_act_as_the_conventions_say(volume):
    """CTF sign: with underfocus alone the lowest frequencies are bright; a positive shift moves to larger indices."""
    optics = Optics(pixel_size=2.5, amplitude_contrast=0.1, cs_mm=2.7)
    spectrum = exact_spectrum(volume)
    one = torch.ones(1, dtype=torch.float64)

    def image(shift):
        dft = image_dfts(
            [spectrum], torch.eye(3, dtype=torch.float64)[None], optics=optics, box=64, defocus_u=15000 * one,
            defocus_v=15000 * one, defocus_angle=0 * one, phase_shift=0 * one,
            shift=torch.tensor([shift], dtype=torch.float64),
        )  # fmt: skip
        return dft, dft_to_image(dft, (64, 64))[0]

    dft, centred = image([0.0, 0.0])
    plain = project_dft(spectrum, torch.eye(3)[None])
    torch.testing.assert_close(
        dft[0, 0, 0] / plain[0, 0, 0], torch.tensor(0.1 + 0j, dtype=torch.complex64), atol=1e-4, rtol=0
    )
    k = 8 / 160.0  # 0.05 1/Å, where the table of conventions gives +0.66243
    assert abs(float((dft[0, 0, 8] / plain[0, 0, 8]).real) - 0.66243) < 2e-4, k
    _, moved = image([5.0, -10.0])
    torch.testing.assert_close(moved, centred.roll((2, -4), (0, 1)), atol=1e-4 * float(centred.abs().max()), rtol=0)


@pytest.mark.parametrize("symmetry", ["C3", "D2", "T", "O", "I1"])
def test_symmetry_closes(symmetry):
    """Views that the group makes equal give equal images, of a map made with that symmetry."""
    atoms = phantom("shell", symmetry, mass_kda=150)
    volume = torch.from_numpy(potential_map(atoms, 64, max(3.0, atoms.diameter / 40)).data)
    rotation = random_rotations(1, torch.Generator().manual_seed(3))[0]
    operators = symmetry_matrices(symmetry)
    images = dft_to_image(project_dft(exact_spectrum(volume), operators[:6] @ rotation), (64, 64))
    error = (images - images[0]).norm(dim=(1, 2)) / images[0].norm()
    assert float(error.max()) < 5e-3


def test_gain_undoes_sensitivity():
    sensitivity, _ = random_sensitivity((128, 200), np.random.default_rng(0))
    expected = np.random.default_rng(1).uniform(1, 3, (128, 200)).astype(np.float32)
    alive = sensitivity > 0
    np.testing.assert_allclose(
        (expected * sensitivity * gain_reference(sensitivity))[alive], expected[alive], rtol=1e-5
    )


def test_a_map_keeps_its_origin_and_axes_on_disk(tmp_path):
    data = np.zeros((6, 7, 8), np.float32)
    data[1, 2, 3] = 1
    write_map(VolumeMap(data, 1.25, (10.0, -20.0, 30.0)), tmp_path / "m.mrc")
    back = read_map(tmp_path / "m.mrc")
    np.testing.assert_array_equal(back.data, data)
    assert back.origin == (10.0, -20.0, 30.0) and back.pixel_size == 1.25


def test_the_fsc_of_independent_noise_has_mean_zero_and_variance_one_over_n(measure):
    n, repeats = 24, 400
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(2, repeats, n, n, n, generator=generator)
    fsc = fourier_shell_correlation(a, b, 3)[:, 1:]
    count = shell_counts((n, n, n))[1:]
    z = fsc.mean(0) * (repeats * count).sqrt()  # standard normal
    ratio = float((fsc.var(0) * count).mean())
    measure(
        ratio,
        "variance * n",
        "1 within 5 %",
        note=f"{repeats} pairs, all shells; |mean| / error at most {float(z.abs().max()):.2f}",
    )
    assert float(z.abs().max()) < 3.7
    assert abs(ratio - 1) < 0.05


def test_ice_and_shot_noise_and_dft_sizes_agree():
    """White noise of variance σ² has mean power N σ² under the plain transform."""
    image = torch.randn(200, 32, 48, generator=torch.Generator().manual_seed(5)) * 1.5
    power = (image_to_dft(image).abs() ** 2).double() * half_spectrum_weights(48)
    assert float(power.mean(0).sum() / (32 * 48) ** 2) == pytest.approx(2.25, rel=0.01)
    assert math.isfinite(float(power.sum()))

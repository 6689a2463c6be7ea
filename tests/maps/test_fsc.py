"""FSC, its crossing, SSNR and DPR against arithmetic that can be done by hand."""

import math

import pytest
import torch

from cryoloom.fourier import rfftn
from cryoloom.maps import (
    crossing_shell,
    differential_phase_residual,
    fourier_shell_correlation,
    fsc_of_full_map,
    half_bit_threshold,
    resolution_at,
    shell_counts,
    ssnr_from_fsc,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 15, 15), (16, 17), (12, 14, 13)])
def test_a_map_correlates_fully_with_itself_and_with_its_multiple(shape):
    a = noise(*shape)
    expected = torch.ones(max(shape) // 2 + 1, dtype=torch.float64)
    torch.testing.assert_close(fourier_shell_correlation(a, 3.5 * a), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(fourier_shell_correlation(a, -a), -expected, atol=1e-6, rtol=0)


def test_batches_give_the_same_curves_as_single_maps():
    a, b = noise(3, 16, 16, 16), noise(3, 16, 16, 16, seed=1)
    together = fourier_shell_correlation(a, b, ndim=3)
    for i in range(3):
        torch.testing.assert_close(together[i], fourier_shell_correlation(a[i], b[i]))


def test_the_half_spectrum_gives_the_sum_over_the_full_spectrum():
    a, b = noise(12, 12, 12), noise(12, 12, 12, seed=1)
    full_a, full_b = torch.fft.fftn(a.double()), torch.fft.fftn(b.double())
    k = torch.fft.fftfreq(12, dtype=torch.float64) * 12
    shell = (k[:, None, None] ** 2 + k[:, None] ** 2 + k**2).sqrt().round()
    for s in range(7):
        at = shell == s
        cross = (full_a[at] * full_b[at].conj()).sum().real
        expected = cross / (full_a[at].abs().square().sum() * full_b[at].abs().square().sum()).sqrt()
        assert fourier_shell_correlation(a, b)[s] == pytest.approx(float(expected), abs=1e-5)


def test_noise_has_mean_zero_and_variance_one_over_the_voxels_of_the_shell():
    a, b = noise(400, 12, 12, 12), noise(400, 12, 12, 12, seed=1)
    curves = fourier_shell_correlation(a, b, ndim=3)[:, 2:]
    counts = shell_counts((12, 12, 12))[2:]
    assert (curves.mean(0).abs() < 4 / (400 * counts).sqrt()).all()
    assert ((curves.var(0) * counts - 1).abs() < 4 * math.sqrt(2 / 400)).all()


def test_signal_and_noise_of_equal_power_correlate_by_half():
    signal = noise(64, 64, 64)
    a, b = signal + noise(64, 64, 64, seed=1), signal + noise(64, 64, 64, seed=2)
    assert fourier_shell_correlation(a, b)[10:].mean() == pytest.approx(0.5, abs=0.01)


def test_a_crossing_at_0_294_per_angstrom_is_3_40_angstrom():
    # Shell 29 is 0.29 1/A for a field of 100 A; the curve falls from 0.343 to -0.157 over the next shell.
    fsc = [1.0] * 29 + [0.343, -0.157]
    assert crossing_shell(fsc, 0.143) == pytest.approx(29.4)
    assert resolution_at(fsc, 0.143, box=100, pixel_size=1.0) == pytest.approx(3.40, abs=0.005)


def test_the_first_crossing_counts_and_a_curve_that_stays_up_gives_the_nyquist_length():
    assert crossing_shell([1, 1, 0.0, 1, 1], 0.5) == pytest.approx(1.5)
    assert resolution_at(torch.ones(33), 0.143, box=64, pixel_size=1.5) == pytest.approx(3.0)
    assert resolution_at([0.0, -1.0, 0.0], 0.0, box=4, pixel_size=1.0) == pytest.approx(8.0)


def test_ssnr_and_the_full_map_follow_from_the_half_maps():
    fsc = torch.tensor([0.0, 1 / 7, 0.5, -0.2, 1.0])
    torch.testing.assert_close(ssnr_from_fsc(fsc)[:4], torch.tensor([0.0, 1 / 3, 2.0, 0.0], dtype=torch.float64))
    assert math.isinf(ssnr_from_fsc(fsc)[4])
    assert ssnr_from_fsc(0.5, halves=False) == pytest.approx(1.0)
    assert fsc_of_full_map(1 / 7) == pytest.approx(0.5)


def test_phases_apart_by_a_known_angle_give_that_phase_residual():
    dft = rfftn(noise(16, 16, 16), 3)
    turned = dft * complex(math.cos(0.5), math.sin(0.5))
    residual = differential_phase_residual(dft, 2.0 * turned, (16, 16, 16))
    torch.testing.assert_close(residual, torch.full_like(residual, math.degrees(0.5)), atol=1e-3, rtol=0)


def test_the_phase_residual_of_noise_is_180_over_root_three():
    a, b = rfftn(noise(32, 32, 32), 3), rfftn(noise(32, 32, 32, seed=1), 3)
    assert differential_phase_residual(a, b, (32, 32, 32))[5:].mean() == pytest.approx(180 / math.sqrt(3), abs=1.5)


def test_half_a_bit_is_0_172_in_large_shells():
    assert half_bit_threshold([1e12])[0] == pytest.approx(0.1716, abs=1e-4)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="expected the shape of a"):
        fourier_shell_correlation(torch.zeros(4, 4, 4), torch.zeros(4, 4, 5))

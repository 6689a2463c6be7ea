"""Filters act on amplitudes as their formula says and never on phases."""

import math

import pytest
import torch

from cryoloom.fourier import rfftn, shell_index, shell_mean
from cryoloom.maps import apply_bfactor, highpass, lowpass, radial_frequency, randomise_phases, weight_shells


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_wave_is_damped_by_exp_minus_b_k2_over_4():
    x = torch.arange(32.0)
    wave = torch.cos(2 * math.pi * 4 * x / 32).expand(32, 32, 32)
    k = 4 / (32 * 1.5)
    torch.testing.assert_close(apply_bfactor(wave, 1.5, 80.0), wave * math.exp(-80 * k * k / 4), atol=1e-5, rtol=0)


def test_a_low_pass_keeps_what_is_below_and_removes_what_is_above():
    volume = noise(48, 48, 48)
    power = shell_mean(rfftn(volume, 3).abs() ** 2, (48, 48, 48))
    low = shell_mean(rfftn(lowpass(volume, 1.0, 4.0), 3).abs() ** 2, (48, 48, 48)) / power
    assert (low[:10] > 0.999).all() and (low[15:] < 1e-6).all()
    torch.testing.assert_close(lowpass(volume, 1.0, 4.0) + highpass(volume, 1.0, 4.0), volume)
    torch.testing.assert_close(lowpass(volume, 1.0, 2.0), volume, atol=1e-5, rtol=0)


def test_shell_weights_are_the_weights_of_the_spectrum():
    volume = noise(20, 20, 20)
    curve = torch.linspace(1, 0, 11)
    ratio = rfftn(weight_shells(volume, curve), 3).abs() / rfftn(volume, 3).abs()
    index = shell_index((20, 20, 20))
    inside = index <= 10
    torch.testing.assert_close(ratio[inside], curve[index[inside]], atol=1e-4, rtol=1e-3)


def test_frequencies_of_the_axes_are_known():
    k = radial_frequency((10, 12), 2.0)
    assert k.shape == (10, 7) and k[0, 0] == 0
    assert k[1, 0] == pytest.approx(1 / 20) and k[0, 6] == pytest.approx(0.25) and k[5, 0] == pytest.approx(0.25)


def test_random_phases_keep_amplitudes_and_low_shells_and_leave_no_correlation():
    volume = noise(40, 40, 40)
    other = randomise_phases(volume, 8, torch.Generator().manual_seed(5))
    a, b = rfftn(volume, 3), rfftn(other, 3)
    index = shell_index((40, 40, 40))
    torch.testing.assert_close(b[index < 8], a[index < 8], atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(b.abs(), a.abs(), atol=2e-2, rtol=1e-3)
    high = (index >= 8) & (index <= 20)
    correlation = (a[high] * b[high].conj()).sum().real / (a[high].abs() ** 2).sum()
    assert abs(float(correlation)) < 0.02

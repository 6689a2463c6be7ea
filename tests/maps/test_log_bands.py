"""Bands alike in the logarithm of frequency: their noise, their reach, and that they read a falling ratio true."""

import numpy as np
import pytest
import torch

from cryoloom.fourier import dft_to_image, half_spectrum_weights, image_to_dft
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.log_bands import HALF_WIDTH, BandView, band_gain, choose_bands, independent_values, packet_reach
from cryoloom.maps.windowed import WindowedHalves, window_transform


def test_the_power_of_noise_in_a_window_scatters_as_its_independent_values_say():
    n, centre = 64, 0.2
    frequency = radial_frequency((n,) * 3)
    gain = band_gain(frequency, centre, HALF_WIDTH)
    for waves in (0.5, 0.65):
        blur, relative = window_transform(frequency, waves / centre), []
        for seed in range(4):
            noise = torch.randn(n, n, n, generator=torch.Generator().manual_seed(seed))
            power = dft_to_image(image_to_dft(noise, 3) * gain, (n,) * 3) ** 2
            local = dft_to_image(image_to_dft(power, 3) * blur, (n,) * 3)
            relative.append(float(local.var() / local.mean() ** 2))
        assert 2 / np.mean(relative) == pytest.approx(independent_values(waves, HALF_WIDTH), rel=0.15)


def test_a_wave_packet_reaches_as_far_as_said():
    n, centre = 96, 0.15
    point = torch.zeros(n, n, n)
    point[n // 2, n // 2, n // 2] = 1
    gain = band_gain(radial_frequency((n,) * 3), centre, HALF_WIDTH)
    power = dft_to_image(image_to_dft(point, 3) * gain, (n,) * 3).double() ** 2
    x = torch.arange(n, dtype=torch.float64) - n // 2
    spread = float((power.sum((1, 2)) * x**2).sum() / power.sum()) ** 0.5
    assert spread * centre == pytest.approx(packet_reach(HALF_WIDTH), rel=0.15)


def test_a_ratio_that_falls_as_a_power_is_read_at_the_centre():
    frequency = radial_frequency((96,) * 3)
    weight = half_spectrum_weights(96)
    for centre in (0.1, 0.2):
        power = band_gain(frequency, centre, HALF_WIDTH) ** 2 * weight
        falling = float((power * frequency.clamp_min(1e-3) ** -6).sum() / power.sum())
        assert falling == pytest.approx(centre**-6, rel=0.05)


def test_bands_lie_within_what_the_map_holds():
    for box, pixel_size in ((16, 4.0), (72, 1.3), (256, 1.06)):
        centres, half_widths = choose_bands(box, pixel_size, 30.0)
        assert len(centres) >= 4 and (np.diff(centres) > 0).all() and centres[-1] < 0.5 / pixel_size
        assert (half_widths * centres * box * pixel_size >= 1.5 - 1e-9).all()
    assert (centres * np.exp(half_widths) < 0.5 / pixel_size + 1e-9).all() and half_widths.max() == HALF_WIDTH


def test_a_band_at_its_own_sampling_has_the_values_of_the_whole_map():
    n = 60
    volume = torch.randn(n, n, n, generator=torch.Generator().manual_seed(0))
    view = BandView(n, 1.0, 0.06, HALF_WIDTH)
    assert view.size < n and n % view.size == 0
    whole = dft_to_image(image_to_dft(volume, 3) * band_gain(radial_frequency((n,) * 3), 0.06, HALF_WIDTH), (n,) * 3)
    every = n // view.size
    small = view.image(image_to_dft(volume, 3))
    first = (n // 2) % every
    torch.testing.assert_close(small, whole[first::every, first::every, first::every], atol=1e-5, rtol=1e-4)


def test_halves_made_white_have_unit_noise_at_all_frequencies():
    n = 48
    generator = torch.Generator().manual_seed(1)
    frequency = radial_frequency((n,) * 3)
    colour = 0.2 + torch.exp(-8 * frequency**2)
    halves = [dft_to_image(image_to_dft(torch.randn(n, n, n, generator=generator), 3) * colour, (n,) * 3) for _ in "12"]
    pair = WindowedHalves(halves[0], halves[1], 1.0, torch.ones(n, n, n), 6.0)
    for dft in pair.white_spectra:
        power = (dft.real**2 + dft.imag**2) / n**3
        for low, high in ((0.1, 0.2), (0.3, 0.5)):
            part = (frequency > low) & (frequency < high)
            assert float(power[part].mean()) == pytest.approx(1.0, rel=0.05)

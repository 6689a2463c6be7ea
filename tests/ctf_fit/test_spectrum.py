import numpy as np
import pytest
import torch

from cryoloom.ctf_fit.spectrum import choose_tile, polar_bins, tile_spectra


@pytest.mark.parametrize("shape, tile", [((300, 300), 128), ((257, 401), 100), ((96, 500), 96), ((64, 64), 64)])
def test_white_noise_has_its_variance_in_every_shell(shape, tile):
    image = torch.from_numpy(3.0 * np.random.default_rng(0).standard_normal(shape)).float()
    spectra = tile_spectra(image, 1.2, tile=tile, k_max=0.4)
    assert spectra.weight.sum() == pytest.approx(1)
    bins = spectra.bins
    total = (spectra.mean * bins.count).sum() / bins.count.sum()
    assert total == pytest.approx(9, rel=0.08)


def test_tiles_reach_all_edges_and_overlap_by_at_most_half():
    spectra = tile_spectra(torch.randn(700, 433), 1.0, tile=128, k_max=0.4)
    for axis, n in ((0, 700), (1, 433)):
        starts = np.unique(spectra.corner_px[:, axis])
        assert starts[0] == 0
        assert starts[-1] == n - 128
        assert np.diff(starts).min() >= 64 - 1
        assert np.diff(starts).max() <= 128


def test_interior_pixels_count_alike():
    spectra = tile_spectra(torch.randn(640, 640), 1.0, tile=128, k_max=0.4)
    coverage = np.zeros(640)
    for taper, start in zip(spectra.tapers[0], spectra.starts[0], strict=True):
        coverage[start : start + 128] += taper**2
    np.testing.assert_allclose(coverage[20:-20], 1.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(200, 200), (180, 260)])
def test_the_variance_of_smooth_sums_is_the_predicted_one(shape):
    rng = np.random.default_rng(1)
    sums = []
    for _ in range(400):
        spectra = tile_spectra(torch.from_numpy(rng.standard_normal(shape)).float(), 1.0, tile=64, k_max=0.45)
        bins = spectra.bins
        lever = np.where(bins.count > 0, bins.count, 0) * (np.arange(len(bins.count)) // bins.n_sectors > 5)
        sums.append((spectra.mean * lever).sum())
    predicted = spectra.variance_factor() * lever.sum()
    assert np.var(sums) == pytest.approx(predicted, rel=0.2)


def test_a_wave_shows_at_its_frequency_and_direction():
    y, x = np.mgrid[:256, :256]
    wave = np.cos(2 * np.pi * (0.11 * x + 0.07 * y))
    spectra = tile_spectra(torch.from_numpy(wave).float(), 1.0, tile=128, k_max=0.45)
    bins = spectra.bins
    top = int(np.argmax(spectra.mean))
    k2 = 0.11**2 + 0.07**2
    assert np.sqrt(bins.k2[top]) == pytest.approx(np.sqrt(k2), abs=0.006)
    assert 0.5 * np.arctan2(bins.k2_sin[top], bins.k2_cos[top]) == pytest.approx(np.arctan2(0.07, 0.11), abs=0.06)


def test_bins_equal_a_slow_sum_over_pixels():
    image = np.random.default_rng(2).standard_normal((64, 64))
    spectra = tile_spectra(torch.from_numpy(image), 2.0, tile=64, k_max=0.2)
    bins = spectra.bins
    ramp = np.linspace(-1, 1, 64)
    level = image.mean() + np.outer(ramp, np.ones(64)) * (image.sum(1) @ ramp) / (64 * ramp @ ramp)
    level = level + np.outer(np.ones(64), ramp) * (image.sum(0) @ ramp) / (64 * ramp @ ramp)
    taper = np.outer(spectra.tapers[0][0], spectra.tapers[1][0])
    power = np.abs(np.fft.fft2((image - level) * taper)) ** 2 / (taper**2).sum()
    expected, count = np.zeros(len(bins.count)), np.zeros(len(bins.count))
    for i in range(64):
        for j in range(33):
            ky, kx = (i if i < 32 else i - 64), j
            shell = round(np.hypot(ky, kx))
            if not 0 < shell < bins.n_shells or (kx == 0 and ky < 0):
                continue
            sector = min(int((np.arctan2(ky, kx) + np.pi / 2) / np.pi * bins.n_sectors), bins.n_sectors - 1)
            expected[shell * bins.n_sectors + sector] += power[i, j]
            count[shell * bins.n_sectors + sector] += 1
    np.testing.assert_array_equal(bins.count, count)
    np.testing.assert_allclose(spectra.mean, expected / np.maximum(count, 1), rtol=2e-4, atol=1e-4)


def test_a_tilted_grey_level_does_not_reach_the_spectrum():
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal((256, 256))).float()
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    plain = tile_spectra(noise, 1.0, tile=128, k_max=0.45).mean
    sloping = tile_spectra(noise + 1000 + 3 * x - 2 * y, 1.0, tile=128, k_max=0.45).mean
    np.testing.assert_allclose(sloping, plain, rtol=0.02, atol=0.02)


def test_tiles_are_no_larger_than_the_image_and_have_good_sizes():
    assert choose_tile((300, 4000), 1.5, 768) == 300
    assert choose_tile((4000, 4000), 1.5, 768) == 512
    assert polar_bins(128, 1.0, 0.25).n_shells == 33

import pytest
import torch

from cryoloom.fourier import (
    crop_dft,
    dft_to_image,
    fourier_crop,
    frequency_grid,
    good_size,
    half_spectrum_weights,
    image_to_dft,
    irfftn,
    rfftn,
    shell_index,
    shell_mean,
    shell_sum,
    shift_dft,
    shift_image,
    spread_shells,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(16, 16), (17, 17), (16, 17), (8, 9, 10)])
def test_a_point_at_the_centre_has_a_flat_positive_spectrum(shape):
    image = torch.zeros(shape, dtype=torch.float64)
    image[tuple(n // 2 for n in shape)] = 1
    dft = image_to_dft(image, len(shape))
    torch.testing.assert_close(dft, torch.ones_like(dft))
    torch.testing.assert_close(dft_to_image(dft, shape), image)


def test_a_gaussian_transforms_to_a_gaussian():
    n, sigma = 64, 3.0
    r2 = sum(g**2 for g in torch.meshgrid(*[torch.arange(n, dtype=torch.float64) - n // 2] * 2, indexing="ij"))
    dft = image_to_dft(torch.exp(-r2 / (2 * sigma**2)))
    k2 = (frequency_grid((n, n), dtype=torch.float64) ** 2).sum(-1)
    expected = 2 * torch.pi * sigma**2 * torch.exp(-2 * torch.pi**2 * sigma**2 * k2)
    torch.testing.assert_close(dft.real, expected, atol=1e-9, rtol=0)
    assert float(dft.imag.abs().max()) < 1e-9


def test_gradients_pass_through_both_transforms():
    image = noise(6, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: irfftn(rfftn(x, 2), (6, 7)) ** 2, image)


@pytest.mark.parametrize("shape", [(16, 16), (17, 17), (12, 15)])
def test_weighted_half_sums_are_parseval(shape):
    image = noise(*shape)
    power = rfftn(image, 2).abs() ** 2 * half_spectrum_weights(shape[-1])
    torch.testing.assert_close(power.sum() / image.numel(), (image**2).sum())


def test_white_noise_has_the_power_n_sigma_squared():
    image = noise(50, 64, 64) * 2
    power = shell_mean(rfftn(image, 2).abs() ** 2, (64, 64)).mean(0)
    assert float((power[3:] / (64 * 64 * 4) - 1).abs().max()) < 0.1


def test_shells_are_rounded_radii_and_leave_out_the_corners():
    index = shell_index((8, 8))
    assert index[0, 0] == 0 and index[0, 4] == 4 and index[4, 0] == 4
    assert index[1, 1] == 1 and index[2, 2] == 3
    assert index[4, 4] == 5
    assert shell_sum(torch.ones(8, 5), (8, 8)).sum() < 64


def test_spreading_puts_the_shell_value_on_its_coefficients():
    curve = torch.arange(5, dtype=torch.float64)
    assert torch.equal(spread_shells(curve, (8, 8), beyond=-1.0)[0], curve)
    assert spread_shells(curve, (8, 8), beyond=-1.0)[4, 4] == -1


@pytest.mark.parametrize("h, w", [(16, 16), (17, 17), (16, 17)])
def test_shifting_back_is_the_adjoint(h, w):
    u, v = noise(2, h, w)
    s = torch.tensor([1.3, -2.6], dtype=torch.float64)
    torch.testing.assert_close((shift_image(u, s) * v).sum(), (u * shift_image(v, -s)).sum())


def test_a_positive_shift_moves_content_to_larger_indices():
    image = torch.zeros(9, 10, dtype=torch.float64)
    image[4, 5] = 1
    moved = shift_image(image, torch.tensor([2.0, -3.0], dtype=torch.float64))
    assert int(moved.argmax()) == 6 * 10 + 2
    by_dft = dft_to_image(shift_dft(image_to_dft(image), torch.tensor([2.0, -3.0]), (9, 10)), (9, 10))
    torch.testing.assert_close(by_dft, moved, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("small, large", [(8, 12), (9, 12), (8, 13), (9, 13), (8, 10)])
def test_padding_and_cropping_back_is_the_identity(ndim, small, large):
    image = noise(*[small] * ndim)
    padded = fourier_crop(image, (large,) * ndim)
    torch.testing.assert_close(fourier_crop(padded, (small,) * ndim), image)
    torch.testing.assert_close(padded.mean(), image.mean())


def test_cropping_keeps_low_frequencies():
    dft = image_to_dft(noise(16, 16))
    small = crop_dft(dft, (16, 16), (8, 8))
    torch.testing.assert_close(small[:4, :4], dft[:4, :4])
    torch.testing.assert_close(small[-3:, :4], dft[-3:, :4])


def test_good_sizes_are_smooth_and_even():
    assert [good_size(n) for n in (1, 11, 121, 179, 256)] == [2, 12, 126, 180, 256]
    assert good_size(9, even=False) == 9

import math

import pytest
import torch

from cryoloom.fourier.polar import PointSampler, half_ring_points


def direct_transform(images, points):
    n = images.shape[-1]
    x = torch.arange(n, dtype=torch.float64) - n // 2
    ex = torch.exp(-2j * math.pi * points[:, :1].to(torch.float64) * x / n)
    ey = torch.exp(-2j * math.pi * points[:, 1:].to(torch.float64) * x / n)
    return torch.einsum("byx,kx,ky->bk", images.to(torch.complex128), ex, ey)


def soft_disc_of_noise(n, diameter, generator, count=2):
    x = torch.arange(n) - n // 2
    disc = (torch.hypot(x[:, None].float(), x.float()) < diameter / 2).float()
    return torch.randn(count, n, n, generator=generator) * disc


@pytest.mark.parametrize("box", [32, 48, 33])
def test_samples_equal_the_direct_sum(box):
    images = soft_disc_of_noise(box, 0.8 * box, torch.Generator().manual_seed(0))
    radii = torch.arange(1, box // 2 - 1)
    points = half_ring_points(radii, 60).reshape(-1, 2)
    found = PointSampler(box, points)(images)
    expected = direct_transform(images, points)
    error = (found - expected).abs().pow(2).mean().sqrt() / expected.abs().pow(2).mean().sqrt()
    assert error < 1e-3


def test_a_point_at_the_centre_has_transform_one_everywhere():
    image = torch.zeros(1, 40, 40)
    image[0, 20, 20] = 1.0
    points = half_ring_points(torch.arange(0, 20), 32).reshape(-1, 2)
    torch.testing.assert_close(PointSampler(40, points)(image).real, torch.ones(1, len(points)), atol=2e-3, rtol=0)


def test_the_torch_body_equals_the_kernel():
    images = soft_disc_of_noise(36, 30, torch.Generator().manual_seed(1))
    sampler = PointSampler(36, half_ring_points(torch.arange(1, 17), 40).reshape(-1, 2))
    spectrum = sampler.spectrum(images)
    plain = sampler.sample(spectrum.to(torch.complex128)).to(torch.complex64)
    torch.testing.assert_close(plain, sampler.sample(spectrum), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("box", [24, 25])
def test_the_adjoint_is_the_adjoint(box):
    generator = torch.Generator().manual_seed(2)
    sampler = PointSampler(box, half_ring_points(torch.arange(0, 12), 20).reshape(-1, 2))
    x = torch.randn(2, box, box, generator=generator)
    y = torch.randn(2, len(sampler), dtype=torch.complex64, generator=generator)
    forward = (sampler(x).conj() * y).real.sum()
    torch.testing.assert_close(forward, (x * sampler.adjoint(y)).sum(), rtol=1e-4, atol=1e-3)


def test_points_beyond_nyquist_are_refused():
    with pytest.raises(ValueError, match="points"):
        PointSampler(16, torch.tensor([[9.0, 0.0]]))

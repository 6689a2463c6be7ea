"""Background statistics after normalisation, and dust."""

import torch

from cryoloom.extraction.normalise import background_mask, normalise_images


def _images(n=3, box=40):
    generator = torch.Generator().manual_seed(1)
    y = torch.linspace(-1, 1, box)[:, None]
    return 7 + 3 * torch.randn(n, box, box, generator=generator) + 20 * y


def test_background_has_mean_zero_and_deviation_one():
    background = background_mask(40, 28)
    images, spread = normalise_images(_images(), background)
    values = images[:, background].double()
    torch.testing.assert_close(values.mean(1), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(spread, torch.full((3,), 3.0, dtype=torch.float64), atol=0.3, rtol=0)


def test_a_plane_leaves_no_trace():
    background = background_mask(40, 28)
    y, x = torch.linspace(-1, 1, 40)[:, None], torch.linspace(-1, 1, 40)[None, :]
    images = _images()
    with_plane, _ = normalise_images(images + 50 * y - 30 * x + 4, background)
    without, _ = normalise_images(images, background)
    torch.testing.assert_close(with_plane, without, atol=1e-4, rtol=0)


def test_dust_is_replaced_and_nothing_else_changes():
    background = background_mask(40, 28)
    images = torch.randn(2, 40, 40, generator=torch.Generator().manual_seed(2))
    dusty = images.clone()
    dusty[0, 3, 4] = 100.0
    clean, _ = normalise_images(dusty, background, dust_sigma=6.0)
    assert clean[0, 3, 4].abs() < 3
    reference, _ = normalise_images(images, background, dust_sigma=6.0)
    torch.testing.assert_close(clean[1], reference[1])
    changed = (clean[0] - reference[0]).abs() > 0.2
    assert int(changed.sum()) <= 1


def test_normalising_leaves_its_input_alone():
    images = _images()
    before = images.clone()
    normalise_images(images, background_mask(40, 28), dust_sigma=3.0)
    assert torch.equal(images, before)

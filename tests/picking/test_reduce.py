"""Reduced micrographs: the map of pixels, spikes, backgrounds."""

import numpy as np
import pytest
import torch

from cryoloom.picking.reduce import flatten_background, reduce_micrograph, remove_spikes, remove_trend


def _spot(shape, centre, sigma):
    y, x = torch.arange(shape[0])[:, None] - centre[0], torch.arange(shape[1])[None, :] - centre[1]
    return torch.exp(-(y**2 + x**2) / (2.0 * sigma**2))


@pytest.mark.parametrize("shape", [(300, 400), (301, 399)])
def test_a_place_on_the_reduced_image_maps_to_the_same_place_on_the_micrograph(shape):
    centre = (120.0, 210.0)
    reduced = reduce_micrograph(-_spot(shape, centre, 12.0), 1.0, 5.0, dark=True)
    image = reduced.image - reduced.image.median()
    top = np.unravel_index(int(image.argmax()), image.shape)
    y0, x0 = top
    patch = image[y0 - 3 : y0 + 4, x0 - 3 : x0 + 4].double()
    offset = torch.arange(-3, 4, dtype=torch.float64)
    weight = patch**2
    place = torch.stack(
        [y0 + (weight.sum(1) * offset).sum() / weight.sum(), x0 + (weight.sum(0) * offset).sum() / weight.sum()]
    )
    np.testing.assert_allclose(reduced.to_micrograph(place[None])[0].numpy(), centre, atol=0.35)
    there = torch.tensor([[17.0, 250.0]], dtype=torch.float64)
    torch.testing.assert_close(reduced.to_micrograph(reduced.from_micrograph(there)), there)


def test_dark_particles_become_bright():
    image = torch.zeros(128, 128)
    image[60:68, 60:68] = -5.0
    assert float(reduce_micrograph(image, 1.0, 2.0, dark=True).image.max()) > 1
    assert float(reduce_micrograph(image, 1.0, 2.0, dark=False).image.min()) < -1


def test_spikes_vanish_and_other_pixels_stay():
    image = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    spoiled = image.clone()
    spoiled[10, 20] = 1e4
    spoiled[40, 5] = float("nan")
    clean = remove_spikes(spoiled)
    assert float(clean[10, 20].abs()) < 300 and bool(torch.isfinite(clean).all())
    assert float(spoiled[10, 20]) == 1e4
    same = torch.ones(64, 64, dtype=torch.bool)
    same[10, 20] = same[40, 5] = False
    assert int((clean[same] != image[same]).sum()) <= 49


def test_a_cubic_surface_is_removed_whatever_stands_on_it():
    y, x = torch.linspace(-1, 1, 200)[:, None], torch.linspace(-1, 1, 260)[None, :]
    surface = 30 + 20 * y - 15 * x + 8 * x * y + 6 * y**3
    image = surface + 0.1 * torch.randn(200, 260, generator=torch.Generator().manual_seed(0))
    image[20:50, 30:60] += 50.0
    flat = remove_trend(image)
    outside = torch.ones(200, 260, dtype=torch.bool)
    outside[20:50, 30:60] = False
    assert float(flat[outside].abs().mean()) < 0.6
    assert float(flat[35, 45]) > 45


def test_flattening_does_not_depend_on_brightness_or_gain():
    image = torch.randn(150, 150, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        flatten_background(image, 20.0), flatten_background(7 * image + 100, 20.0), atol=2e-3, rtol=0
    )

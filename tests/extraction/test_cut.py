"""Boxes: exact values at whole pixels, exact centres between them, one pixel grid after scaling."""

import numpy as np
import pytest
import torch

from cryoloom.extraction.cut import cut_boxes, cut_particles, inside_micrograph


def _gaussian(shape, centre, sigma):
    y = np.arange(shape[0])[:, None] - centre[0]
    x = np.arange(shape[1])[None, :] - centre[1]
    return torch.from_numpy(np.exp(-(y**2 + x**2) / (2 * sigma**2)).astype(np.float32))


def _centroid(image):
    image = image.double().clamp_min(0)
    n = image.shape[-1]
    axis = torch.arange(n, dtype=torch.float64) - n // 2
    total = image.sum()
    return float((image.sum(1) * axis).sum() / total), float((image.sum(0) * axis).sum() / total)


@pytest.mark.parametrize("cut", [16, 17])
def test_a_box_at_a_whole_pixel_holds_the_pixels_of_the_micrograph(cut):
    image = torch.randn(60, 70, generator=torch.Generator().manual_seed(0))
    centre = np.asarray([[20, 31], [40, 50]])
    boxes = cut_boxes(image, centre, cut)
    for box, (y, x) in zip(boxes, centre, strict=True):
        y0, x0 = y - cut // 2, x - cut // 2
        assert torch.equal(box, image[y0 : y0 + cut, x0 : x0 + cut])
        assert box[cut // 2, cut // 2] == image[y, x]


def test_a_box_over_the_edge_is_completed_by_mirroring():
    image = torch.arange(20.0)[:, None].expand(20, 20)
    box = cut_boxes(image, np.asarray([[1, 10]]), 8)[0]
    assert box[:, 0].tolist() == [3, 2, 1, 0, 1, 2, 3, 4]


def test_only_boxes_on_the_micrograph_count_as_inside():
    centre = np.asarray([[8, 8], [7, 8], [12, 12], [13, 12]])
    assert inside_micrograph(centre, 16, (20, 20)).tolist() == [True, False, True, False]


@pytest.mark.parametrize("box", [48, 24])
def test_a_refined_centre_lands_on_the_centre_pixel(box):
    position = np.asarray([[61.37, 70.81], [50.5, 49.25]])
    image = _gaussian((120, 130), position[0], 4.0)
    boxes, centre = cut_particles(image, position, 48, box, subpixel=True)
    np.testing.assert_array_equal(centre, position)
    assert max(map(abs, _centroid(boxes[0]))) < 0.02


def test_without_interpolation_the_remainder_of_the_centre_is_told():
    position = np.asarray([[61.37, 70.81]])
    image = _gaussian((120, 130), position[0], 4.0)
    boxes, centre = cut_particles(image, position, 48, 48, subpixel=False)
    np.testing.assert_array_equal(centre, [[61, 71]])
    np.testing.assert_allclose(_centroid(boxes[0]), (position - centre)[0], atol=0.02)


def test_scaling_keeps_the_centre_and_the_values():
    image = _gaussian((128, 128), (60, 66), 6.0)
    boxes, _ = cut_particles(image, np.asarray([[60.0, 66.0]]), 64, 32, subpixel=True)
    np.testing.assert_allclose(boxes[0, 16, 16], 1.0, atol=1e-3)
    assert max(map(abs, _centroid(boxes[0]))) < 1e-3

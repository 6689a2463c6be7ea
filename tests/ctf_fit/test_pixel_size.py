"""The pixel size seen through the spherical aberration."""

import numpy as np
import pytest
import torch

from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.model import Beam
from cryoloom.ctf_fit.pixel_size import SCALES, PixelScale, chosen_for_scale, pixel_scale, scale_costs
from cryoloom.ctf_fit.search import SearchRange

BEAM = Beam(300.0, 2.7, 0.1)


def test_a_pixel_size_six_percent_off_is_a_lens_of_another_aberration():
    # 2.7 mm x (0.54 / 0.51)^4 = 3.39 mm
    said = PixelScale(0.54 / 0.51, 0.003, 20).said(0.54, 2.7)
    assert "3.39 mm" in said and "0.51" in said
    assert "right within" in PixelScale(1.001, 0.003, 20).said(0.54, 2.7)
    assert "do not reach far enough" in PixelScale(1.05, 0.03, 3).said(0.54, 2.7)


def test_the_scale_is_the_vertex_of_the_summed_costs():
    rng = np.random.default_rng(0)
    where = 1.021 + rng.normal(0, 0.02, 40)
    costs = ((SCALES[None] - where[:, None]) / 0.02) ** 2 + rng.uniform(0, 100, (40, 1))
    found = pixel_scale(costs)
    assert found.scale == pytest.approx(where.mean(), abs=1e-6)
    assert found.error == pytest.approx(0.02 / np.sqrt(40), rel=0.3) and found.is_wrong
    assert not pixel_scale(costs[:3]).is_known and not pixel_scale(costs[:0]).is_known
    assert chosen_for_scale(5) == set(range(5)) and len(chosen_for_scale(1000)) == 48


def test_the_scale_shows_in_the_rings_of_one_micrograph(case, micrograph):
    image = micrograph(np.random.default_rng(3), (1024, 1024), 1.05, 12_000.0, 11_600.0, 0.4, ice=1.0, envelope=20)
    scales = []
    for planted in (1.0, 1.04):
        found = estimate_image_ctf(torch.from_numpy(image), 1.05 * planted, BEAM, SearchRange())
        scales.append(pixel_scale(scale_costs(found, BEAM)[None]).scale)
    assert scales[1] - scales[0] == pytest.approx(0.04, abs=0.015)


@pytest.mark.slow
@pytest.mark.capability("FOR-3")
def test_a_wrong_pixel_size_is_found_through_the_spherical_aberration(case, micrograph, measure):
    """Three sets of 24 micrographs; each is also read with a pixel size that is 2, 3 or 5 % off."""
    planted = ((0.0, 0.02, -0.03, 0.05), (0.0, -0.02, 0.03, -0.05), (0.0, -0.02, 0.02))
    right, total, errors, sigma = 0, 0, [], []
    for number, wrong in enumerate(planted):
        costs: dict[float, list[np.ndarray]] = {w: [] for w in wrong}
        for seed in range(24):
            rng, u, v, angle, _, recipe = case(700_000 + 100 * number + seed, 6_000.0, 25_000.0)
            image = torch.from_numpy(
                micrograph(rng, (1280, 1280), 1.05, u, v, angle, **(recipe | {"ice": 0.7, "envelope": 30.0}))
            )
            for w in wrong:
                found = estimate_image_ctf(image, 1.05 * (1 + w), BEAM, SearchRange())
                costs[w].append(scale_costs(found, BEAM))
        for w in wrong:
            scale = pixel_scale(np.stack(costs[w]))
            right += scale.is_known and scale.is_wrong == (w != 0)
            total += 1
            errors.append(abs(scale.scale - (1 + w)))
            sigma.append(scale.error)
    measure(
        right / total,
        threshold="1 (0, ±2, ±3, ±5 %)",
        note=f"{total} sets of 24 micrographs of 1280² px with rings to about 3.4 Å, 3 of them right; largest error of "
        f"the pixel size {100 * max(errors):.1f} %, stated {100 * float(np.median(sigma)):.1f} %",
    )
    assert right == total

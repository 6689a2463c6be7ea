import math

import numpy as np
import pytest
import torch

from cryoloom.ctf_fit.demodulation import demodulate_ctf
from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.model import Beam
from cryoloom.ctf_fit.picture import ring_picture
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.ctf_fit.verdict import MIN_GAIN

BEAM = Beam(300.0, 2.7, 0.1)


def estimate(image, pixel_size=1.5, beam=BEAM, where=SearchRange(), **settings):  # noqa: B008
    return estimate_image_ctf(torch.as_tensor(np.asarray(image)), pixel_size, beam, where, **settings)


@pytest.mark.parametrize(
    "u, v, angle", [(3_400, 3_000, 0.5), (9_000, 7_100, 2.0), (18_000, 17_900, 1.0), (41_000, 40_000, 0.1)]
)
def test_defocus_is_found_without_a_start(micrograph, u, v, angle):
    found = estimate(micrograph(np.random.default_rng(1), u=u, v=v, angle=angle, envelope=60, ice=0.5))
    fu, fv, fa = found.defocus.uv_angle
    assert abs(fu - u) < 5 * found.defocus_u_error
    assert abs(fv - v) < 5 * found.defocus_v_error
    assert max(abs(fu - u), abs(fv - v)) < 150
    if u - v > 1_000:
        assert abs(math.remainder(fa - angle, math.pi)) < math.radians(8)


@pytest.mark.parametrize("shape, pixel_size", [((1000, 1337), 1.2), ((2001, 1500), 0.7), ((801, 800), 2.0)])
def test_any_size_and_pixel_works(micrograph, shape, pixel_size):
    image = micrograph(np.random.default_rng(2), shape, pixel_size, 16_000.0, 15_500.0, 1.0, envelope=60, ice=0.6)
    assert estimate(image, pixel_size).defocus.mean == pytest.approx(15_750, abs=80)


def test_contrast_and_scale_and_integers_do_not_matter(micrograph):
    image = micrograph(np.random.default_rng(3), u=14_000, v=13_600, envelope=60, ice=0.5)
    plain = estimate(image)
    inverted = estimate(-7.5 * image + 100)
    counts = estimate(np.clip(np.round(3000 + 400 * image), 0, 65535).astype(np.uint16).astype(np.int32))
    assert inverted.defocus.mean == pytest.approx(plain.defocus.mean, abs=0.5)
    assert counts.defocus.mean == pytest.approx(plain.defocus.mean, abs=1)


def test_turning_the_image_turns_the_astigmatism(micrograph):
    image = micrograph(np.random.default_rng(4), u=15_000, v=13_000, angle=0.4, envelope=60, ice=0.6)
    straight, turned = estimate(image), estimate(np.ascontiguousarray(np.rot90(image, -1)))
    difference = turned.defocus.uv_angle[2] - straight.defocus.uv_angle[2]
    assert abs(math.remainder(difference - math.pi / 2, math.pi)) < math.radians(2)
    assert turned.defocus.mean == pytest.approx(straight.defocus.mean, abs=10)


def test_noise_without_rings_is_known_as_such():
    rng = np.random.default_rng(5)
    gains = [estimate(rng.standard_normal((768, 768)).astype(np.float32)).gain for _ in range(4)]
    assert max(gains) < MIN_GAIN


def test_faint_rings_do_not_lead_out_of_the_range():
    where = SearchRange(5_000.0, 20_000.0, 600.0)
    for seed in range(3):
        noise = np.random.default_rng(seed).standard_normal((512, 512), dtype=np.float32)
        for found in (estimate(noise, where=where), demodulate_ctf(torch.from_numpy(noise), 1.5, BEAM, where)):
            assert where.holds(found.defocus.as_array())


def test_the_nearest_ctf_of_a_range_keeps_its_direction():
    where = SearchRange(5_000.0, 20_000.0, 1_000.0)
    assert where.holds(np.array([9_000.0, 300.0, -400.0, 0.3]))
    assert not where.holds(np.array([9_000.0, 600.0, -800.0, 0.3]))
    near = where.inside(np.array([99_000.0, 600.0, -800.0, 0.3]))
    np.testing.assert_allclose(near, [20_050.0, 300.0, -400.0, 0.3])


def test_a_phase_shift_is_fitted_with_the_defocus(micrograph):
    image = micrograph(np.random.default_rng(6), u=9_000, v=8_600, phase_shift=math.radians(70), envelope=50, ice=0.6)
    where = SearchRange(phase_shifts=tuple(np.radians(np.arange(0, 180, 12))))
    found = estimate(image, where=where, fit_phase_shift=True)
    assert math.degrees(found.defocus.phase_shift) % 180 == pytest.approx(70, abs=5)
    assert found.defocus.mean == pytest.approx(8_800, abs=100)


def test_other_microscopes_are_as_good(micrograph):
    image = micrograph(
        np.random.default_rng(7), u=12_000, v=11_000, voltage_kv=200.0, cs_mm=0.01, contrast=0.07, envelope=60, ice=0.5
    )
    assert estimate(image, beam=Beam(200.0, 0.01, 0.07)).defocus.mean == pytest.approx(11_500, abs=60)


def test_the_limit_follows_the_envelope(micrograph):
    limits = []
    for envelope in (40, 120, 300):
        image = micrograph(np.random.default_rng(8), (1536, 1536), 1.2, 13_000.0, 12_600.0, 0.3, envelope=envelope)
        limits.append(1 / estimate(image, 1.2).k_limit)
    assert limits[0] < limits[1] < limits[2]


def test_an_image_too_small_or_empty_is_refused():
    with pytest.raises(ValueError, match="64 x 64"):
        estimate(np.zeros((40, 200), np.float32))
    with pytest.raises(ValueError, match="flat or empty"):
        estimate(np.ones((512, 512), np.float32))


def test_the_picture_shows_the_same_rings_on_both_sides(micrograph):
    found = estimate(micrograph(np.random.default_rng(9), u=12_000, v=11_800, envelope=60, ice=0.8))
    picture = ring_picture(found, BEAM, size=256, k_edge=0.12)
    left, right = picture[:, 1:128][:, ::-1], picture[:, 129:256]
    both = (left != 0) & (right != 0)
    # Friedel symmetry: the right half continues the left one turned by half a turn.
    turned = np.roll(right[::-1], 1, axis=0)
    assert np.corrcoef(left[both], turned[both])[0, 1] > 0.6

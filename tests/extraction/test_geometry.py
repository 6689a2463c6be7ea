"""Box and pixel size."""

import pytest

from cryoloom.extraction.geometry import defocus_spread, plan_box


def test_a_box_holds_the_particle_and_what_defocus_spreads():
    plain = plan_box(1.5, 120.0, box=None, target_pixel_size=None)
    spread = plan_box(1.5, 120.0, box=None, target_pixel_size=None, spread=40.0)
    assert plain.box * plain.pixel_size >= 180
    assert spread.box * spread.pixel_size >= 200
    assert plain.cut == plain.box and plain.box % 2 == 0


def test_the_field_of_view_is_the_same_before_and_after_scaling():
    plan = plan_box(1.06, 180.0, box=None, target_pixel_size=3.2)
    assert plan.cut * 1.06 == pytest.approx(plan.box * plan.pixel_size)
    assert plan.pixel_size == pytest.approx(3.2, rel=0.02)
    assert plan.cut % 2 == 0


def test_pixels_are_never_made_finer():
    assert plan_box(1.5, 100.0, box=64, target_pixel_size=1.0).pixel_size == 1.5


def test_detail_is_displaced_by_wavelength_times_defocus_over_resolution():
    assert defocus_spread(0.0197, 15_000.0, 3.0) == pytest.approx(98.5)

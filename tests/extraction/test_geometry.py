"""Box and pixel size."""

import re

import numpy as np
import pytest
import torch

from cryoloom.extraction.geometry import BoxPlan, aimed_resolution, box_remark, defocus_spread, plan_box
from cryoloom.optics import ctf_phase


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
    assert defocus_spread(15_000.0, 300.0, 0.0, 3.0) == pytest.approx(98.4, abs=0.1)


@pytest.mark.parametrize("pixel_size, defocus", [(1.8, 15_000.0), (1.2, 12_000.0), (3.5, 25_000.0)])
def test_a_box_that_was_found_holds_the_detail_it_aims_at_or_ends_at_two_diameters(pixel_size, defocus):
    aim = aimed_resolution(pixel_size)
    for diameter in (90.0, 150.0, 300.0):
        spread = defocus_spread(defocus, 300.0, 2.7, aim)
        plan = plan_box(pixel_size, diameter, box=None, target_pixel_size=None, spread=spread)
        extent = plan.box * plan.pixel_size
        _, remark = box_remark(plan, diameter, defocus, 300.0, 2.7, aim)
        if diameter + 2 * spread <= 2 * diameter:
            assert remark == "" and extent < 1.12 * max(1.5 * diameter, diameter + 2 * spread)
        else:
            assert 2 * diameter <= extent < 2.2 * diameter and "are aimed at" in remark


@pytest.mark.capability("CTF-9")
def test_a_box_that_is_too_small_is_named_with_what_it_loses(measure):
    """200 boxes, half of them large enough; the truth is the numerical slope of the CTF's phase."""
    rng = np.random.default_rng(9)
    n, right, n_small = 200, 0, 0
    for case in range(n):
        defocus, diameter = float(rng.uniform(4_000, 30_000)), float(rng.uniform(80, 250))
        pixel_size, voltage = float(rng.uniform(0.7, 2.0)), float(rng.choice([120.0, 200.0, 300.0]))
        k = torch.linspace(1e-4, 0.5 / pixel_size, 20_001, dtype=torch.float64)
        phase = ctf_phase(
            torch.zeros_like(k), k, defocus_u=defocus, defocus_v=defocus, defocus_angle=0.0, voltage_kv=voltage,
            cs_mm=2.7, amplitude_contrast=0.1,
        )  # fmt: skip
        moved = np.abs(np.gradient(phase.numpy(), k.numpy())) / (2 * np.pi)
        needed = diameter + 2 * moved.max()
        extent = (
            needed * rng.uniform(1.02, 1.6) if case % 2 else diameter + (needed - diameter) * rng.uniform(0.1, 0.95)
        )
        box = 2 * int(np.ceil(extent / pixel_size / 2))
        _, remark = box_remark(BoxPlan(box, box, pixel_size), diameter, defocus, voltage, 2.7)
        over = moved > 0.5 * (box * pixel_size - diameter)
        if not over.any():
            right += remark == ""
            continue
        n_small += 1
        lost = 1 / float(k[np.argmax(over)]) - 2 * pixel_size
        stated = re.search(r"so ([\d.]+) Å are lost", remark)
        right += (stated is not None and abs(float(stated[1]) - lost) < 0.02 + 0.005 * lost) or lost < 0.01 * pixel_size
    measure(right / n, threshold="1 (100 %)", note=f"{n_small} of {n} boxes too small, at 120-300 kV, 0.4-3 µm")
    assert n_small >= 90
    assert right == n

"""Displacement by defocus against the slope of the CTF's phase, and what a box holds."""

import math

import numpy as np
import torch

from cryoloom.optics import ctf_phase
from cryoloom.optics.delocalisation import displacement, resolution_held


def test_the_displacement_is_the_slope_of_the_phase():
    k = torch.linspace(0.01, 0.45, 400, dtype=torch.float64, requires_grad=True)
    phase = ctf_phase(
        torch.zeros_like(k), k, defocus_u=9_000.0, defocus_v=9_000.0, defocus_angle=0.0, voltage_kv=200.0, cs_mm=2.0,
        amplitude_contrast=0.1,
    )  # fmt: skip
    (slope,) = torch.autograd.grad(phase.sum(), k)
    found = displacement(k.detach().numpy(), 9_000.0, 200.0, 2.0)
    np.testing.assert_allclose(found, np.abs(slope.numpy()) / (2 * math.pi), rtol=1e-9)


def test_a_box_holds_what_is_displaced_no_further_than_its_margin():
    held = resolution_held(200.0, 120.0, 15_000.0, 300.0, 0.0, finest=2.0)
    assert math.isclose(held, 0.0196875 * 15_000 / 40, rel_tol=1e-3)
    assert resolution_held(800.0, 120.0, 15_000.0, 300.0, 2.7, finest=2.0) == 2.0
    assert resolution_held(100.0, 120.0, 15_000.0, 300.0, 2.7, finest=2.0) == math.inf

import math

import numpy as np
import pytest
import torch

from cryoloom.ctf_fit.model import Beam, Defocus, double_phase, spline_basis
from cryoloom.optics import ctf_phase


def test_the_double_phase_is_twice_that_of_the_optics():
    rng = np.random.default_rng(0)
    ky, kx = rng.uniform(-0.3, 0.3, (2, 50))
    u, v, angle, phase = 21_000.0, 19_500.0, math.radians(35), 0.7
    found = double_phase(
        Beam(200.0, 2.0, 0.07), Defocus.from_uv(u, v, angle, phase), kx**2 + ky**2, kx**2 - ky**2, 2 * kx * ky
    )
    expected = ctf_phase(
        torch.from_numpy(ky),
        torch.from_numpy(kx),
        defocus_u=u,
        defocus_v=v,
        defocus_angle=angle,
        voltage_kv=200.0,
        cs_mm=2.0,
        amplitude_contrast=0.07,
        phase_shift=phase,
    )
    np.testing.assert_allclose(found, 2 * expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("u, v, angle", [(20_000, 19_000, 0.4), (15_000, 15_000, 0.0), (9_000, 8_999, 3.0)])
def test_defocus_goes_to_two_components_and_back(u, v, angle):
    back = Defocus.from_uv(u, v, angle).uv_angle
    assert back[0] == pytest.approx(u)
    assert back[1] == pytest.approx(v)
    if u > v:
        assert back[2] == pytest.approx(angle)


def test_u_is_the_larger_defocus_whatever_came():
    u, v, angle = Defocus.from_uv(10_000, 12_000, 0.2).uv_angle
    assert (u, v) == (pytest.approx(12_000), pytest.approx(10_000))
    assert angle == pytest.approx(0.2 + math.pi / 2)


def test_splines_sum_to_one():
    np.testing.assert_allclose(spline_basis(np.linspace(0.1, 0.5, 40), 0.1, 0.5, 7).sum(1), 1, rtol=1e-12)

import math

import pytest
import torch

from cryoloom.optics import ctf, electron_wavelength

MICROSCOPE = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_wavelength_at_300_kv():
    assert abs(electron_wavelength(300.0) - 0.0196875) < 1e-7


def test_values_of_the_table_of_conventions():
    k = tensor(0.05, 0.1, 0.2)
    found = ctf(torch.zeros_like(k), k, defocus_u=15_000.0, defocus_v=15_000.0, defocus_angle=0.0, **MICROSCOPE)
    torch.testing.assert_close(found, tensor(0.66243, 0.07934, -0.84500), atol=2e-4, rtol=0)


def test_astigmatic_values_of_the_table_of_conventions():
    kx, ky = tensor(0.1, 0.0, 0.08), tensor(0.0, 0.1, 0.06)
    found = ctf(ky, kx, defocus_u=16_000.0, defocus_v=14_000.0, defocus_angle=math.radians(30), **MICROSCOPE)
    torch.testing.assert_close(found, tensor(-0.22781, 0.37896, -0.49808), atol=2e-4, rtol=0)


def test_the_origin_has_the_amplitude_contrast():
    zero = tensor(0.0)
    value = ctf(zero, zero, defocus_u=10_000.0, defocus_v=10_000.0, defocus_angle=0.0, **MICROSCOPE)
    assert float(value) == pytest.approx(0.1)


def test_swapping_u_and_v_is_turning_by_ninety_degrees():
    k = torch.rand(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.3
    a = ctf(k[0], k[1], defocus_u=12_000.0, defocus_v=15_000.0, defocus_angle=0.4, **MICROSCOPE)
    b = ctf(k[0], k[1], defocus_u=15_000.0, defocus_v=12_000.0, defocus_angle=0.4 + math.pi / 2, **MICROSCOPE)
    torch.testing.assert_close(a, b)


def test_a_batch_equals_a_loop():
    k = torch.rand(2, 8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.3
    u, v, angle = tensor(10_000.0, 20_000.0), tensor(11_000.0, 18_000.0), tensor(0.1, 2.0)
    b = tensor(0.0, 80.0)
    batch = ctf(k[0], k[1], defocus_u=u, defocus_v=v, defocus_angle=angle, bfactor=b, **MICROSCOPE)
    for i in range(2):
        one = ctf(k[0], k[1], defocus_u=u[i], defocus_v=v[i], defocus_angle=angle[i], bfactor=b[i], **MICROSCOPE)
        torch.testing.assert_close(batch[i], one)

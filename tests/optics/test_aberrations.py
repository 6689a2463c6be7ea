import math

import pytest
import torch

from cryoloom.optics import ctf, electron_wavelength
from cryoloom.optics.aberrations import (
    aberrated_ctf,
    antisymmetric_phase,
    magnify_frequencies,
    zernike,
    zernike_order,
    zernike_phase,
)

BEAM = {"voltage_kv": 300.0, "cs_mm": 2.7}
CTF = {"defocus_u": 15_000.0, "defocus_v": 14_000.0, "defocus_angle": 0.4, "amplitude_contrast": 0.1} | BEAM


def points(n=60, seed=0):
    return 0.4 * (torch.rand(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5)


def test_coefficients_come_in_the_order_of_relion():
    assert [zernike_order(i, odd=True) for i in range(6)] == [(-1, 1), (1, 1), (-3, 3), (-1, 3), (1, 3), (3, 3)]
    assert [zernike_order(i, odd=False) for i in range(5)] == [(0, 0), (-2, 2), (0, 2), (2, 2), (-4, 4)]


@pytest.mark.parametrize(
    "m, n, expected",
    [
        (0, 0, lambda y, x: 1 + 0 * x),
        (1, 1, lambda y, x: x),
        (-1, 1, lambda y, x: y),
        (0, 2, lambda y, x: 2 * (x**2 + y**2) - 1),
        (-2, 2, lambda y, x: 2 * x * y),
        (2, 2, lambda y, x: x**2 - y**2),
        (1, 3, lambda y, x: (3 * (x**2 + y**2) - 2) * x),
        (-3, 3, lambda y, x: 3 * x**2 * y - y**3),
        (0, 4, lambda y, x: 6 * (x**2 + y**2) ** 2 - 6 * (x**2 + y**2) + 1),
        (-2, 4, lambda y, x: (4 * (x**2 + y**2) - 3) * 2 * x * y),
    ],
)
def test_zernike_polynomials_are_the_textbook_ones(m, n, expected):
    y, x = points()
    torch.testing.assert_close(zernike(m, n, y, x), expected(y, x))


def test_odd_polynomials_are_odd_and_even_ones_even():
    y, x = points()
    coefficients = torch.linspace(0.3, -0.2, 12).tolist()
    odd, even = (zernike_phase(y, x, coefficients, odd=o) for o in (True, False))
    torch.testing.assert_close(zernike_phase(-y, -x, coefficients, odd=True), -odd)
    torch.testing.assert_close(zernike_phase(-y, -x, coefficients, odd=False), even)


def test_without_aberrations_the_transfer_is_the_ctf():
    y, x = points()
    plain = ctf(y, x, **CTF, phase_shift=0.3, bfactor=50.0)
    transfer = aberrated_ctf(y, x, **CTF, phase_shift=0.3, bfactor=50.0)
    torch.testing.assert_close(transfer.real, plain)
    assert transfer.imag.abs().max() < 1e-12


def test_a_beam_tilt_is_a_sum_of_odd_zernikes_as_relion_inserts_it():
    y, x = points()
    tilt = (0.8, -1.3)
    scale = 2.7 * 20_000 * electron_wavelength(300.0) ** 2 * math.pi
    zx, zy = (-scale * t / 3 for t in tilt)
    by_zernike = zernike_phase(y, x, [2 * zy, 2 * zx, 0, zy, zx, 0], odd=True)
    torch.testing.assert_close(antisymmetric_phase(y, x, beam_tilt_mrad=tilt, **BEAM), by_zernike)


def test_an_even_quadratic_term_is_a_change_of_defocus():
    y, x = points()
    change = 400.0
    # -π λ Δf k² = a (2 k² - 1) + b with a = -π λ Δf / 2, b = a
    a = -0.5 * math.pi * electron_wavelength(300.0) * change
    shifted = CTF | {"defocus_u": 15_000 + change, "defocus_v": 14_000 + change}
    torch.testing.assert_close(
        aberrated_ctf(y, x, **CTF, even_zernike=[a, 0, a]).real, ctf(y, x, **shifted), rtol=1e-9, atol=1e-9
    )


def test_magnification_multiplies_frequencies_by_its_matrix():
    y, x = points()
    matrix = ((1.01, 0.002), (-0.003, 0.99))
    qy, qx = magnify_frequencies(y, x, matrix)
    expected = torch.tensor(matrix, dtype=torch.float64) @ torch.stack([x, y])
    torch.testing.assert_close(torch.stack([qx, qy]), expected)
    magnified = aberrated_ctf(y, x, **CTF, odd_zernike=(0, 0, 30.0), magnification=matrix)
    torch.testing.assert_close(magnified, aberrated_ctf(qy, qx, **CTF, odd_zernike=(0, 0, 30.0)))


def test_batches_of_defocus_give_batches_of_transfer():
    y, x = points()
    u = torch.tensor([10_000.0, 20_000.0], dtype=torch.float64)
    both = aberrated_ctf(y, x, **(CTF | {"defocus_u": u}), beam_tilt_mrad=(0.5, 0.2))
    for i in range(2):
        one = aberrated_ctf(y, x, **(CTF | {"defocus_u": float(u[i])}), beam_tilt_mrad=(0.5, 0.2))
        torch.testing.assert_close(both[i], one)


def test_an_impossible_order_is_refused():
    with pytest.raises(ValueError, match="parity"):
        zernike(1, 2, *points())

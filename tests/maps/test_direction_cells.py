"""Sums by shell and direction in one pass are those of a comparison with every direction."""

import numpy as np
import pytest
import torch

from cryoloom.fourier import half_spectrum_weights, rfftn, shell_index
from cryoloom.geometry import direction_grid
from cryoloom.maps.direction_cells import candidates, sums_by_direction


def half_of(n_side):
    cells = direction_grid(n_side).numpy()
    return cells[(cells[:, 2] > 1e-9) | ((np.abs(cells[:, 2]) <= 1e-9) & (cells[:, 1] >= 0))]


@pytest.mark.parametrize("box", [16, 17])
def test_sums_are_those_of_comparing_all(box):
    cells = half_of(3)
    # turned by an odd angle, so that no coefficient lies between two directions
    turn = torch.linalg.matrix_exp(torch.tensor([[0, 0.3, -0.2], [-0.3, 0, 0.7], [0.2, -0.7, 0]], dtype=torch.float64))
    cells = cells @ turn.numpy()
    a, b = torch.randn(2, box, box, box, generator=torch.Generator().manual_seed(0))
    found = sums_by_direction(a, b, cells)
    kz = torch.fft.fftfreq(box, dtype=torch.float64)
    kx = torch.fft.rfftfreq(box, dtype=torch.float64)
    k = torch.stack([g.reshape(-1) for g in torch.meshgrid(kz, kz, kx, indexing="ij")][::-1], 1)
    nearest = (k @ torch.from_numpy(cells).T).abs().argmax(1).numpy()
    shell = shell_index((box,) * 3).reshape(-1).numpy()
    weight = np.broadcast_to(half_spectrum_weights(box).numpy(), (box, box, box // 2 + 1)).ravel()
    first, second = (rfftn(x, 3).reshape(-1).numpy().astype(np.complex128) for x in (a, b))
    kept = (shell > 0) & (shell <= box // 2)
    parts = ((first * second.conj()).real, np.abs(first) ** 2, np.abs(second) ** 2, np.ones(len(first)))
    for sums, part in zip(found, parts, strict=True):
        expected = np.zeros((box // 2 + 1, len(cells)))
        np.add.at(expected, (shell[kept], nearest[kept]), (weight * part)[kept])
        np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=1e-6)


def test_the_nearest_direction_is_always_listed():
    cells, squares = half_of(6), 8
    starts, listed = candidates(cells, squares)
    assert np.diff(starts).max() < 0.3 * len(cells)
    k = np.random.default_rng(0).normal(size=(5000, 3))
    best = np.abs(k @ cells.T).argmax(1)
    face = np.abs(k).argmax(1)
    flat = np.take_along_axis(k, np.array([[1, 2], [0, 2], [0, 1]])[face], 1) / k[np.arange(len(k)), face][:, None]
    u, v = ((flat + 1) * 0.5 * squares).astype(int).clip(0, squares - 1).T
    square = (face * squares + u) * squares + v
    assert all(b in listed[starts[s] : starts[s + 1]] for b, s in zip(best, square, strict=True))

"""Templates: the turn, the compression, and the score they give."""

import numpy as np
import torch

from cryoloom.picking.bank import References, build_bank, match_bank, turn
from cryoloom.picking.matched import Spectrum


def _lopsided(n=33):
    y, x = np.arange(n)[:, None] - n // 2, np.arange(n)[None, :] - n // 2
    image = np.exp(-((y - 1) ** 2 + (x - 6) ** 2) / 18.0) + 0.7 * np.exp(-((y + 5) ** 2 + (x + 4) ** 2) / 8.0)
    return image.astype(np.float32)


def test_a_quarter_turn_takes_x_to_y():
    image = np.zeros((9, 9), dtype=np.float32)
    image[4, 7] = 1.0  # xy (3, 0)
    turned = turn(image, np.pi / 2, 9, 1.0)  # Rz(90°): xy (0, 3)
    assert np.unravel_index(turned.argmax(), turned.shape) == (7, 4)


def test_the_compressed_bank_is_close_to_the_turned_templates():
    references = References(_lopsided()[None], 4.0)
    coarse = build_bank(references, 4.0, 90.0, np.pi / 12, energy=0.995)
    full = build_bank(references, 4.0, 90.0, np.pi / 12, energy=1.0 - 1e-12)
    assert len(coarse.components) < len(full.components)
    near = (coarse.coefficients @ coarse.components.flatten(1)).double()
    exact = (full.coefficients @ full.components.flatten(1)).double()
    assert float(((near - exact) ** 2).sum() / (exact**2).sum()) < 0.006


def test_place_angle_and_reference_of_a_hidden_particle_are_found():
    generator = torch.Generator().manual_seed(0)
    first, second = _lopsided(), _lopsided()[:, ::-1].T.copy() ** 2
    references = References(np.stack([second, first]), 4.0)
    image = 0.25 * torch.randn(128, 140, generator=generator)
    angle = np.deg2rad(75.0)
    image[50 - 16 : 50 + 17, 80 - 16 : 80 + 17] += torch.from_numpy(turn(first, angle, 33, 1.0))
    spectrum = Spectrum(image, (4.0, 4.0), None, margin_px=16, exponent=0.0)
    bank = build_bank(references, 4.0, 90.0, np.deg2rad(15.0))
    score, decoy, labels = match_bank(spectrum, bank)
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    assert abs(y - 50) <= 1 and abs(x - 80) <= 1
    assert int(labels["class_number"][y, x]) == 2
    assert abs(float(labels["psi"][y, x]) - angle) < 1e-4
    assert float(decoy.max()) < float(score.max())


def test_scores_of_white_noise_have_deviation_one():
    image = torch.randn(200, 220, generator=torch.Generator().manual_seed(3))
    bank = build_bank(References(_lopsided()[None], 4.0), 4.0, 90.0, 2 * np.pi)
    for exponent in (0.0, 0.5, 1.0):
        score, decoy, _ = match_bank(Spectrum(image, (4.0, 4.0), None, margin_px=16, exponent=exponent), bank)
        assert abs(float(score.std()) - 1) < 0.2
        torch.testing.assert_close(decoy, -score)

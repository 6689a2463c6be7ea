"""Templates: the turn, the compression, and the score they give."""

import dataclasses

import numpy as np
import pytest
import torch

from cryoloom.fourier import frequency_grid, half_spectrum_weights, irfftn, rfftn
from cryoloom.picking.bank import References, build_bank, turn
from cryoloom.picking.bank_match import BankMatch, match_bank
from cryoloom.picking.matched import Spectrum, default_transfer
from cryoloom.picking.peaks import find_peaks, normalise_by_background


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


def test_views_that_are_the_same_but_for_a_turn_are_looked_for_once():
    first, other = _lopsided(), _lopsided()[:, ::-1].T.copy() ** 2
    images = np.stack([first, turn(first, np.deg2rad(30.0), 33, 1.0), other, other])
    bank = build_bank(References(images, 4.0), 4.0, 90.0, np.deg2rad(15.0))
    assert bank.class_number.unique().tolist() == [1, 3]
    assert bank.n_turns == 24 and len(bank.coefficients) == len(bank.psi) == 48


def test_place_angle_and_reference_of_a_hidden_particle_are_found():
    generator = torch.Generator().manual_seed(0)
    first, second = _lopsided(), _lopsided()[:, ::-1].T.copy() ** 2
    references = References(np.stack([second, first]), 4.0)
    image = 0.25 * torch.randn(128, 140, generator=generator)
    angle = np.deg2rad(75.0)
    image[50 - 16 : 50 + 17, 80 - 16 : 80 + 17] += torch.from_numpy(turn(first, angle, 33, 1.0))
    spectrum = Spectrum(image, (4.0, 4.0), None, margin_px=16, exponent=0.0)
    bank = build_bank(references, 4.0, 90.0, np.deg2rad(15.0))
    found = match_bank(spectrum, bank, distance_px=10.0, apart_px=20.0, lowest=2.0)
    assert np.abs(found.position[0] - [50, 80]).max() <= 1
    assert int(bank.class_number[found.template[0]]) == 2
    assert abs(float(bank.psi[found.template[0]]) - angle) < 1e-4
    assert float(found.decoy.max()) < found.value[0]


def test_scores_of_white_noise_have_deviation_one():
    image = torch.randn(200, 220, generator=torch.Generator().manual_seed(3))
    bank = build_bank(References(_lopsided()[None], 4.0), 4.0, 90.0, 2 * np.pi)
    for exponent in (0.0, 0.5, 1.0):
        spectrum = Spectrum(image, (4.0, 4.0), None, margin_px=16, exponent=exponent)
        score, decoy = BankMatch(spectrum, bank).best()
        assert abs(float(score.std()) - 1) < 0.2
        torch.testing.assert_close(decoy, -score)


@pytest.mark.parametrize("n_turns", [1, 2, 5, 12])
def test_scores_from_waves_are_those_of_each_template_by_itself(n_turns):
    references = References(np.stack([_lopsided(), _lopsided()[:, ::-1].T.copy() ** 2]), 4.0)
    bank = build_bank(references, 4.0, 90.0, 2 * np.pi / n_turns, energy=1.0 - 1e-12)
    assert bank.n_turns == n_turns
    transfer = dataclasses.replace(default_transfer(300.0, 2.7, 0.1), defocus_v=9_000.0, defocus_angle=0.4)
    image = torch.randn(90, 110, generator=torch.Generator().manual_seed(4))
    spectrum = Spectrum(image, (4.0, 4.0), transfer, margin_px=20)
    templates = (bank.coefficients @ bank.components.flatten(1)).reshape(-1, *bank.components.shape[1:])
    size, scores = templates.shape[-1], []
    for template in templates:
        padded = torch.zeros(spectrum.shape)
        padded[:size, :size] = template
        seen = rfftn(torch.roll(padded, (-(size // 2), -(size // 2)), (0, 1)), 2) * spectrum.ctf
        power = seen.abs() ** 2 * spectrum.weight * spectrum.power_weight * half_spectrum_weights(spectrum.shape[1])
        deviation = power.sum().sqrt() / (spectrum.shape[0] * spectrum.shape[1])
        scores.append(irfftn(spectrum.weighted * seen.conj(), spectrum.shape)[20:110, 20:130] / deviation)
    best, worst = BankMatch(spectrum, bank).best()
    torch.testing.assert_close(best, torch.stack(scores).amax(0), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(worst, -torch.stack(scores).amin(0), atol=2e-3, rtol=1e-3)


def test_what_subtraction_moved_is_scored_again():
    bank = build_bank(References(_lopsided()[None], 4.0), 4.0, 90.0, np.deg2rad(15.0))
    image = 0.3 * torch.randn(150, 170, generator=torch.Generator().manual_seed(5))
    image[40:73, 60:93] += torch.from_numpy(_lopsided())
    spectrum = Spectrum(image, (4.0, 4.0), default_transfer(300.0, 2.7, 0.1), margin_px=20)
    match, pixel = BankMatch(spectrum, bank), np.asarray([[56, 76]])
    match.best()
    row = match.best_template(pixel)
    match.subtract(pixel, row, match.score(pixel, row))
    best, worst = match.best()
    match._moved[:] = 1.0  # all is scored again
    for partly, wholly in zip((best, worst), match.best(), strict=True):
        assert float((partly - wholly).abs().max()) < 0.05


def test_side_lobes_of_a_particle_are_gone_once_it_is_subtracted():
    transfer = default_transfer(300.0, 2.7, 0.1)
    rod = np.zeros((33, 33), dtype=np.float32)
    rod[4:29, 14:19] = 1.0
    specimen = torch.zeros(1, 160, 160)
    centres = ((50, 50), (50, 110), (110, 80))
    for y, x in centres:
        specimen[0, y - 16 : y + 17, x - 16 : x + 17] += torch.from_numpy(rod)
    image = irfftn(rfftn(specimen, 2) * transfer.on_grid(frequency_grid((160, 160), 4.0)), (160, 160))[0]
    image += 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    spectrum = Spectrum(image, (4.0, 4.0), transfer, margin_px=24)
    bank = build_bank(References(rod[None], 4.0), 4.0, 110.0, np.deg2rad(15.0))
    found = match_bank(spectrum, bank, distance_px=6.0, apart_px=28.0, lowest=2.0)
    places = [tuple(place) for place in found.position[:3]]
    assert all(min(abs(y - a) + abs(x - b) for a, b in places) < 1 for y, x in centres)
    best, worst = BankMatch(spectrum, bank).best()
    raw = find_peaks(normalise_by_background(best, worst)[0], 6.0, lowest=2.0)[1]
    assert raw[3] > 20
    assert found.value[3] < 0.4 * raw[3]


def test_a_subtracted_template_leaves_nothing_at_the_edge_either():
    bank = build_bank(References(_lopsided()[None], 4.0), 4.0, 90.0, np.deg2rad(15.0))
    image = torch.zeros(96, 110)
    turned = (bank.coefficients[5] @ bank.components.flatten(1)).reshape(bank.components.shape[1:])
    half = turned.shape[0] // 2
    image[: half + 1 + 3, 40 - half : 41 + half] = turned[half - 3 :]
    image += 1e-3 * torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    match = BankMatch(Spectrum(image, (4.0, 4.0), None, margin_px=20, exponent=0.0), bank)
    before = float(match.best()[0].max())
    pixel, row = np.asarray([[3, 40]]), np.asarray([5])
    match.subtract(pixel, row, match.score(pixel, row))
    inside = match.best()[0][3 + half :]
    assert float(inside.abs().max()) < 0.2 * before

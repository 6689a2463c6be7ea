"""Postprocessing of half maps with known signal: resolution, mask correction, warnings and refusals."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.io.fsc_xml import read_fsc_xml
from cryoloom.maps import (
    apply_bfactor,
    fourier_shell_correlation,
    lowpass,
    randomise_phases,
    resolution_at,
    soft_mask_from_map,
    spherical_mask,
)
from cryoloom.maps.corrected import corrected_fsc
from cryoloom.maps.detail import DetailCurve
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.spectrum import GuinierFit, radial_power
from cryoloom.postprocess.oversharpening import oversharpened
from cryoloom.postprocess.settings import PostprocessSettings
from cryoloom.postprocess.stage import postprocess_map

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun
from phantoms import body, half_maps, noise_for, protein_like

BOX, PIXEL = 80, 1.5


@pytest.fixture(scope="module")
def planted():
    signal = apply_bfactor(protein_like(BOX, PIXEL, 36.0), PIXEL, 100.0)
    mask = soft_mask_from_map(lowpass(signal, PIXEL, 15.0), PIXEL)
    half1, half2 = half_maps(signal, noise_for(signal, mask, PIXEL, 4.5))
    return signal, mask, half1, half2


def run_stage(folder, half1, half2, mask=None, **settings):
    run = MemoryRun(folder)
    maps = [None if m is None else VolumeMap(np.asarray(m, dtype=np.float32), PIXEL) for m in (half1, half2, mask)]
    return postprocess_map(*maps, PostprocessSettings(**settings), run), run


def test_the_resolution_of_two_halves_is_that_of_their_mean_against_the_truth(planted, tmp_path):
    signal, _, half1, half2 = planted
    result, run = run_stage(tmp_path, half1, half2)
    mask = torch.from_numpy(result["mask"].data)
    truth = resolution_at(fourier_shell_correlation(0.5 * (half1 + half2) * mask, signal * mask), 0.5, BOX, PIXEL)
    assert run.summary["resolution"] == pytest.approx(truth, rel=0.03)
    low, high = run.summary["resolution_interval"]
    assert low < run.summary["resolution"] < high and high - low < 0.5
    assert run.summary["verdict"] == "found"
    frequency, fsc = read_fsc_xml(tmp_path / "fsc.xml")
    np.testing.assert_allclose(fsc, result["fsc"].corrected[1:], atol=1e-5)
    assert {figure.name for figure in run.figures} >= {"fsc", "mask", "map"}


def test_sharpening_changes_no_phase(planted, tmp_path):
    signal, _, half1, half2 = planted
    result, run = run_stage(tmp_path, half1, half2, bfactor=100.0)
    mean = torch.fft.rfftn(0.5 * (half1 + half2))
    sharpened = torch.fft.rfftn(torch.from_numpy(result["map_sharpened"].data))
    strong = sharpened.abs() > 1e-2 * sharpened.abs().mean()
    difference = torch.angle(sharpened[strong] * mean[strong].conj())
    assert float(difference.abs().quantile(0.999)) < 0.02


def test_a_given_mask_is_used_and_a_cutting_one_is_announced(planted, tmp_path):
    _, mask, half1, half2 = planted
    result, run = run_stage(tmp_path, half1, half2, mask)
    np.testing.assert_allclose(result["mask"].data, mask.numpy(), atol=1e-6)
    assert not any("cuts density" in w for w in run.warnings)
    small = spherical_mask(BOX, 12.0, 6.0)
    _, run = run_stage(tmp_path, half1, half2, small)
    assert any("cuts density" in w for w in run.warnings) and run.summary["verdict"] == "doubtful"


def test_pure_noise_is_not_called_a_structure(tmp_path):
    generator = torch.Generator().manual_seed(3)
    half1, half2 = torch.randn(2, BOX, BOX, BOX, generator=generator)
    _, run = run_stage(tmp_path, half1, half2)
    assert run.summary["verdict"] == "not found" and run.summary["resolution"] > 20


def test_noise_in_common_beyond_the_signal_makes_the_verdict_doubtful(planted, tmp_path):
    _, _, half1, half2 = planted
    shared = 0.4 * float((half1 - half2).std()) * torch.randn(half1.shape, generator=torch.Generator().manual_seed(9))
    _, run = run_stage(tmp_path, half1 + shared, half2 + shared)
    assert any("share noise" in w for w in run.warnings) or not run.summary["resolution"] > 3.2


def test_what_does_not_fit_is_refused_in_one_sentence(planted, tmp_path):
    _, mask, half1, half2 = planted
    with pytest.raises(InputError, match="same map as half1"):
        run_stage(tmp_path, half1, half1)
    with pytest.raises(InputError, match="expected the size of half1"):
        run_stage(tmp_path, half1, half2[:40, :40, :40])
    with pytest.raises(InputError, match=r"expected values in \[0, 1\]"):
        run_stage(tmp_path, half1, half2, 5 * mask)
    with pytest.raises(InputError, match="is empty"):
        run_stage(tmp_path, half1, torch.zeros_like(half1))


@pytest.mark.capability("VAL-1")
def test_a_tight_mask_inflates_the_plain_fsc_and_the_corrected_one_stays_true(measure):
    # Strong low-resolution signal, high frequencies damped by B = 200, and a hard mask cut at the surface of the
    # density. The truth is the planted SSNR: the signal's power over that of the noise that the mask lets through.
    box, worst, plain_best = 96, 0.0, 0.0
    for seed in range(3):
        particle = protein_like(box, PIXEL, 45.0, seed) + lowpass(body(box, PIXEL, 45.0, seed), PIXEL, 6.0)
        signal = apply_bfactor(particle, PIXEL, 200.0)
        soft = soft_mask_from_map(lowpass(signal, PIXEL, 15.0), PIXEL, extend=3.0, edge=6.0)
        sigma = noise_for(signal, soft, PIXEL, 4.5)
        half1, half2 = half_maps(signal, sigma, seed)
        low = lowpass(signal, PIXEL, 8.0)
        tight = (low > 0.17 * low.max()).float()
        power = radial_power(signal)
        noise = sigma**2 * float((tight**2).sum())
        truth = resolution_at(power / (power + noise), 0.143, box, PIXEL)
        curves = corrected_fsc(half1, half2, tight)
        plain = resolution_at(curves.masked, 0.143, box, PIXEL)
        corrected = box * PIXEL / locate_crossing(curves.corrected, curves.covariance).shell
        worst = max(worst, abs(corrected / truth - 1))
        plain_best = max(plain_best, plain / truth)
    measure(100 * worst, "%", "<= 3", note=f"plain FSC: {100 * (1 - plain_best):.0f} % too good at least, 3 particles")
    assert plain_best < 0.95
    assert worst <= 0.03


@pytest.mark.capability("RSL-1")
def test_a_crossing_at_0_294_is_3_40_angstrom_and_0_143_of_the_halves_is_0_5_of_the_whole(measure):
    from cryoloom.maps import fsc_of_full_map, half_bit_threshold, ssnr_from_fsc

    fsc = [1.0] * 29 + [0.343, -0.157]
    value = resolution_at(fsc, 0.143, box=100, pixel_size=1.0)
    measure(value, "Å", "3.40")
    assert value == pytest.approx(3.40, abs=0.005)
    assert fsc_of_full_map(1 / 7) == pytest.approx(0.5)
    assert ssnr_from_fsc(1 / 7) == pytest.approx(1 / 3)
    assert half_bit_threshold([1e12])[0] == pytest.approx(0.1716, abs=1e-4)
    assert randomise_phases(torch.zeros(8, 8, 8), 2, torch.Generator()).abs().max() == 0


def test_a_b_factor_beyond_what_the_halves_show_is_called_over_sharpening(planted, tmp_path):
    _, mask, half1, half2 = planted
    for bfactor, too_much in ((None, False), (100.0, False), (230.0, True)):
        _, run = run_stage(tmp_path, half1, half2, mask, bfactor=bfactor)
        assert run.summary["oversharpened"] is too_much
        assert any("over-sharpened" in w for w in run.warnings) is too_much
        assert run.summary["verdict"] == ("doubtful" if too_much else "found")
    assert run.summary["phase_change_deg"] < 0.5 and run.summary["bfactor_from"] == "given"


def test_halves_that_rise_above_a_protein_are_called_over_sharpened_and_pieces_speak_where_no_fit_does():
    k = np.arange(20) / 60
    fit = GuinierFit(-120.0, 20.0, 0.0, k, np.zeros(20), k > 0.1)
    assert "as they come" in (oversharpened(-120.0, fit, None) or "")
    detail = DetailCurve(np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1), 80.0)
    assert oversharpened(90.0, None, detail) is None and "pieces" in (oversharpened(200.0, None, detail) or "")
    assert oversharpened(500.0, None, None) is None


def test_the_b_factor_by_detail_is_taken_out_on_request(planted, tmp_path):
    _, mask, half1, half2 = planted
    _, run = run_stage(tmp_path, half1, half2, mask, sharpening="detail")
    assert run.summary["bfactor_from"] == "detail"
    assert run.summary["bfactor"] == pytest.approx(run.summary["bfactor_by_detail"], abs=0.06)

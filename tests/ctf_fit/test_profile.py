import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime, lsq_linear

from cryoloom.ctf_fit.background import radial_mean, smooth_mean
from cryoloom.ctf_fit.errors import covariance, posterior
from cryoloom.ctf_fit.fit import fit_at, fit_rings
from cryoloom.ctf_fit.model import Beam, Defocus
from cryoloom.ctf_fit.profile import RingProfile
from cryoloom.ctf_fit.rings import excess_noise, prepare_rings, reweigh
from cryoloom.ctf_fit.spectrum import tile_spectra

BEAM = Beam(300.0, 2.7, 0.1)
TRUTH = Defocus.from_uv(14_500.0, 13_500.0, 0.6)
LAG = 2 * BEAM.wavelength * TRUTH.mean


@pytest.fixture(scope="module")
def prepared(micrograph):
    image = micrograph(np.random.default_rng(0), (800, 800), 1.5, 14_500.0, 13_500.0, 0.6, envelope=60, ice=0.6)
    spectra = tile_spectra(torch.from_numpy(image), 1.5, tile=256, k_max=0.3)
    radial, k = radial_mean(spectra), spectra.bins.shell_k
    smooth = np.ones_like(radial)
    used = (k > 1 / 30) & (k < 0.3)
    smooth[used] = smooth_mean(k[used], radial[used])
    return spectra, prepare_rings(spectra, smooth, 1 / 30, 0.3)


def test_the_profile_equals_dense_constrained_least_squares(prepared):
    _, data = prepared
    profile = RingProfile(data, BEAM, TRUTH.mean)
    theta = TRUTH.as_array() + [60, -30, 40, 0]
    row = data.row
    phase = profile.at_focus + profile.slopes @ theta
    columns = [part[row] * profile.angular[:, i, None] for i, part in enumerate(profile.parts)]
    n_background = sum(part.shape[1] for part in profile.parts)
    design = np.concatenate([*columns, -np.cos(phase)[:, None] * profile.depth_basis[row]], 1)
    root = np.sqrt(data.weight)
    low = np.r_[np.full(n_background, -np.inf), np.zeros(design.shape[1] - n_background)]
    dense = lsq_linear(design * root[:, None], data.ratio * root, bounds=(low, np.inf), tol=1e-12, max_iter=500)
    assert profile.solve(theta).cost == pytest.approx(2 * dense.cost, rel=1e-5)


def test_the_step_follows_the_slope_of_the_cost(prepared):
    _, data = prepared
    profile = RingProfile(data, BEAM, TRUTH.mean)
    theta = TRUTH.as_array() + [80, -50, 30, 0.02]
    _, right = profile.step(profile.solve(theta), 4)
    slope = approx_fprime(theta, lambda t: profile.solve(t).cost, [0.01, 0.01, 0.01, 1e-6])
    np.testing.assert_allclose(-0.5 * slope, right, rtol=2e-3, atol=1e-6 * np.abs(right).max())


def test_the_fit_is_the_same_from_both_sides(prepared):
    _, data = prepared
    ends = [
        fit_rings(data, BEAM, Defocus(TRUTH.mean + d, TRUTH.cos, TRUTH.sin)).defocus.as_array() for d in (-120, 120)
    ]
    np.testing.assert_allclose(ends[0], ends[1], atol=3)


def test_where_rings_are_strong_the_posterior_is_the_curvature(prepared):
    spectra, data = prepared
    fit = fit_rings(data, BEAM, TRUTH)
    fit = fit_rings(reweigh(data, spectra, fit.model, fit.solution.phase, LAG), BEAM, fit.defocus)
    linear, _ = covariance(fit, spectra)
    known = posterior(fit, spectra)
    ratio = np.sqrt(np.diag(known.covariance) / np.diag(linear))
    assert (ratio > 0.9).all()
    assert (ratio < 2).all()
    assert np.abs(known.mean[:3] - fit.defocus.as_array()[:3]).max() < 2 * np.sqrt(np.diag(linear)).max()


def test_the_model_at_the_fit_explains_the_spectrum(prepared):
    _, data = prepared
    profile = RingProfile(data, BEAM, TRUTH.mean)
    fit = fit_at(profile, TRUTH.as_array(), 3)
    assert fit.cost == pytest.approx(float((data.weight * (data.ratio - fit.model) ** 2).sum()), rel=1e-6)
    assert (fit.depth >= 0).all()
    assert fit.gain > 0


def test_a_shell_that_the_model_misses_loses_weight(prepared):
    spectra, data = prepared
    fit = fit_rings(data, BEAM, TRUTH)
    spoiled = fit.model + np.where(np.abs(np.sqrt(data.k2) - 0.2) < 0.01, 0.3, 0.0)
    lighter = reweigh(data, spectra, spoiled, fit.solution.phase, LAG)
    hit = np.abs(np.sqrt(data.k2) - 0.2) < 0.005
    assert (lighter.weight[hit] < 0.3 * data.weight[hit]).all()


def test_noise_that_ripples_with_the_rings_is_counted_and_white_noise_is_not(prepared):
    _, data = prepared
    fit = fit_rings(data, BEAM, TRUTH)
    rng = np.random.default_rng(4)
    weight = np.full(len(data.k2), 400.0)
    white = rng.standard_normal(len(data.k2)) / 20
    lobes = np.cos(6 * 0.5 * np.arctan2(data.k2_sin, data.k2_cos)) * np.sin(fit.solution.phase)
    near = np.sqrt(data.k2) < 0.15
    base = np.ones(len(data.k))
    clean = excess_noise(data, weight, white, fit.solution.phase, base)
    rough = excess_noise(data, weight, white + np.where(near, 0.02 * lobes, 0.0), fit.solution.phase, base)
    assert clean.max() < 2
    assert rough[data.k < 0.12].min() > 2
    assert rough[data.k > 0.25].max() < 2

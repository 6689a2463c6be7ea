"""The profile of the mean particle, and peaks taken apart."""

import numpy as np
import picking_bed
import pytest
import torch

from cryoloom.picking.calibrate import calibrate
from cryoloom.picking.deblend import deblend
from cryoloom.picking.matched import Spectrum, Transfer
from cryoloom.picking.peaks import normalise_by_background
from cryoloom.picking.radial import fit_template
from cryoloom.picking.search import measure_shape, search_micrograph
from cryoloom.picking.template import RoundTemplate


def test_the_extent_of_a_mixture_holds_its_mass():
    assert RoundTemplate.ball(120.0).extent == 120.0
    two = RoundTemplate.mixture(np.array([60.0, 120.0]), np.array([1.0, 1.0]))
    r = 0.5 * two.extent
    within = 0.5 + 0.5 * (r / 60) ** 3  # the small ball is inside
    assert within == pytest.approx(0.98, abs=0.01)
    radius = torch.tensor([0.0, 0.01])
    assert float(two.transform(radius)[0]) == pytest.approx(1.0)
    parts = [float(RoundTemplate.ball(d).transform(radius)[1]) for d in (60.0, 120.0)]
    assert float(two.transform(radius)[1]) == pytest.approx(np.mean(parts))


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 1, 2)])
def test_the_extent_is_that_of_the_particle_whatever_its_shape(axes):
    """From noisy micrographs, positions known to within a tenth of the diameter, starting from half the extent."""
    beads = picking_bed.bead_cloud(150, axes, 2)
    rng = np.random.default_rng(0)
    parts = []
    for i in range(2):
        truth = picking_bed.simulate(
            beads, shape=(1000, 1000), n_particles=40, snr=0.1, seed=i, defocus=9_000 + 9_000 * i
        )
        place = truth.position_px + rng.normal(0, 0.04 * truth.diameter / 1.5, truth.position_px.shape)
        transfer = Transfer(truth.defocus, truth.defocus, 0.0, 0.0, 300.0, 2.7, 0.1)
        image = torch.from_numpy(truth.image)
        parts.append(measure_shape(image, 1.5, transfer, 0.6 * truth.diameter, place, dark=True, distance=50.0))
    template = fit_template(parts, 0.6 * truth.diameter)
    assert 0.85 < template.extent / truth.diameter < 1.25


def test_carbon_and_crystals_do_not_hide_how_far_the_particle_reaches():
    beads = picking_bed.bead_cloud(150, (1, 1, 2), 2)
    parts = {True: [], False: []}
    for i in range(2):
        truth = picking_bed.simulate(
            beads, shape=(1000, 1000), n_particles=60, snr=0.08, seed=i, defocus=9_000 + 9_000 * i, junk=True,
            of_particles=True,
        )  # fmt: skip
        transfer = Transfer(truth.defocus, truth.defocus, 0.0, 0.0, 300.0, 2.7, 0.1)
        known = (torch.from_numpy(truth.image), 1.5, transfer, 0.6 * truth.diameter, truth.position_px)
        for exclude, found in parts.items():
            found.append(measure_shape(*known, dark=True, distance=50.0, exclude=exclude))
    extents = {exclude: fit_template(found, 0.6 * truth.diameter).extent for exclude, found in parts.items()}
    assert 0.85 < extents[True] / truth.diameter < 1.25, extents
    assert abs(extents[True] / truth.diameter - 1) < abs(extents[False] / truth.diameter - 1)


@pytest.mark.parametrize("inner", [0.0, 40.0])
def test_hollow_particles_get_a_hollow_template_and_solid_ones_do_not(inner):
    beads = picking_bed.bead_shell(480, 62.0, inner, 2)
    rng = np.random.default_rng(0)
    parts = []
    for i in range(2):
        truth = picking_bed.simulate(
            beads, shape=(1000, 1000), n_particles=40, snr=0.1, seed=i, defocus=9_000 + 9_000 * i
        )
        place = truth.position_px + rng.normal(0, 3 / 1.5, truth.position_px.shape)
        transfer = Transfer(truth.defocus, truth.defocus, 0.0, 0.0, 300.0, 2.7, 0.1)
        parts.append(
            measure_shape(torch.from_numpy(truth.image), 1.5, transfer, 115.0, place, dark=True, distance=50.0)
        )
    template = fit_template(parts, 115.0)
    density = sum(m / d**3 * (np.array([20.0, 100.0]) < d) for d, m in zip(*_balls(template), strict=True))
    assert (density[0] < 0.3 * density[1]) == (inner > 0)
    assert 0.85 < template.extent / 124.0 < 1.2


def _balls(template):
    return template.diameters, template.masses


def test_peaks_are_told_from_the_fringes_of_their_neighbours():
    """Two particles and the side lobes of their filter: what is left is noise, and both keep their own height."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(256, 256, generator=generator)
    template = RoundTemplate.ball(60.0)
    transfer = Transfer(15_000.0, 15_000.0, 0.0, 0.0, 300.0, 2.7, 0.1)
    spectrum = Spectrum(noise, (4.0, 4.0), transfer, margin_px=0)
    spread = spectrum.point_spread(template, 30)
    assert float(spread[30, 30]) == pytest.approx(1.0)
    (score,) = normalise_by_background(spectrum.score_map(template))
    lone = torch.zeros(256, 256)
    for y, x in ((100, 100), (100, 122)):
        lone[y - 30 : y + 31, x - 30 : x + 31] += 12.0 * spread
    found = deblend(score + lone, spread.numpy(), 10.0, lowest=2.0)
    np.testing.assert_allclose(sorted(found.position[:2].tolist()), [[100, 100], [100, 122]], atol=1.0)
    assert found.value[0] - found.value[1] < 2.5 and abs(found.value[:2].mean() - 12) < 2
    assert float((found.residual - score)[95:106, 95:128].abs().mean()) < 0.5


def test_the_share_of_false_picks_is_neither_hidden_nor_overstated():
    """Crowded particles: their fringes must not count as evidence that picks are noise."""
    beads = picking_bed.bead_cloud(70, (1, 1, 1), 4)
    truth = picking_bed.simulate(beads, shape=(1200, 1200), n_particles=130, snr=0.05, seed=3, defocus=14_000)
    transfer = Transfer(truth.defocus, truth.defocus, 0.0, 0.0, 300.0, 2.7, 0.1)
    core = 0.8 * truth.diameter
    found = search_micrograph(
        torch.from_numpy(truth.image), 1.5, transfer, core, dark=True, distance=0.7 * core, margin=0.4 * core
    )
    result = calibrate(found.score[~found.contested], found.decoys, false_picks=0.15, least_probability=0.3)
    picks = found.position_px[found.score >= result.threshold]
    recall, precision = picking_bed.score_picks(picks, truth.position_px, 0.35 * truth.diameter / 1.5)
    assert recall > 0.8
    assert abs((1 - precision) - result.false_fraction) < 0.1

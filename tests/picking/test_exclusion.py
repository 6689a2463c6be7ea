"""What is not thin ice with particles is found and outlined."""

import numpy as np
import picking_bed
import pytest
import torch
from scipy import ndimage

from cryoloom.io.mrc import read_mrc
from cryoloom.picking.borders import copied_borders
from cryoloom.picking.exclusion import dense_regions, excluded_regions, exclusion_mask, fill_excluded, ice_level
from cryoloom.picking.reduce import flatten_background, reduce_micrograph


def overlap(found, truth):
    return float((found & truth).sum() / max((found | truth).sum(), 1))


@pytest.mark.capability("PIK-7")
def test_the_mask_of_a_real_micrograph_is_found(shared_data, measure):
    """The camera had 3838 x 3710 pixels and the file has 959 x 927, so a pixel is about 4 x 1.2 Å."""
    folder = shared_data / "carbon-edge-micrograph"
    image = torch.from_numpy(np.asarray(read_mrc(folder / "Ucsf_stack_1142_DW.mrc")[0], np.float32).squeeze())
    truth = np.asarray(read_mrc(folder / "Ucsf_stack_1142_DW_carbon_mask.mrc")[0]).squeeze() > 0.5
    reduced = reduce_micrograph(image, 4.8, 4.8, dark=True)
    found = exclusion_mask(reduced.image, reduced.mean_pixel_size).numpy()
    value = overlap(found, truth)
    measure(round(value, 3), "IoU", ">= 0.8", note="REAL: carbon-edge micrograph, given mask above 0.5")
    assert value >= 0.8


@pytest.mark.capability("PIK-7")
@pytest.mark.parametrize("side", ["right", pytest.param("corner", marks=pytest.mark.slow)])
def test_carbon_crystals_and_aggregates_are_outlined(measure, side):
    """Carbon with its edge, crystals of ice, aggregates and a slope of the ice, all seen through the CTF."""
    size = 1100
    rng = np.random.default_rng(len(side))
    y, x = np.mgrid[:size, :size]
    carbon = np.hypot(y - 550, x - 2300) < 1500 if side == "right" else np.hypot(y - 1300, x - 1250) < 620
    crystals = np.zeros_like(carbon)
    for cy, cx, r in ((200, 250, 70), (800, 180, 90), (500, 620, 60)):
        crystals |= np.hypot(y - cy, x - cx) < r
    texture = ndimage.gaussian_filter(rng.standard_normal((size, size)), 4.0)
    beads = picking_bed.bead_cloud(300, (0.9, 1.0, 1.3), 1)
    truth = picking_bed.simulate(
        beads,
        shape=(size, size),
        n_particles=40,
        snr=0.05,
        seed=3,
        extra=(carbon, crystals, texture / texture.std()),
        n_aggregates=3,
        gradient=1.0,
    )
    reduced = reduce_micrograph(torch.from_numpy(truth.image), 1.5, 6.0, dark=True)
    found = exclusion_mask(reduced.image, reduced.mean_pixel_size, least_diameter=0.7 * truth.diameter).numpy()
    junk = ndimage.zoom(truth.junk.astype(float), np.asarray(found.shape) / truth.junk.shape, order=1) > 0.5
    value = overlap(found, junk)
    measure(round(value, 3), "IoU", ">= 0.8", note=f"simulated: carbon at the {side}, crystals, 3 aggregates, slope")
    assert value >= 0.8


def test_clean_micrographs_lose_nothing():
    for mass, n, snr in ((70, 90, 0.05), (2500, 9, 0.3)):
        beads = picking_bed.bead_cloud(mass, (1, 1, 1.2), 1)
        truth = picking_bed.simulate(beads, shape=(1100, 1100), n_particles=n, snr=snr, seed=1, gradient=1.0)
        reduced = reduce_micrograph(torch.from_numpy(truth.image), 1.5, 6.0, dark=True)
        found = exclusion_mask(reduced.image, reduced.mean_pixel_size, least_diameter=0.8 * truth.diameter)
        assert float(found.float().mean()) < 0.02


def test_the_border_of_a_dense_disc_does_not_depend_on_the_smoothing():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:240, :260]
    disc = np.hypot(y - 90, x - 140) < 40
    slope = 0.01 * y + 0.005 * x
    found = dense_regions((rng.standard_normal(disc.shape) + 6.0 * disc + slope).astype(np.float32), 5.0)
    assert overlap(found, disc) > 0.93
    ice, deviation = ice_level(ndimage.gaussian_filter(rng.standard_normal(disc.shape), 2) + slope + 3 * disc)
    assert np.abs(ice - slope)[~disc].max() < 0.2 and 0.1 < deviation < 0.2


def test_filled_regions_leave_no_halo():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:200, :200]
    disc = torch.from_numpy(np.hypot(y - 100, x - 100) < 30)
    image = torch.from_numpy(rng.standard_normal((200, 200)).astype(np.float32)) + 20.0 * disc
    ring = torch.from_numpy((np.hypot(y - 100, x - 100) > 40) & (np.hypot(y - 100, x - 100) < 60))
    assert abs(float(flatten_background(fill_excluded(image, disc, 5.0), 30.0)[ring].mean())) < 0.1
    assert float(flatten_background(image, 30.0)[ring].mean()) < -0.3


def test_large_particles_far_apart_are_no_aggregates(tmp_path):
    """Most of the micrograph is far from any of them, and each stands out as an aggregate of small ones would."""
    _, (truth,) = picking_bed.simulated_set(tmp_path, 2500, (1, 1.1, 1.2), 34, 0.05, seed=11, n_micrographs=1)
    diameter = 0.8 * truth.diameter
    reduced = reduce_micrograph(torch.from_numpy(truth.image), 1.5, diameter / 16, dark=True)
    mask = exclusion_mask(reduced.image, reduced.mean_pixel_size, least_diameter=diameter)
    assert float(mask.float().mean()) == 0.0


@pytest.mark.parametrize("kind", ["edge", "constant"])
def test_borders_that_repeat_the_last_row_or_hold_nothing_are_found(kind):
    inside = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((150, 170)), 1.0).astype(np.float32)
    padded = torch.from_numpy(np.pad(inside, ((0, 12), (9, 0)), mode=kind))
    assert copied_borders(padded) == ((0, 13, 10, 0) if kind == "edge" else (0, 12, 9, 0))
    assert copied_borders(torch.from_numpy(inside)) == (0, 0, 0, 0)
    padded[-3:] = torch.from_numpy(padded.numpy()[20:23])  # something else at the very edge
    assert copied_borders(padded)[1] == (13 if kind == "edge" else 12)


def test_no_particle_is_looked_for_in_a_copied_border():
    inside = torch.from_numpy(np.random.default_rng(1).standard_normal((400, 420)).astype(np.float32))
    padded = torch.nn.functional.pad(inside[None, None], (60, 60, 0, 0), mode="replicate")[0, 0]
    reduced = reduce_micrograph(padded, 1.5, 5.0, dark=True)
    mask = excluded_regions(reduced, least_diameter=80.0)
    edge = round(60 * 1.5 / reduced.mean_pixel_size)
    assert mask[:, :edge].all() and mask[:, -edge:].all()
    assert mask.float().mean() < 0.3

"""The most detail in the fewest pieces is found near the B-factor that was planted, and phases are what they were."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.maps import apply_bfactor, find_mask, lowpass
from cryoloom.maps.detail import sharpen_by_detail, surface_and_pieces
from cryoloom.maps.global_resolution import resolution_behind
from cryoloom.maps.phases import phase_change_deg
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

sys.path.insert(0, str(Path(__file__).resolve().parent))
from phantoms import half_maps, noise_for

PIXEL = 1.4


@pytest.mark.parametrize(("seed", "planted", "resolution"), [(11, 90.0, 3.6), (12, 170.0, 4.2)])
def test_a_planted_b_factor_is_where_detail_without_pieces_is_largest(seed, planted, resolution):
    atoms = phantom("globule", "C1", mass_kda=70.0, seed=seed)
    truth = torch.from_numpy(potential_map(replace(atoms, bfactor=np.zeros_like(atoms.bfactor)), 80, PIXEL).data)
    blurred = apply_bfactor(truth, PIXEL, planted)
    found = find_mask(lowpass(blurred, PIXEL, 15.0), PIXEL)
    halves = half_maps(blurred, noise_for(blurred, found.mask, PIXEL, resolution), seed)
    known = resolution_behind(*halves, PIXEL, found)
    curve = sharpen_by_detail(
        0.5 * (halves[0] + halves[1]), PIXEL, found.mask, fsc=np.clip(known.curves.corrected, 0, 1),
        resolution=known.resolution, enclosed=0.12 * found.volume,
    )  # fmt: skip
    assert abs(curve.best - planted) < 45
    assert (np.diff(curve.area) > 0).all() and curve.pieces[-1] > 2 * curve.pieces[0]


def test_the_surface_of_two_cubes():
    volume = np.zeros((20, 20, 20), np.float32)
    volume[3:7, 3:7, 3:7] = volume[12:16, 12:16, 12:16] = 1.0
    volume += 1e-3 * np.random.default_rng(0).random(volume.shape, np.float32)
    area, pieces = surface_and_pieces(volume, np.ones(volume.shape, bool), 128, 2.0)
    assert area == pytest.approx(2 * 96 * 4 / 1.5) and pieces == 2


def test_a_mask_smaller_than_the_volume_asked_for_is_refused():
    volume = torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="enclosed"):
        sharpen_by_detail(volume, 2.0, torch.zeros(16, 16, 16), fsc=np.ones(9), resolution=6.0, enclosed=100.0)


def test_amplitudes_alone_leave_phases_and_other_maps_do_not():
    a, b = torch.randn(2, 20, 20, 20, generator=torch.Generator().manual_seed(1))
    assert phase_change_deg(a, 3 * apply_bfactor(a, 1.5, 60.0), 1.5, 4.0) < 0.1
    assert 80 < phase_change_deg(a, b, 1.5, 4.0) < 100
    assert phase_change_deg(a, -a, 1.5, 4.0) == pytest.approx(180, abs=0.1)

"""Local sharpening of maps whose parts are blurred differently, against the truth."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.data import VolumeMap
from cryoloom.maps import apply_bfactor, lowpass, soft_mask_from_map
from cryoloom.maps.local_filter import band_centres, band_gain
from cryoloom.postprocess.settings import PostprocessSettings
from cryoloom.postprocess.stage import postprocess_map
from cryoloom.restoration.settings import RestoreSettings
from cryoloom.restoration.stage import restore_map

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun
from phantoms import half_maps, noise_for, protein_like

BOX, PIXEL = 56, 1.6


def two_parts(seed):
    """A particle whose left half is blurred by B = 60, its right half by 240 Å2; noise as of 4 Å."""
    truth = protein_like(BOX, PIXEL, 30.0, seed)
    x = torch.arange(BOX, dtype=torch.float32) - BOX // 2
    left = torch.sigmoid(-x / 2).expand(BOX, BOX, BOX)
    blurred = left * apply_bfactor(truth, PIXEL, 60.0) + (1 - left) * apply_bfactor(truth, PIXEL, 240.0)
    mask = soft_mask_from_map(lowpass(truth, PIXEL, 15.0), PIXEL)
    return truth, mask, half_maps(blurred, noise_for(blurred, mask, PIXEL, 4.0), seed)


def restored_and_guinier(folder, seed):
    truth, mask, halves = two_parts(seed)
    maps = [VolumeMap(h.numpy(), PIXEL) for h in halves]
    guinier = postprocess_map(*maps, None, PostprocessSettings(), MemoryRun(folder))["map_sharpened"].data
    run = MemoryRun(folder)
    local = restore_map(*maps, None, None, RestoreSettings(), run)
    return truth.numpy(), mask.numpy(), 0.5 * (halves[0] + halves[1]).numpy(), guinier, local, run


def rscc(a, b, where):
    return float(np.corrcoef(a[where], b[where])[0, 1])


def new_peaks(volume, reference, outside):
    """Local maxima outside of the particle above 5 standard deviations of the map, that the reference does not have."""
    scaled, other = volume / volume.std(), reference / reference.std()
    high = (scaled > 5) & outside
    return int((high & (other < 5)).sum())


@pytest.mark.slow
@pytest.mark.capability("RST-2")
def test_local_sharpening_comes_nearer_to_the_truth_without_new_peaks(tmp_path, measure):
    gains, peaks = [], 0
    for seed in (1, 2):
        truth, mask, mean, guinier, local, _ = restored_and_guinier(tmp_path, seed)
        target = lowpass(torch.from_numpy(truth), PIXEL, 4.0).numpy()
        inside, outside = mask > 0.9, mask < 0.01
        best = max(rscc(mean, target, inside), rscc(guinier, target, inside))
        gains.append(rscc(local["map_local"].data, target, inside) - best)
        peaks += new_peaks(local["map_local"].data, guinier, outside)
    note = f"RSCC to the truth at 4 Å over the better of plain and Guinier-sharpened maps; {peaks} new peaks outside"
    measure(round(min(gains), 4), unit="RSCC", threshold="> 0, no new peak above 5 sigma", note=note)
    assert min(gains) > 0 and peaks == 0


@pytest.mark.slow
def test_local_b_factors_follow_what_was_planted(tmp_path):
    _, mask, _, _, local, run = restored_and_guinier(tmp_path, 1)
    found = local["local_bfactor"].data
    core = mask > 0.9
    left, right = core.copy(), core.copy()
    left[:, :, BOX // 2 - 8 :] = False
    right[:, :, : BOX // 2 + 8] = False
    assert np.median(found[left]) < np.median(found[right]) - 40
    assert run.summary["verdict"] == "found" and any("quantitative" in w for w in run.warnings)


def test_bands_add_up_to_one():
    centres, width = band_centres(64, 1.5, 10.0, 4.0)
    k = torch.linspace(0, float(centres[-1]), 500)
    total = sum(band_gain(k, c, width, first=c == centres[0]) for c in centres)
    torch.testing.assert_close(total, torch.ones_like(k))

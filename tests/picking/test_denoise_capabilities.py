"""Numbers of denoised micrographs: what the network sees of particles it was not told of, and where it sees them."""

import time

import denoise_bed
import numpy as np
import picking_bed
import pytest

from cryoloom.io.denoised import DENOISED_LABEL
from cryoloom.io.mrc import read_mrc, read_mrc_header
from cryoloom.io.records import read_micrographs
from cryoloom.project.runner import run_stage

SHAPES = {"globular, 70 kDa": (70, (1.0, 1.0, 1.2), 60), "elongated, 500 kDa": (500, (0.7, 0.9, 1.6), 25)}
SHAPE = (1024, 1024)


@pytest.mark.slow
@pytest.mark.capability("DEN-1")
@pytest.mark.parametrize("name", SHAPES)
def test_denoised_micrographs_show_particles_where_they_are(tmp_path, measure, name):
    """SNR 0.05 with coloured noise, carbon, ice and aggregates; SNR by regression on the noise-free picture."""
    mass, axes, n = SHAPES[name]
    beads = picking_bed.bead_cloud(mass, axes, seed=mass)
    made = [
        denoise_bed.halves(beads, mass + i, shape=SHAPE, defocus=9_000 + 9_000 * i, n_particles=n, junk=i == 1)
        for i in range(2)
    ]
    truths, pictures, pairs = zip(*made, strict=True)
    micrographs = denoise_bed.write_set(tmp_path, truths, pairs)
    start = time.process_time()
    job = run_stage("denoise", {"micrographs": micrographs}, {}, out=tmp_path / "job", threads=1)
    seconds = time.process_time() - start
    denoised = read_micrographs(job["micrographs"])
    gains, by_hand, moved = [], [], []
    for path, truth, clean, (even, odd) in zip(denoised.path, truths, pictures, pairs, strict=True):
        image, raw = read_mrc(path)[0][0], even + odd
        assert DENOISED_LABEL in read_mrc_header(path).labels
        radius = truth.diameter / 2 / denoise_bed.PIXEL
        where = denoise_bed.discs(SHAPE, truth.position_px, radius) & ~truth.junk
        before = denoise_bed.snr_in(raw, clean, where)
        gains.append(denoise_bed.snr_in(image, clean, where) / before)
        by_hand.append(denoise_bed.best_low_pass(raw, clean, where) / before)
        moved.append(denoise_bed.displacements(image, clean, truth.position_px, 1.2 * radius))
    shift = np.concatenate(moved)
    median = float(np.median(np.hypot(*shift.T))) * denoise_bed.PIXEL
    common = float(np.hypot(*np.median(shift, axis=0))) * denoise_bed.PIXEL
    note = (
        f"{name}, 2 micrographs of 1024² px of 1.5 Å, SNR 0.05; inside particles; the best low-pass filter chosen with "
        f"truth {np.mean(by_hand):.1f}; places: median off by {median:.2f} Å, all together by {common:.2f} Å; network "
        f"taken: {job.summary['network']}; {seconds:.0f} CPU s"
    )
    measure(round(min(gains), 2), "times the SNR", ">= 5", note=note)
    assert min(gains) >= 5
    assert median < 0.03 * truths[0].diameter and common < denoise_bed.PIXEL
    assert seconds < 600

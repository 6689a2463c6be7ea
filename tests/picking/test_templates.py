"""Template matching over rotations: how many particles are found at each signal-to-noise ratio."""

import numpy as np
import picking_bed
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_picks
from cryoloom.project.runner import run_stage

PIXEL = 4.0


def write_views(path, beads, n, seed):
    """Projections of the particle in random directions, as class averages show them: `n` images of 4 Å per pixel."""
    size = 2 * round(0.9 * picking_bed.extent(beads) / PIXEL)
    views = np.zeros((n, size, size))
    for view, rotation in zip(views, Rotation.random(n, random_state=seed), strict=True):
        turned = beads @ rotation.as_matrix().T / PIXEL
        picking_bed._splat(view, turned[:, 1] + size // 2, turned[:, 0] + size // 2)
        view[:] = gaussian_filter(view, 5.0 / PIXEL)
    write_mrc(path, views.astype(np.float32), PIXEL)


@pytest.mark.slow
@pytest.mark.capability("PIK-2")
@pytest.mark.parametrize("shape", ["rod, 150 kDa", "plate, 465 kDa"])
def test_recall_of_templates_at_each_signal(tmp_path, measure, shape):
    mass, axes, n = {"rod, 150 kDa": (150, (1, 1, 2), 180), "plate, 465 kDa": (465, (0.8, 1.2, 1.7), 110)}[shape]
    write_views(tmp_path / "views.mrcs", picking_bed.bead_cloud(mass, axes, 11), 12, seed=5)
    curve = {}
    for snr in (0.02, 0.03, 0.05, 0.1):
        folder = tmp_path / str(snr)
        folder.mkdir()
        micrographs, truth = picking_bed.simulated_set(folder, mass, axes, n, snr, seed=11, n_micrographs=2)
        job = run_stage(
            "pick",
            {"micrographs": micrographs, "references": tmp_path / "views.mrcs"},
            {"false_picks": 0.1},
            out=folder / "job",
            threads=2,
        )
        curve[snr] = picking_bed.pooled_score(read_picks(job["picks"]), micrographs, truth)
    text = "; ".join(f"{snr}: {recall:.2f} at {1 - precision:.2f}" for snr, (recall, precision) in curve.items())
    measure(round(curve[0.05][0], 3), "recall", ">= 0.85", note=f"{shape}; SNR: recall at false share: {text}")
    assert curve[0.05][0] >= 0.85
    assert all(precision >= 0.9 for _, precision in curve.values())

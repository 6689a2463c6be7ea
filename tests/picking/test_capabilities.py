"""Numbers of the rows on picking."""

import numpy as np
import picking_bed
import pytest

from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_picks
from cryoloom.project.runner import run_stage

# mass in kDa, axis ratios, particles per micrograph
SHAPES = {
    "globular, 70 kDa": (70, (1, 1, 1), 250),
    "rod, 150 kDa": (150, (1, 1, 2), 180),
    "plate, 465 kDa": (465, (0.8, 1.2, 1.7), 110),
    "ribosome, 2.5 MDa": (2500, (1, 1.1, 1.2), 34),
}


@pytest.mark.slow
@pytest.mark.capability("PIK-3")
@pytest.mark.parametrize("shape", SHAPES)
def test_reference_free_picking_at_low_signal(tmp_path, measure, shape):
    mass, axes, n = SHAPES[shape]
    micrographs, truth = picking_bed.simulated_set(tmp_path, mass, axes, n, 0.05, seed=11)
    job = run_stage("pick", {"micrographs": micrographs}, {}, out=tmp_path / "job", threads=2)
    recall, precision = picking_bed.pooled_score(read_picks(job["picks"]), micrographs, truth)
    note = f"{shape}, diameter auto: {job.summary['diameter']:.0f} Å of {truth[0].diameter:.0f} Å"
    measure(round(recall, 3), "recall", ">= 0.85", note=f"{note}, precision {precision:.3f}")
    assert recall >= 0.85
    assert precision >= 0.8


@pytest.mark.slow
@pytest.mark.capability("PIK-8")
def test_templates_invent_nothing_in_pure_noise(tmp_path, measure):
    rng = np.random.default_rng(0)
    beads = picking_bed.bead_cloud(465, (0.8, 1.2, 1.7), 3)
    y, x = np.arange(64)[:, None] - 32, np.arange(64)[None, :] - 32
    blob = np.exp(-(y**2 + (0.6 * x) ** 2) / 100) + np.exp(-((y - 8) ** 2 + (x - 6) ** 2) / 40)
    write_mrc(tmp_path / "reference.mrcs", (blob + 0.05 * rng.standard_normal((3, 64, 64))).astype(np.float32), 4.0)
    n_jobs, n_silent, p_values = 6, 0, []
    for case in range(n_jobs):
        folder = tmp_path / str(case)
        folder.mkdir()
        paths = []
        for i in range(2):
            paths.append(str(folder / f"m{i}.mrc"))
            write_mrc(
                paths[-1],
                picking_bed.simulate(beads, shape=(1024, 1024), n_particles=0, snr=0, seed=1000 * case + i).image,
                1.5,
            )
        micrographs = MicrographSet(
            path=np.asarray(paths), optics=(Optics(pixel_size=1.5),), optics_index=np.zeros(2, int)
        )
        job = run_stage(
            "pick",
            {"micrographs": micrographs, "references": tmp_path / "reference.mrcs"},
            {"diameter": 120.0, "contrast": "dark"},
            out=folder / "job",
            threads=2,
        )
        p_values.append(job.summary["p_value"])
        n_silent += job.summary["n_out"] > 0 and job.summary["verdict"] == "found"
    measure(n_silent, "noise jobs not refused", "== 0", note=f"{n_jobs} jobs, smallest p {min(p_values):.3g}")
    assert n_silent == 0


@pytest.mark.slow
def test_real_apoferritin_micrographs(tmp_path, shared_data, measure):
    folder = shared_data / "apoferritin-empiar10146"
    truth = {}
    for path in sorted((folder / "coordinates").glob("*_manual.star")):
        rows = [line.split() for line in path.read_text().splitlines() if line.strip()[:1].isdigit()]
        truth[path.name.removesuffix("_manual.star")] = np.asarray(rows, dtype=float)[:, ::-1]
    paths = np.asarray([str(folder / "micrographs" / f"{stem}.mrc") for stem in truth])
    optics = (Optics(pixel_size=1.5, amplitude_contrast=0.07),)
    micrographs = MicrographSet(path=paths, optics=optics, optics_index=np.zeros(len(paths), int))
    job = run_stage("pick", {"micrographs": micrographs}, {}, out=tmp_path / "job", threads=2)
    picks = read_picks(job["picks"])
    names = np.asarray([str(m) for m in picks.micrograph])
    matched = n_true = 0.0
    for path, places in zip(paths, truth.values(), strict=True):
        recall, _ = picking_bed.score_picks(picks.position_px[names == path], places, 30.0)
        matched, n_true = matched + recall * len(places), n_true + len(places)
    f1 = 2 * matched / (n_true + len(picks))
    measure(round(f1, 3), "F1", ">= 0.75", note=f"REAL, 13 micrographs without CTF, {job.summary['diameter']:.0f} Å")
    assert f1 >= 0.85

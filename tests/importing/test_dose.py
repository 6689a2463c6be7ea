"""Dose per frame against total dose, told from the frames themselves."""

import numpy as np
import pytest

from cryoloom.importing.dose import electrons_per_pixel, judge_dose
from cryoloom.io.mrc import write_mrc
from cryoloom.project.runner import run_stage


def camera(rng, dose, pixel_size, n=2, size=128):
    """Frames of a camera that loses electrons, has a gain per pixel and a scale, and may add noise of its own."""
    gain = rng.normal(1, rng.uniform(0, 0.08), (size, size)).clip(0.5)
    rate = dose * pixel_size**2 * rng.uniform(0.6, 1.0) * gain
    electrons = rng.poisson(rate, (n, size, size)).astype(np.float32)
    if rng.random() < 0.5:  # integrating: the energy of each electron varies
        electrons = rng.gamma(np.maximum(2 * electrons, 1e-9)) / 2 * rng.uniform(0.5, 40)
    electrons[:, 3, 5] = 5_000
    return electrons.astype(np.float32)


@pytest.mark.capability("FOR-4")
def test_the_dose_of_a_frame_is_told_from_that_of_a_movie(measure):
    rng = np.random.default_rng(44)
    n, right = 400, 0
    for _ in range(n):
        n_frames, pixel_size = int(rng.integers(16, 81)), float(rng.uniform(0.5, 1.6))
        dose = float(rng.uniform(25, 70)) / n_frames
        electrons = electrons_per_pixel(*camera(rng, dose, pixel_size))
        meaning = ("per frame", "total", "divided twice")[int(rng.integers(3))]
        given = {"per frame": dose, "total": dose * n_frames, "divided twice": dose / n_frames}[meaning]
        finding = judge_dose(given, n_frames, pixel_size, electrons)
        right += finding.meaning == meaning and abs(finding.per_frame / dose - 1) < 1e-6
    measure(right / n, threshold=">= 0.95", note=f"{n} cameras and doses, 16-80 frames, nothing in the header")
    assert right / n >= 0.95


def test_electrons_are_counted_whatever_the_camera_multiplies_with():
    rng = np.random.default_rng(1)
    frames = rng.poisson(0.7 * rng.normal(1, 0.1, (300, 300)).clip(0.5), (2, 300, 300))
    assert electrons_per_pixel(*frames) == pytest.approx(0.7, rel=0.03)
    assert electrons_per_pixel(*(37.0 * frames)) == pytest.approx(0.7, rel=0.03)
    assert np.isnan(electrons_per_pixel(np.ones((8, 8)), np.ones((8, 8))))


def test_the_header_is_believed_before_the_noise():
    finding = judge_dose(40.0, 40, 1.0, electrons=40.0, exposure=41.0)
    assert finding.meaning == "total"
    assert finding.per_frame == pytest.approx(1.0)
    assert "header" in finding.evidence
    assert judge_dose(45.0, 40, 1.0).meaning == "total"  # 1,800 e-/Å2 in all
    assert judge_dose(1.2, 40, 1.0).meaning == "unknown"


def import_with(tmp_path, dose):
    settings = {"pixel_size": 1.0, "dose_per_frame": dose}
    return run_stage("import", inputs={"files": [tmp_path / "a.mrcs"]}, settings=settings, out=tmp_path / f"{dose}")


def test_the_import_says_what_it_thinks_of_the_dose(tmp_path):
    rng = np.random.default_rng(2)
    write_mrc(tmp_path / "a.mrcs", rng.poisson(1.0, (20, 64, 64)).astype(np.int16), 1.0, kind="stack")
    fine = import_with(tmp_path, 1.0)
    assert fine.summary["dose"]["meaning"] == "per frame"
    assert not any("dose" in text for text in fine.summary["warnings"])
    total = import_with(tmp_path, 20.0)
    assert any("--dose-per-frame 1;" in text or "--dose-per-frame 1." in text for text in total.summary["warnings"])

"""The stage as a job: micrographs in, picks out, without a word about the particle."""

import numpy as np
import picking_bed
import pytest

from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_picks
from cryoloom.project.runner import run_stage


def _set(folder, micrographs, pixel_size=1.5, **columns):
    paths = []
    for i, image in enumerate(micrographs):
        paths.append(str(folder / f"micrograph{i}.mrc"))
        write_mrc(paths[-1], image, pixel_size)
    return MicrographSet(
        path=np.asarray(paths),
        optics=(Optics(pixel_size=pixel_size),),
        optics_index=np.zeros(len(paths), int),
        **columns,
    )


def _pick(folder, micrographs, **settings):
    job = run_stage("pick", {"micrographs": micrographs}, settings, out=folder / "job", threads=1)
    return job, read_picks(job["picks"])


def _of(picks, micrographs, row):
    return picks.position_px[np.asarray([str(m) == str(micrographs.path[row]) for m in picks.micrograph])]


@pytest.fixture(scope="module")
def simulated():
    beads = picking_bed.bead_cloud(300, (0.9, 1.0, 1.3), 5)
    return [
        picking_bed.simulate(
            beads, shape=(1000, 1100), n_particles=45, snr=0.06, seed=i, defocus=12_000 + 6_000 * i, gradient=0.5
        )
        for i in range(2)
    ]


@pytest.mark.capability("FOR-2")
@pytest.mark.parametrize("sign", [1, -1])
def test_particles_of_unknown_size_and_contrast_are_found(tmp_path, simulated, measure, sign):
    defocus = np.asarray([m.defocus for m in simulated])
    micrographs = _set(
        tmp_path,
        [sign * m.image for m in simulated],
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle=np.zeros(2),
    )
    job, picks = _pick(tmp_path, micrographs)
    assert job.summary["verdict"] == "found"
    measure(100.0 * (job.summary["contrast_sign"] == -sign), "%", "== 100", note="picking without coordinates")
    assert job.summary["contrast_sign"] == -sign
    assert 0.85 < job.summary["diameter"] / simulated[0].diameter < 1.25
    for row, truth in enumerate(simulated):
        recall, precision = picking_bed.score_picks(
            _of(picks, micrographs, row), truth.position_px, 0.35 * truth.diameter / 1.5
        )
        assert recall > 0.8 and precision > 0.8
    assert picks.diameter == pytest.approx(job.summary["diameter"], abs=0.1)
    assert sorted(p.name for p in (job.folder / "coordinates").iterdir()) == ["micrograph0.star", "micrograph1.star"]
    assert ((picks.probability >= 0.3) & (picks.probability <= 1)).all()


def test_pure_noise_gives_no_picks(tmp_path):
    rng = np.random.default_rng(0)
    micrographs = _set(tmp_path, [rng.standard_normal((800, 800)).astype(np.float32) for _ in range(2)])
    job, picks = _pick(tmp_path, micrographs)
    assert len(picks) == 0
    assert job.summary["verdict"] == "not found"
    assert job.summary["p_value"] > 1e-3


def test_a_damaged_micrograph_is_left_out_and_named(tmp_path, simulated):
    micrographs = _set(tmp_path, [simulated[0].image, simulated[1].image, np.zeros((64, 64), np.float32)])
    with open(micrographs.path[2], "r+b") as file:  # noqa: PTH123
        file.truncate(2000)
    job, _ = _pick(tmp_path, micrographs, diameter=simulated[0].diameter, contrast="dark")
    assert [entry["item"] for entry in job.summary["left_out"]] == [str(micrographs.path[2])]


def test_a_threshold_for_picks_does_not_change_the_size_that_is_found(tmp_path, simulated):
    micrographs = _set(tmp_path, [simulated[0].image])
    sizes = []
    for number, settings in enumerate(({}, {"threshold": -1e3})):
        job = run_stage("pick", {"micrographs": micrographs}, settings, out=tmp_path / str(number), threads=1)
        sizes.append(job.summary["diameter"])
    assert sizes[0] == sizes[1]

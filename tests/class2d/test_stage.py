import numpy as np
import pytest
from bed_images import PIXEL_SIZE, particles

from cryoloom.class2d import stage
from cryoloom.class2d.state import save_state
from cryoloom.compute.device import choose_device
from cryoloom.contract import InputError
from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.records import read_particles
from cryoloom.project.runner import run_stage


def test_views_are_kept_and_junk_is_left_out(tmp_path):
    images, record, view, *_ = particles(500, 3, snr=0.4, junk=0.2)
    write_mrc(tmp_path / "stack.mrcs", images, PIXEL_SIZE)
    record = record.replace(image_path=np.full(len(record), str(tmp_path / "stack.mrcs")))
    job = run_stage("class2d", inputs={"particles": record}, settings={"classes": 6, "iterations": 12},
                    out=tmp_path / "job", threads=1)  # fmt: skip
    found, selected = read_particles(job["particles"]), read_particles(job["selected"])
    kept = np.isin(found.image_index, selected.image_index)
    assert kept[view >= 0].mean() > 0.9
    assert kept[view < 0].mean() < 0.15
    assert np.median(found.junk_score[view < 0]) > 0.5 > np.median(found.junk_score[view >= 0])
    averages, _ = read_mrc(job.folder / "class_averages.mrcs")
    assert averages.shape == (6, 40, 40)
    chosen, _ = read_mrc(job.folder / "class_averages_selected.mrcs")
    assert len(chosen) == job.summary["classes_selected"] >= 3
    assert job.summary["verdict"] == "found" and job.summary["n_out"] == len(selected)


def test_on_a_gpu_the_same_classes_are_found(tmp_path, gpu):
    images, record, *_ = particles(200, 3, snr=0.5)
    write_mrc(tmp_path / "stack.mrcs", images, PIXEL_SIZE)
    record = record.replace(image_path=np.full(len(record), str(tmp_path / "stack.mrcs")))
    settings = {"classes": 3, "iterations": 4, "mask_diameter": 100.0}
    here = run_stage("class2d", {"particles": record}, settings, out=tmp_path / "gpu", device=gpu, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cryoloom.project.runner.choose_device", choose_device)
        there = run_stage("class2d", {"particles": record}, settings, out=tmp_path / "cpu", device="cpu", threads=1)
    a, b = (read_particles(job["particles"]) for job in (here, there))
    assert here.summary["device"].startswith("cuda:0") and there.summary["device"] == "cpu"
    assert (a.class_number == b.class_number).mean() > 0.97
    turned = np.angle(np.exp(1j * (a.psi - b.psi)))[a.class_number == b.class_number]
    assert np.median(np.abs(turned)) < 1e-3


def test_a_handful_of_particles_is_refused(tmp_path):
    images, record, *_ = particles(10, 1)
    write_mrc(tmp_path / "stack.mrcs", images, PIXEL_SIZE)
    record = record.replace(image_path=np.full(10, str(tmp_path / "stack.mrcs")))
    with pytest.raises(InputError, match="at least 20"):
        run_stage("class2d", inputs={"particles": record}, out=tmp_path / "job")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_killed_job_goes_on_after_its_last_iteration_and_ends_bit_for_bit_alike(tmp_path, monkeypatch, threads):
    images, record, *_ = particles(150, 2, snr=0.5)
    write_mrc(tmp_path / "stack.mrcs", images, PIXEL_SIZE)
    record = record.replace(image_path=np.full(len(record), str(tmp_path / "stack.mrcs")))
    settings = {"classes": 3, "iterations": 4, "batch_size": 100}

    def go(name):
        return run_stage("class2d", inputs={"particles": record}, settings=settings, out=tmp_path / name,
                         threads=threads)  # fmt: skip

    whole = go("whole")
    saved = []

    def save_and_die(path, state):
        save_state(path, state)
        saved.append(state.iteration)
        if len(saved) in (2, 4):  # once in the middle, once after the next start
            raise KeyboardInterrupt

    monkeypatch.setattr(stage, "save_state", save_and_die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go("killed")
    killed = go("killed")
    assert saved == [1, 2, 3, 4, 5]  # no iteration twice
    for name in ("class_averages.mrcs", "particles.star", "selected.star", "classes.star"):
        one, two = whole.folder / name, killed.folder / name
        assert one.exists() == two.exists()
        if one.exists():
            assert one.read_bytes() == two.read_bytes(), name

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from cryoloom.compute import choose_device
from cryoloom.contract import Figure, Input, InputError, Settings, StageDeclaration, TooManyFailures, setting, stage
from cryoloom.data import VolumeMap
from cryoloom.io.map_file import write_map
from cryoloom.project import registry
from cryoloom.project.folder import create_project
from cryoloom.project.index import list_jobs
from cryoloom.project.job import JobRun
from cryoloom.project.progress import NoProgress
from cryoloom.project.runner import run_stage


class DoubleSettings(Settings):
    """Settings of a stage made for these tests."""

    factor: float = setting(2.0, "Factor", gt=0, le=10)
    fail: tuple[int, ...] = setting((), "Numbers that fail")


DOUBLE = StageDeclaration(
    name="double",
    help="Multiply a map.",
    settings=DoubleSettings,
    function="double_stage:double_map",
    inputs=(Input("map", "map", "A map."), Input("other", "file", "Not needed.", required=False)),
    writes={"doubled": "the map times the factor"},
)
CALLS: list[int] = []


@stage(DOUBLE)
def double_map(map, other, settings, run):
    def work(i):
        if i in settings.fail:
            raise ValueError(f"number {i} is unlucky")
        CALLS.append(i)
        return {"square": i * i}

    results = run.each(range(6), work, key=str, label="numbers", max_failed_fraction=0.4)
    run.summarise(n_in=6, n_out=sum(r is not None for r in results))
    run.show(Figure(name="curve", kind="curves", title="A curve", data={"x": np.arange(3), "y": {"a": np.arange(3)}}))
    return {"doubled": VolumeMap(map.data * settings.factor, map.pixel_size)}


@pytest.fixture(autouse=True)
def double_in_registry(monkeypatch):
    module = types.ModuleType("double_stage")
    module.double_map, module.DOUBLE = double_map, DOUBLE
    monkeypatch.setitem(sys.modules, "double_stage", module)
    monkeypatch.setitem(registry.STAGES, "double", "double_stage:DOUBLE")
    registry.find_stage.cache_clear()
    CALLS.clear()
    yield
    registry.find_stage.cache_clear()


@pytest.fixture
def volume(tmp_path):
    from cryoloom.io.map_file import write_map

    path = tmp_path / "in.mrc"
    write_map(VolumeMap(np.arange(64, dtype=np.float32).reshape(4, 4, 4), 1.5), path)
    return path


def test_a_job_leaves_its_record_its_summary_and_its_results(tmp_path, volume):
    job = run_stage("double", {"map": volume}, {"factor": 3}, out=tmp_path / "job", device="cpu")
    record = json.loads((job.folder / "job.json").read_text())
    assert record["state"] == "finished" and record["settings"]["factor"] == 3
    assert job.summary["n_out"] == 6 and job.summary["verdict"] == "found"
    from cryoloom.io.map_file import read_map

    np.testing.assert_array_equal(read_map(job["doubled"]).data, 3 * np.arange(64).reshape(4, 4, 4))
    assert (job.folder / "run.log").exists() and (job.folder / "figures" / "curve.npz").exists()


def test_the_same_call_again_reports_the_finished_job(tmp_path, volume):
    first = run_stage("double", {"map": volume}, out=tmp_path / "job", device="cpu")
    n_calls = len(CALLS)
    again = run_stage("double", {"map": volume}, out=tmp_path / "job", device="cpu")
    assert again.resumed and not first.resumed and len(CALLS) == n_calls


def test_a_folder_with_another_job_is_refused(tmp_path, volume):
    run_stage("double", {"map": volume}, out=tmp_path / "job", device="cpu")
    with pytest.raises(InputError, match="holds another job"):
        run_stage("double", {"map": volume}, {"factor": 5}, out=tmp_path / "job", device="cpu")


def test_a_folder_with_foreign_files_is_refused(tmp_path, volume):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds no job"):
        run_stage("double", {"map": volume}, out=tmp_path / "mine", device="cpu")


def test_items_that_fail_are_named_and_counted(tmp_path, volume):
    job = run_stage("double", {"map": volume}, {"fail": (2,)}, out=tmp_path / "job", device="cpu")
    assert job.summary["n_out"] == 5
    assert job.summary["left_out"] == [{"item": "2", "cause": "ValueError: number 2 is unlucky"}]
    assert any("left out" in text for text in job.summary["warnings"])


def test_too_many_failures_stop_the_stage_and_keep_what_is_done(tmp_path, volume):
    with pytest.raises(TooManyFailures, match="items failed"):
        run_stage("double", {"map": volume}, {"fail": (3, 4, 5)}, out=tmp_path / "job", device="cpu", threads=1)
    assert json.loads((tmp_path / "job" / "job.json").read_text())["state"] == "failed"
    assert sorted(CALLS) == [0, 1, 2]


@pytest.mark.parametrize(
    "inputs, settings, message",
    [
        ({}, {}, "--map is missing"),
        ({"map": "nowhere.mrc"}, {}, "does not exist"),
        ({"map": "*.nothing"}, {}, "no file matches"),
        ({"maps": "x"}, {}, "no input 'maps'"),
        ({"map": None}, {"factor": 20}, "--factor"),
        ({"map": None}, {"speed": 1}, "no setting 'speed'"),
    ],
)
def test_wrong_input_is_one_clear_sentence(tmp_path, inputs, settings, message):
    with pytest.raises(InputError, match=message):
        run_stage("double", inputs, settings, out=tmp_path / "job", device="cpu")


def test_jobs_of_a_project_are_numbered_found_again_and_listed(tmp_path, volume):
    project = create_project(tmp_path / "project")
    first = run_stage("double", {"map": volume}, project=project, device="cpu")
    same = run_stage("double", {"map": volume}, project=project, device="cpu")
    other = run_stage("double", {"map": volume}, {"factor": 4}, project=project, device="cpu")
    new = run_stage("double", {"map": volume}, project=project, device="cpu", new=True)
    assert [j.folder.name for j in (first, same, other, new)] == ["001", "001", "002", "003"]
    (project.root / ".index.sqlite").write_bytes(b"not a database")
    os.utime(project.root / ".index.sqlite", ns=(2**62, 2**62))
    assert [row["folder"] for row in list_jobs(project)] == ["double/001", "double/002", "double/003"]


def test_a_moved_project_knows_its_jobs(tmp_path, volume):
    project = create_project(tmp_path / "here")
    (project.root / "in.mrc").write_bytes(volume.read_bytes())
    run_stage("double", {"map": project.root / "in.mrc"}, project=project, device="cpu")
    moved = tmp_path / "there"
    project.root.rename(moved)
    again = run_stage("double", {"map": moved / "in.mrc"}, project=create_project(moved), device="cpu")
    assert again.resumed
    assert "here" not in (moved / "double" / "001" / "job.json").read_text()


def test_what_a_kill_leaves_before_the_record_is_written_is_taken_over(tmp_path, volume):
    project = create_project(tmp_path / "project")
    left = project.root / "double" / "001"
    (left / ".state").mkdir(parents=True)
    (left / ".job.json.123.part").write_text("{")
    job = run_stage("double", {"map": volume}, project=project, device="cpu")
    assert job.folder == left
    assert not list(left.rglob("*.part"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".job.json.123.part").write_text("{")
    run_stage("double", {"map": volume}, out=tmp_path / "out", device="cpu")


def test_two_runs_in_one_folder_are_refused(tmp_path, volume):
    from cryoloom.compute import choose_device
    from cryoloom.project.job import JobRun
    from cryoloom.project.progress import NoProgress

    folder = tmp_path / "job"
    run = JobRun(folder, choose_device("cpu"), seed=0, threads=1, sink=NoProgress())
    with pytest.raises(InputError, match="in use by process"):
        JobRun(folder, choose_device("cpu"), seed=0, threads=1, sink=NoProgress())
    run.close()


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
import test_runner_child as child
child.main({folder!r}, {volume!r}, int(sys.argv[1]))
"""


def test_a_killed_job_goes_on_where_it_was(tmp_path, volume):
    child = tmp_path / "test_runner_child.py"
    child.write_text(
        """
import os, signal, sys, types
from cryoloom.contract import Input, Settings, StageDeclaration, stage
from cryoloom.project import registry
from cryoloom.project.runner import run_stage

class S(Settings):
    pass

D = StageDeclaration(name="slow", help="h", settings=S, function="slow_stage:slow", inputs=(Input("map", "file", "m"),))
kill_at = None

@stage(D)
def slow(map, settings, run):
    def work(i):
        if i == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(run.folder / "calls.txt", "a") as file:
            file.write(f"{i}\\n")
        return {"i": i}
    results = run.each(range(8), work, key=str, label="items")
    run.summarise(n_out=sum(r["i"] for r in results))
    return {}

module = types.ModuleType("slow_stage")
module.slow, module.D = slow, D
sys.modules["slow_stage"] = module
registry.STAGES["slow"] = "slow_stage:D"

def main(folder, volume, at):
    global kill_at
    kill_at = at
    print(run_stage("slow", {"map": volume}, out=folder, device="cpu", threads=1).summary["n_out"])
"""
    )
    folder = tmp_path / "job"
    script = KILLED.format(here=str(tmp_path), folder=str(folder), volume=str(volume))
    killed = subprocess.run([sys.executable, "-c", script, "5"], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL
    done = subprocess.run([sys.executable, "-c", script, "-1"], capture_output=True, text=True)
    assert done.stdout.strip() == "28", done.stderr
    assert Path(folder / "calls.txt").read_text().split() == [str(i) for i in range(8)]


def test_a_stage_without_gpu_kernels_says_so(tmp_path, volume, monkeypatch):
    monkeypatch.setattr(sys.modules["double_stage"], "DOUBLE", dataclasses.replace(DOUBLE, uses_gpu=False))
    registry.find_stage.cache_clear()
    for options in ({"require_gpu": True}, {"device": "cuda"}):
        with pytest.raises(InputError, match="CPU only"):
            run_stage("double", {"map": volume}, out=tmp_path / "job", **options)
    assert run_stage("double", {"map": volume}, out=tmp_path / "job").summary["device"] == "cpu"


def test_a_copied_project_knows_its_jobs_whatever_times_its_files_have(tmp_path, volume):
    def way(root, source):
        project = create_project(root)
        first = run_stage("double", {"map": source}, project=project, device="cpu")
        return first, run_stage("double", {"map": first["doubled"]}, {"factor": 3}, project=project, device="cpu")

    large = tmp_path / "large.mrc"
    write_map(VolumeMap(np.arange(48**3, dtype=np.float32).reshape(48, 48, 48), 1.5), large)
    first, second = way(tmp_path / "project", large)
    assert first["doubled"].stat().st_size > 300_000 and not second.resumed
    shutil.copytree(tmp_path / "project", tmp_path / "copy", copy_function=shutil.copyfile)
    copied = tmp_path / "copy" / first["doubled"].relative_to(tmp_path / "project")
    assert copied.stat().st_mtime_ns != first["doubled"].stat().st_mtime_ns
    again = way(tmp_path / "copy", large)
    assert [job.resumed for job in again] == [True, True]
    # one changed byte between the sampled blocks of the same file makes another input
    with copied.open("r+b") as file:
        file.seek(copied.stat().st_size // 2 + 17)
        file.write(b"x")
    changed = run_stage("double", {"map": copied}, {"factor": 3}, project=create_project(tmp_path / "copy"))
    assert not changed.resumed


def test_a_job_names_paths_from_its_project(tmp_path):
    def run_in(root):
        return JobRun(
            tmp_path / "p" / "a" / "001", choose_device("cpu"), seed=0, threads=1, sink=NoProgress(), root=root
        )

    for root, told in ((tmp_path / "p", "movies/a.tif"), (None, str(tmp_path / "p" / "movies" / "a.tif"))):
        run = run_in(root)
        assert run.relative(tmp_path / "p" / "movies" / "a.tif") == told
        assert run.relative("/elsewhere/b.tif") == "/elsewhere/b.tif"
        run.close()

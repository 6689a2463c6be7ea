"""Watched folders: complete files only, each once, whatever is killed on the way."""

import json
import os
import signal
import subprocess
import sys
import time

import mrcfile
import numpy as np
import pytest

import cryoloom
from cryoloom.contract import InputError, WorkFailed
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_micrographs
from cryoloom.pipeline.run import run_pipeline
from cryoloom.pipeline.watch import Arrivals, Watch, watch_stage
from cryoloom.project.progress import NoProgress

SETTINGS = {"pixel_size": 2.0, "voltage_kv": 300.0, "local_motion": False}
QUICK = {"settle": 0.05, "poll": 0.02}


def movie(seed, n=4, size=96):
    rng = np.random.default_rng(seed)
    scene = np.kron(rng.random((size // 8, size // 8)), np.ones((8, 8)))
    return rng.poisson(4 + 2 * scene, (n, size, size)).astype(np.uint8)


def write_movie(path, seed):
    write_mrc(path, movie(seed), 2.0, kind="stack")


def test_a_file_counts_when_it_is_quiet_and_whole(tmp_path):
    write_movie(tmp_path / "whole.mrcs", 0)
    data = (tmp_path / "whole.mrcs").read_bytes()
    (tmp_path / "half.mrcs").write_bytes(data[: len(data) // 2])
    (tmp_path / ".hidden.mrcs").write_bytes(data)
    (tmp_path / "notes.txt").write_text("no movie")
    look = Arrivals(Watch(tmp_path, settle=0.1))
    assert look.complete() == []
    time.sleep(0.15)
    assert [path.name for path in look.complete()] == ["whole.mrcs"]
    with (tmp_path / "half.mrcs").open("ab") as file:
        file.write(data[len(data) // 2 :])
    assert [path.name for path in look.complete()] == ["whole.mrcs"]
    time.sleep(0.15)
    assert {path.name for path in look.complete()} == {"whole.mrcs", "half.mrcs"}


def test_what_arrives_later_is_added_and_what_is_done_stays(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "motion"
    folder.mkdir()
    write_movie(folder / "b.mrcs", 1)
    (folder / "torn.mrcs").write_bytes((folder / "b.mrcs").read_bytes()[:5000])
    written = []

    def enough(result):
        written.append((out / "micrographs" / "b.mrc").stat().st_mtime_ns)
        if result.summary["n_out"] == 1:
            write_movie(folder / "a.mrcs", 2)
            write_movie(folder / "c.mrcs", 3)
        return len(result.summary["left_out"]) == 1 and result.summary["n_out"] == 3

    options = {"out": out, "device": "cpu", "threads": 1, "sink": NoProgress()}
    found = watch_stage("motion", {}, SETTINGS, Watch(folder, **QUICK), enough=enough, **options)
    micrographs = read_micrographs(found["micrographs"])
    assert sorted(str(p).rpartition("/")[2] for p in micrographs.path) == ["a.mrc", "b.mrc", "c.mrc"]
    assert len(set(written)) == 1
    assert "torn.mrcs" in found.summary["left_out"][0]["item"]


def test_a_torn_movie_that_is_mended_later_is_taken(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "motion"
    folder.mkdir()
    write_movie(folder / "a.mrcs", 1)
    whole = (folder / "a.mrcs").read_bytes()
    (folder / "torn.mrcs").write_bytes(whole[:5000])

    def enough(result):
        if result.summary["left_out"]:
            (folder / "torn.mrcs").write_bytes(whole)
        return result.summary["n_out"] == 2

    options = {"device": "cpu", "threads": 1, "settings": SETTINGS}
    found = watch_stage("motion", {}, SETTINGS, Watch(folder, **QUICK), enough=enough, out=out, device="cpu", threads=1)
    assert found.summary["left_out"] == []
    again = cryoloom.motion(watch=Watch(folder, idle=0.0, **QUICK), out=out, **options)
    assert again.resumed and again.summary["n_out"] == 2


def test_stages_that_cannot_watch_and_folders_that_stay_empty_are_refused(tmp_path):
    with pytest.raises(InputError, match="cannot watch"):
        watch_stage("extract", {}, {}, Watch(tmp_path))
    with pytest.raises(InputError, match="--diameter"):
        watch_stage("pick", {}, {}, Watch(tmp_path))
    with pytest.raises(InputError, match="no complete movies"):
        watch_stage("motion", {}, SETTINGS, Watch(tmp_path, idle=0.0, **QUICK), out=tmp_path / "out")


def test_a_watched_run_corrects_what_arrives_and_says_why_it_ends(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(2):
        write_movie(folder / f"{i}.mrcs", i)
    settings = {"pixel_size": 2.0, "dose_per_frame": 1.0}
    for _ in range(2):  # the second time everything is done
        with pytest.raises(WorkFailed, match="rings of a CTF"):
            watch = Watch(folder, idle=0.0, **QUICK)
            run_pipeline({}, settings, out=tmp_path / "project", device="cpu", threads=1, watch=watch)
    assert len(read_micrographs(tmp_path / "project" / "motion" / "001" / "micrographs.star")) == 2
    assert sorted(path.name for path in (tmp_path / "project").glob("*/*/job.json")) == ["job.json"] * 3


@pytest.mark.slow
@pytest.mark.capability("MOT-8")
def test_forty_movies_and_five_kills_make_forty_results(tmp_path, measure):
    folder, out = tmp_path / "in", tmp_path / "motion"
    folder.mkdir()
    command = [
        sys.executable, "-c", "from cryoloom.cli.main import main; main()", "motion", "--watch", str(folder),
        "--out", str(out), "--pixel-size", "2", "--voltage", "300", "--no-local-motion", "--threads", "1", "--device",
        "cpu", "--quiet", "--watch-idle", "4",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    journal = out / ".state" / "motion.jsonl"

    def n_done():
        return len(journal.read_text().splitlines()) if journal.exists() else 0

    arrived = 0
    for life in range(6):
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        begun = n_done()
        for _ in range(8 if life < 5 else 0):
            # half of a movie first, the rest a moment later
            write_movie(tmp_path / "next.mrcs", arrived)
            data = (tmp_path / "next.mrcs").read_bytes()
            path = folder / f"movie_{(17 * arrived) % 40:02d}.mrcs"
            path.write_bytes(data[:9000])
            time.sleep(0.05)
            with path.open("ab") as file:
                file.write(data[9000:])
            arrived += 1
        if life == 5:
            _, told = child.communicate(timeout=300)
            assert child.returncode == 0, told
            break
        deadline = time.monotonic() + 120
        while n_done() < begun + 2 and time.monotonic() < deadline and child.poll() is None:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    names = sorted(str(p).rpartition("/")[2] for p in read_micrographs(out / "micrographs.star").path)
    keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()]
    whole = tmp_path / "whole"
    watch_stage(
        "motion", {}, SETTINGS, Watch(folder, idle=0.0, **QUICK), out=whole, device="cpu", threads=1,
        enough=lambda result: result.summary["n_out"] == 40,
    )  # fmt: skip
    same = 0
    for name in names:
        one, two = (mrcfile.read(root / "micrographs" / name) for root in (out, whole))
        same += bool(np.array_equal(one, two))
    measure(
        same, unit="of 40 results", threshold="40", note="5 kills; equal to the last bit to a run that was not stopped"
    )
    assert names == [f"movie_{i:02d}.mrc" for i in range(40)]
    assert len(keys) == len(set(keys)) == 40
    assert same == 40

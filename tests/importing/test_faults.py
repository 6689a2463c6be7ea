"""Files that are damaged or are not what they are called end in a sentence that names them; the others are finished."""

import errno
import os
import threading
import time

import numpy as np
import pytest
import torch

from cryoloom.cli.main import run_command
from cryoloom.io.eer_writer import write_eer
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_micrographs, read_movies
from cryoloom.io.tiff import write_tiff
from cryoloom.project.runner import run_stage

SHAPE = (6, 64, 64)


def frames(seed):
    return np.random.default_rng(seed).poisson(2.0, SHAPE).astype(np.int16)


def good_movies(folder, n=8):
    for i in range(n):
        write_mrc(folder / f"good_{i}.mrcs", frames(i), 1.5, kind="stack")
    return (folder / "good_0.mrcs").read_bytes()


def swapped(content):
    """The same MRC file with its numbers in the other byte order."""
    words = np.frombuffer(content[:1024], "<i4").copy()
    head = bytearray(words.astype(">i4").tobytes())
    for first, last in ((104, 108), (208, 212), (224, 1024)):  # texts and the machine stamp are bytes
        head[first:last] = content[first:last]
    head[212:216] = b"\x11\x11\x00\x00"
    return bytes(head) + np.frombuffer(content[1024:], "<i2").astype(">i2").tobytes()


def bad_movies(folder, content):
    """Files that cannot be used, and a word of what is said of each."""
    (folder / "truncated.mrcs").write_bytes(content[: len(content) // 2])
    (folder / "empty.mrcs").write_bytes(b"")
    (folder / "text.mrcs").write_text("no picture at all\n" * 200)
    write_mrc(folder / "nan.mrcs", np.full(SHAPE, np.nan, np.float32), 1.5, kind="stack")
    write_tiff(folder / "mislabelled.tif", frames(90).astype(np.uint16))
    (folder / "mislabelled.tif").rename(folder / "mislabelled.mrcs")
    (folder / "no_tiff.tif").write_bytes(content)
    write_eer(folder / "torn.eer", [np.array([[4, 8], [40, 60]])] * 6, (64, 64))
    (folder / "torn.eer").write_bytes((folder / "torn.eer").read_bytes()[:90])
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("good"))


def left_out(summary):
    return {item["item"].rpartition("/")[2]: item["cause"] for item in summary["left_out"]}


def assert_clear(causes, names):
    assert sorted(causes) == names
    for name, cause in causes.items():
        assert name in cause, cause
        assert "Error:" not in cause and "Traceback" not in cause, cause
        assert len(cause) < 400


@pytest.mark.capability("PLT-13")
def test_damaged_and_mislabelled_movies_are_named_by_the_import_and_the_others_taken(tmp_path, measure):
    names = bad_movies(tmp_path, good_movies(tmp_path))
    done = run_stage(
        "import", inputs={"files": sorted(tmp_path.glob("*.*"))}, settings={"dose_per_frame": 1.0, "pixel_size": 1.5},
        out=tmp_path / "out",
    )  # fmt: skip
    assert_clear(left_out(done.summary), names)
    assert len(read_movies(done["movies"])) == 8
    note = "import: truncated, zero-byte, text, NaN, mislabelled (both ways) and torn movies; 8 good ones are taken"
    measure(len(names), f"of {len(names)} bad files named", f"{len(names)}", note=note)


@pytest.mark.capability("PLT-13")
def test_a_movie_of_the_other_byte_order_gives_the_same_frames(tmp_path, measure):
    content = good_movies(tmp_path, n=1)
    (tmp_path / "big.mrcs").write_bytes(swapped(content))
    from cryoloom.io.movies import open_movie

    with open_movie(tmp_path / "big.mrcs") as one, open_movie(tmp_path / "good_0.mrcs") as two:
        np.testing.assert_array_equal(one.frames(0, 6), two.frames(0, 6))
    measure(1, "of 1 big-endian movie read as it is", "1")


@pytest.mark.capability("PLT-13")
def test_motion_goes_on_with_the_good_movies(tmp_path, measure):
    names = bad_movies(tmp_path, good_movies(tmp_path))
    write_mrc(tmp_path / "gain.mrc", np.ones((64, 64), np.float32), 1.5)
    write_mrc(tmp_path / "other_size.mrcs", frames(91)[:, :32], 1.5, kind="stack")
    paths = sorted(p for p in tmp_path.glob("*.*") if p.name != "gain.mrc")
    settings = {"pixel_size": 1.5, "voltage_kv": 300.0, "local_motion": False}
    inputs = {"movies": paths, "gain": tmp_path / "gain.mrc"}
    done = run_stage("motion", inputs=inputs, settings=settings, out=tmp_path / "out", device="cpu", threads=1)
    causes = left_out(done.summary)
    assert "32" in causes.pop("other_size.mrcs")
    assert_clear(causes, names)
    assert len(read_micrographs(done["micrographs"])) == 8
    n = len(names) + 1
    measure(n, f"of {n} bad files named", f"{n}", note="motion: the same, and a movie that the gain does not fit")


def _raised(trouble):
    if trouble == "GPU memory":
        return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    if trouble == "GPU lost":
        return RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")
    if trouble == "memory":
        return MemoryError()
    number = errno.ENOSPC if trouble == "disk full" else errno.EROFS
    return OSError(number, os.strerror(number), "/data/out/a.mrc")


TROUBLES = {
    "disk full": "/data/out/a.mrc: No space left on device. Free space",
    "read-only": "/data/out/a.mrc: Read-only file system. Free space or fix the permissions",
    "memory": "the memory of this machine is used up",
    "GPU memory": "the memory of the GPU is used up",
    "GPU lost": "the GPU does not answer any more (CUDA error: unspecified launch failure)",
}


@pytest.mark.capability("PLT-13")
def test_trouble_of_the_machine_stops_a_job_with_one_sentence_and_the_job_goes_on_later(
    tmp_path, measure, monkeypatch, capsys
):
    """The errors that the system or torch raise, at the second movie, as they are."""
    import cryoloom.motion.stage as room

    good_movies(tmp_path, n=3)
    settings = ["--pixel-size", "1.5", "--voltage-kv", "300", "--no-local-motion", "--threads", "1", "--quiet"]
    write = room.write_mrc
    for trouble, sentence in TROUBLES.items():
        out = tmp_path / trouble.replace(" ", "_")
        command = ["motion", "--movies", str(tmp_path / "good_*.mrcs"), "--out", str(out), *settings]

        def broken(path, *rest, trouble=trouble, **more):
            if "good_1" in str(path):
                raise _raised(trouble)
            return write(path, *rest, **more)

        monkeypatch.setattr(room, "write_mrc", broken)
        started = time.monotonic()
        assert run_command(command) == 1
        said = capsys.readouterr().err
        assert sentence in said and "Traceback" not in said, said
        assert time.monotonic() - started < 60
        monkeypatch.setattr(room, "write_mrc", write)
        assert run_command(command) == 0
        assert sorted(p.name for p in (out / "micrographs").glob("good_?.mrc")) == [f"good_{i}.mrc" for i in range(3)]
    n = len(TROUBLES)
    note = f"{', '.join(TROUBLES)}: the real errors raised at the second movie; given again, the job is finished"
    measure(n, f"of {n} troubles of the machine told in a sentence", f"{n}", note=note)


@pytest.mark.capability("PLT-13")
def test_storage_that_does_not_answer_is_named_while_the_job_waits(tmp_path, measure, monkeypatch):
    """A named pipe blocks whoever reads it, as a stalled network disk does, until something is written."""
    import cryoloom.motion.stage as room
    from cryoloom.project import progress

    longest = progress.SILENCE
    assert longest < 60
    monkeypatch.setattr(progress, "SILENCE", 0.3)
    good_movies(tmp_path, n=2)
    os.mkfifo(tmp_path / "stalled")
    write, waited = room.write_mrc, []

    def stalled(path, *rest, **more):
        if "good_1" in str(path) and not waited:
            waited.append((tmp_path / "stalled").read_bytes())
        return write(path, *rest, **more)

    monkeypatch.setattr(room, "write_mrc", stalled)
    out = tmp_path / "out"

    def answer_when_named():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if "At work on" in ((out / "run.log").read_text() if (out / "run.log").exists() else ""):
                break
            time.sleep(0.05)
        (tmp_path / "stalled").write_bytes(b"the disk answers again")

    disk = threading.Thread(target=answer_when_named)
    disk.start()
    command = ["motion", "--movies", str(tmp_path / "good_*.mrcs"), "--out", str(out), "--pixel-size", "1.5"]
    assert run_command([*command, "--voltage-kv", "300", "--no-local-motion", "--threads", "1", "--quiet"]) == 0
    disk.join()
    said = [line for line in (out / "run.log").read_text().splitlines() if "nothing new for" in line]
    assert any("good_1" in line and "can be stopped and run again" in line for line in said), said
    assert waited == [b"the disk answers again"]
    assert len(read_micrographs(out / "micrographs.star")) == 2
    note = "a stalled disk: the item that waits is named, and the job goes on when the disk answers"
    measure(longest, "s without a word at most", "< 60", note=note)


@pytest.mark.parametrize("kind", ["nan", "constant", "empty"])
def test_micrographs_without_a_picture_are_named(tmp_path, kind):
    rng = np.random.default_rng(0)
    for i in range(3):
        write_mrc(tmp_path / f"good_{i}.mrc", rng.normal(size=(64, 64)).astype(np.float32), 1.5, kind="image")
    image = np.full((64, 64), np.nan if kind == "nan" else 1.0, np.float32)
    write_mrc(tmp_path / "bad.mrc", image, 1.5, kind="image")
    if kind == "empty":
        (tmp_path / "bad.mrc").write_bytes(b"")
    done = run_stage("import", inputs={"files": sorted(tmp_path.glob("*.mrc"))}, out=tmp_path / "out")
    assert_clear(left_out(done.summary), ["bad.mrc"])
    assert len(read_micrographs(done["micrographs"])) == 3

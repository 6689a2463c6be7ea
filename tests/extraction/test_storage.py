"""EXT-2: single precision unless half is asked for, little beside the stack, and a lost stack made again to the bit."""

import hashlib

import numpy as np
import pytest

from cryoloom.data import MicrographSet, Optics, PickSet
from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.records import write_micrographs, write_picks
from cryoloom.project.folder import create_project
from cryoloom.project.runner import run_stage


def noisy_set(folder, n=4, shape=(300, 320)):
    """Micrographs of noise, and picks anywhere on them."""
    rng = np.random.default_rng(0)
    paths = np.asarray([str(folder / f"mic{i}.mrc") for i in range(n)])
    for path in paths:
        write_mrc(path, rng.standard_normal(shape).astype(np.float32), 1.5)
    place = rng.uniform(30, 270, (n * 24, 2))
    micrographs = MicrographSet(path=paths, optics=(Optics(pixel_size=1.5),), optics_index=np.zeros(n, int))
    return micrographs, PickSet(position_px=place, micrograph=np.repeat(paths, 24), diameter=36.0)


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.mrcs"))}


@pytest.mark.capability("EXT-2")
def test_a_deleted_stack_is_made_again_to_the_bit(tmp_path, measure):
    raw = tmp_path / "raw"
    raw.mkdir()
    micrographs, picks = noisy_set(raw)
    write_micrographs(micrographs, raw / "micrographs.star")
    write_picks(picks, raw / "picks.star")
    root = tmp_path / "project"
    root.mkdir()
    inputs = {"micrographs": raw / "micrographs.star", "picks": raw / "picks.star"}
    options = {"project": create_project(root), "threads": 1, "device": "cpu"}
    job = run_stage("extract", inputs, {"box": 128, "diameter": 36.0, "target_pixel_size": 1.5}, **options)
    stack = sum(path.stat().st_size for path in (job.folder / "particles").glob("*.mrcs"))
    total = sum(path.stat().st_size for path in job.folder.rglob("*") if path.is_file())
    before = digest(job.folder / "particles")
    assert len(before) == 4
    image = read_mrc(next(iter(sorted((job.folder / "particles").glob("*.mrcs")))))[0]
    assert np.asarray(image).dtype == np.float32
    for path in (job.folder / "particles").glob("*.mrcs"):
        path.unlink()
    again = run_stage("rerun", {"job": job.folder}, {}, out=tmp_path / "again", threads=1, device="cpu")
    rebuilt = digest(again.folder / "project" / "extract" / "001" / "particles")
    half = run_stage("extract", inputs, {"box": 128, "diameter": 36.0, "float16": True}, **options)
    small = sum(path.stat().st_size for path in (half.folder / "particles").glob("*.mrcs"))
    different = sum(before[name] != rebuilt.get(name) for name in before)
    measure(different, "stacks", "== 0", note="of 4 deleted stacks that differ when rebuilt from their record")
    measure(round(total / stack, 3), "of the stack", "<= 1.2", note="all files of the job")
    measure(round(small / stack, 3), "of the stack", "", note="stored as float16 on request")
    assert different == 0
    assert total <= 1.2 * stack
    assert small < 0.51 * stack

"""A map is rebuilt from records; a project that is moved keeps all its links."""

import json
import re
import shutil

import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.io.map_file import write_map
from cryoloom.io.records import read_particles
from cryoloom.project.folder import create_project, open_project
from cryoloom.project.index import list_jobs
from cryoloom.project.runner import run_stage
from cryoloom.rerun.stage import ancestry, compare_outputs

RECIPE = {
    "phantom": "ring", "symmetry": "D7", "mass": 300.0, "particles": 100, "box": 32, "pixel_size": 6.0, "snr": 0.5,
    "junk": 0.0,
}  # fmt: skip


def broken_links(root):
    """Paths in STAR and JSON files of a project that lead nowhere, and how many there are in all."""
    broken, total = [], 0
    for path in [*root.rglob("*.star"), *root.rglob("job.json")]:
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"(?<=@)[^\s\":]+|[^\s\"@:,]+\.(?:mrcs?|star|tif|xml)\b", text)
        for name in dict.fromkeys(names):
            total += 1
            if not ((root / name).exists() or (path.parent / name).exists()) or name.startswith("/"):
                broken.append((path.name, name))
    return broken, total


def test_a_moved_project_has_no_broken_links_and_its_map_is_rebuilt(tmp_path):
    root = tmp_path / "here"
    root.mkdir()
    options = {"project": create_project(root), "device": "cpu", "threads": 1}
    data = run_stage("simulate particles", {}, RECIPE, seed=3, **options)
    split = run_stage("particles subset", {"particles": data["truth"]}, {"rows": "1-90"}, **options)
    made = run_stage("reconstruct", {"particles": split["particles"]}, {"symmetry": "D7"}, **options)
    run_stage("postprocess", {"half1": made["half1"], "half2": made["half2"]}, {"symmetry": "D7"}, **options)
    moved = tmp_path / "another place" / "there"
    moved.parent.mkdir()
    shutil.move(root, moved)
    # the truth names micrographs that the simulation of particles does not write
    broken = [b for b in broken_links(moved)[0] if "micrograph" not in b[1] and not b[1].startswith("mic")]
    assert broken_links(moved)[1] > 10
    assert len(read_particles(moved / "particles-subset/001/particles.star", root=moved)) == 90
    assert [row["state"] for row in list_jobs(open_project(moved))] == ["finished"] * 4
    order = ancestry(open_project(moved), moved / "postprocess/001")
    assert [p.parent.name for p in order] == ["simulate-particles", "particles-subset", "reconstruct", "postprocess"]
    done = run_stage("rerun", {"job": moved / "postprocess/001"}, {}, out=tmp_path / "again")
    assert done.summary["verdict"] == "found" and done.summary["n_in"] == 4
    assert done.summary["results"]["map_sharpened.mrc"] == "equal to the byte"
    assert not broken, broken[:5]
    # a project of a newer version is refused, one of this version is read
    (moved / "cryoloom.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(InputError, match="newer version"):
        open_project(moved)


def test_a_difference_is_told(tmp_path):
    for name, value in (("a", 0.0), ("b", 1e-3)):
        folder = tmp_path / name
        folder.mkdir()
        volume = read_map_of(value)
        write_map(volume, folder / "map.mrc")
        (folder / "job.json").write_text(json.dumps({"outputs": {"map": "map.mrc", "gone": "gone.mrc"}}))
    found = compare_outputs(tmp_path / "a", tmp_path / "b", 1e-5)
    assert [c.same for c in found] == [False, False] and "1.0e-03" in found[0].text and "missing" in found[1].text
    assert compare_outputs(tmp_path / "a", tmp_path / "b", 1e-2)[0].same
    with pytest.raises(InputError, match="no finished job"):
        run_stage("rerun", {"job": tmp_path / "a"}, {}, out=tmp_path / "out")


def read_map_of(change):
    from cryoloom.data import VolumeMap

    data = np.zeros((8, 8, 8), np.float32)
    data[4, 4, 4] = 1.0
    data[2, 2, 2] = change
    return VolumeMap(data, 2.0)

"""Views in ChimeraX and napari, and the report of a project that real stages made."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from cryoloom.data import VolumeMap
from cryoloom.geometry import random_rotations
from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.records import read_particles, write_particles
from cryoloom.pipeline.api import run_stage_with_report, write_report
from cryoloom.project.folder import create_project
from cryoloom.report.views import directions_bild, write_views

CXC = re.compile(r"^(#.*|set bgColor \w+|lighting \w+|view|open (\".+?\"|\S+)( name \".+\")?|"
                 r"volume #\d+ level \S+( step 1)?( style mesh)? color \S+|(hide|show) #\d+ models|"
                 r"color sample #\d+ map #\d+ palette \S+)$")  # fmt: skip

NAPARI_STAND_IN = """
import json, numpy as np
LAYERS = []
class Axes: visible = False
class Viewer:
    def __init__(self, ndisplay): assert ndisplay == 3; self.axes = Axes()
    def add_image(self, data, name, scale, contrast_limits, rendering, visible):
        assert contrast_limits[0] < contrast_limits[1]
        LAYERS.append([name, list(data.shape), [float(s) for s in scale], float(data.sum()), bool(visible)])
def run(): print(json.dumps(LAYERS))
"""


def run_napari(folder, tmp_path):
    """Run the script with a module in place of napari that tells what it was given."""
    (tmp_path / "stand_in").mkdir(exist_ok=True)
    (tmp_path / "stand_in" / "napari.py").write_text(NAPARI_STAND_IN)
    done = subprocess.run(
        [sys.executable, str(folder / "view_napari.py")], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "stand_in")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_cxc(folder):
    lines = (folder / "view.cxc").read_text().splitlines()
    assert all(CXC.match(line) for line in lines), [line for line in lines if not CXC.match(line)]
    opened = [line.split('"')[1] if '"' in line else line.split()[1] for line in lines if line.startswith("open ")]
    assert opened and all((folder / name).is_file() and not name.startswith("/") for name in opened)
    return opened


class Addresses(HTMLParser):
    """Everything in a page that a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"):
                self.found.append(value or "")
            self.found += re.findall(r"url\(([^)]*)\)", value or "") if name == "style" else []


def external(page):
    parser = Addresses()
    parser.feed(page)
    styles = "".join(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    assert not parser.tags & {"script", "link", "iframe", "object", "embed", "base"} and "@import" not in styles
    found = parser.found + re.findall(r"url\(([^)]*)\)", page)
    return [value for value in found if not re.match(r"""["']?(data:|#)""", value)]


@pytest.mark.capability("PLT-10")
def test_reports_of_jobs_and_project_stand_alone_and_open_elsewhere(tmp_path, measure):
    root = tmp_path / "a project"
    root.mkdir()
    options = {"project": create_project(root), "device": "cpu", "threads": 1}
    recipe = {"phantom": "ring", "symmetry": "D7", "mass": 300.0, "particles": 120, "box": 32, "pixel_size": 6.0,
              "snr": 0.3, "junk": 0.0}  # fmt: skip
    data = run_stage_with_report("simulate particles", {}, recipe, **options)
    truth = read_particles(data["truth"], root=root)
    write_particles(truth.replace(half=[1 + i % 2 for i in range(len(truth))]), root / "posed.star", root=root)
    made = run_stage_with_report("reconstruct", {"particles": root / "posed.star"}, {"symmetry": "D7"}, **options)
    halves = {"half1": made["half1"], "half2": made["half2"]}
    final = run_stage_with_report("postprocess", halves, {"symmetry": "D7"}, **options)
    local = run_stage_with_report("resolution", halves | {"mask": final["mask"]}, {"symmetry": "D7"}, **options)
    write_report(root)
    moved = tmp_path / "moved"
    shutil.move(root, moved)  # nothing may point to where it was
    folders = [moved, *(moved / job.folder.relative_to(root) for job in (data, made, final, local))]
    addresses, layers = 0, 0
    for folder in folders:
        page = (folder / "report.html").read_text(encoding="utf-8")
        addresses += len(external(page))
        assert str(root) not in (folder / "view.cxc").read_text() + (folder / "view_napari.py").read_text()
        record = json.loads((folder / "report.json").read_text())
        assert record["schema"] == 1 and record["verdict"] in ("found", "doubtful", "not found") and record["reasons"]
        assert set(record["views"]) >= {"view.cxc", "view_napari.py"}
        check_cxc(folder)
        shown = run_napari(folder, tmp_path)
        layers += len(shown)
        assert shown[0][4] and not any(layer[4] for layer in shown[1:])
    record = json.loads((moved / "report.json").read_text())
    assert [step["stage"] for step in record["steps"]] == [
        "simulate particles",
        "reconstruct",
        "postprocess",
        "resolution",
    ]
    job = json.loads((moved / "postprocess" / "001" / "report.json").read_text())
    assert job["summary"]["resolution"] == final.summary["resolution"]
    assert {f["name"] for f in job["figures"]} >= {"fsc", "map"}
    assert all((moved / "postprocess" / "001" / f["data"]).exists() for f in job["figures"])
    shown = {layer[0]: layer for layer in run_napari(moved, tmp_path)}
    sharpened = read_map(moved / "postprocess" / "001" / "map_sharpened.mrc")
    assert shown["map_sharpened"][3] == pytest.approx(float(sharpened.data.sum()), rel=1e-4)
    assert shown["map_sharpened"][2] == pytest.approx([6.0] * 3) and "local_resolution" in shown
    n = len(folders)
    measure(addresses, unit="addresses fetched", threshold="0", note=f"{n} pages with JSON and views, {layers} layers")
    assert addresses == 0


def test_the_surface_is_coloured_by_the_local_resolution_of_the_particle_not_of_the_solvent(tmp_path):
    z, y, x = np.ogrid[[slice(-16, 16)] * 3]
    body = z**2 + y**2 + x**2 < 8**2
    rng = np.random.default_rng(0)
    maps = {"map_sharpened": np.where(body, 1.0, 0.05 * rng.normal(size=body.shape))}
    maps["local_resolution"] = np.where(body, 4.0 + 0.5 * (x > 0), 15.0)
    paths = {name: tmp_path / f"{name}.mrc" for name in maps}
    for name, path in paths.items():
        write_map(VolumeMap(maps[name].astype(np.float32), 2.0), path)
    write_views(tmp_path, paths)
    line = next(row for row in (tmp_path / "view.cxc").read_text().splitlines() if row.startswith("color sample"))
    assert line == "color sample #1 map #2 palette 4.00,blue:4.25,white:4.50,red"


def test_rods_point_to_where_particles_are_seen_from():
    rotations = random_rotations(4000, torch.Generator().manual_seed(3)).numpy()
    tilted = rotations[rotations[:, 2, 2] > 0.9]
    text = directions_bild(tilted, (10.0, 20.0, 30.0), 50.0)
    rods = np.array([[float(v) for v in line.split()[1:]] for line in text.splitlines() if line.startswith(".cyl")])
    outward = rods[:, 3:6] - rods[:, :3]
    assert (outward[:, 2] / np.linalg.norm(outward, axis=1) > 0.85).all()
    np.testing.assert_allclose(np.linalg.norm(rods[:, :3] - [10, 20, 30], axis=1), 50, atol=0.01)


def test_image_stacks_and_damaged_files_are_left_out(tmp_path):
    write_map(VolumeMap(np.random.default_rng(0).normal(size=(12, 12, 12)).astype(np.float32), 2.0), tmp_path / "m.mrc")
    (tmp_path / "bad.mrc").write_bytes(b"nothing")
    assert write_views(tmp_path, {"bad": tmp_path / "bad.mrc"}) == []
    assert write_views(tmp_path, {"bad": tmp_path / "bad.mrc", "map": tmp_path / "m.mrc"}) == [
        "view.cxc",
        "view_napari.py",
    ]
    assert check_cxc(tmp_path) == ["m.mrc"]

"""Deposition of a project made by real stages: what is in the folder, and that the checker names what is not."""

import hashlib
import json
import shutil
import xml.etree.ElementTree as ElementTree

import gemmi
import mrcfile
import numpy as np
import pytest
from PIL import Image

from cryoloom.contract import InputError
from cryoloom.deposit.check import check_bundle
from cryoloom.project.folder import open_project
from cryoloom.project.runner import run_stage


@pytest.fixture(scope="module")
def deposited(finished_project):
    return run_stage("deposit", {"project": finished_project}, {}, project=open_project(finished_project))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wrong_items(folder):
    return [finding.item for finding in check_bundle(folder) if not finding.ok]


def spoil_fsc(path):
    path.write_text(path.read_text().replace("<fsc ", "<curve ").replace("</fsc>", "</curve>"))


def spoil_half(path):
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)


def spoil_cif(path):
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "nominal_cs" not in line))


def spoil_json(path):
    meta = json.loads(path.read_text())
    meta.pop("map")
    path.write_text(json.dumps(meta))


def spoil_picture(path):
    Image.open(path).resize((400, 400)).save(path)


def spoil_mask(path):
    with mrcfile.mmap(path, mode="r+") as file:
        file.data[:] = file.data > 0.5


def spoil_voxel(path):
    with mrcfile.mmap(path, mode="r+") as file:
        file.voxel_size = 1.0


SPOILED = {
    "emd_fsc.xml": (spoil_fsc, "emd_fsc.xml (content)"),
    "emd_half_map_1.mrc": (spoil_half, "half-map identity"),
    "metadata.cif": (spoil_cif, "metadata.cif (content)"),
    "metadata.json": (spoil_json, "metadata.json (content)"),
    "emd_image.png": (spoil_picture, "emd_image.png (content)"),
    "emd_mask.mrc": (spoil_mask, "emd_mask.mrc (content)"),
    "emd_map.mrc": (spoil_voxel, "grids"),
}


@pytest.mark.capability("DEP-1")
def test_a_project_becomes_a_bundle_that_needs_no_edit(deposited, finished_project, measure):
    folder = deposited.folder / "bundle"
    assert deposited.summary["verdict"] == "found" and deposited.summary["missing"] == []
    # the halves are those of the reconstruction, byte for byte
    for i in (1, 2):
        assert digest(folder / f"emd_half_map_{i}.mrc") == digest(finished_project / f"reconstruct/001/half{i}.mrc")
    # independent readers: mrcfile's validator, gemmi, Pillow, the XML parser
    for path in folder.glob("*.mrc"):
        assert mrcfile.validate(str(path)), path.name
    root = ElementTree.parse(folder / "emd_fsc.xml").getroot()
    assert root.tag == "fsc" and {"title", "xaxis", "yaxis"} <= set(root.attrib)
    assert {child.tag for child in root} == {"coordinate"} and {c.tag for c in root[0]} == {"x", "y"}
    with Image.open(folder / "emd_image.png") as picture:
        assert picture.size == (500, 500) and picture.format == "PNG" and np.asarray(picture).std() > 10
    block = gemmi.cif.read(str(folder / "metadata.cif")).sole_block()
    resolution = deposited.summary["resolution"]
    assert float(block.find_value("_em_3d_reconstruction.resolution")) == pytest.approx(resolution, abs=1e-3)
    assert block.find_value("_em_3d_reconstruction.num_particles") == "240"
    assert block.find_value("_em_single_particle_entity.point_symmetry") == "D7"
    assert list(block.find_loop("_em_map.type")).count("'half map'") == 2
    meta = json.loads((folder / "metadata.json").read_text())
    assert meta["images"]["voltage_kv"] == 300 and meta["images"]["cs_mm"] == 2.7
    assert len(json.loads((folder / "empiar.json").read_text())["image_sets"][0]["files"]) >= 1
    n = deposited.summary["n_items"]
    measure(0, unit="edits", threshold="0", note=f"{n} of {n} items in order; both half maps equal to the byte")


@pytest.mark.capability("DEP-1")
def test_the_checker_names_each_missing_and_each_spoiled_item(deposited, tmp_path, measure):
    source = deposited.folder / "bundle"
    assert wrong_items(source) == []
    required = [finding.item for finding in check_bundle(source) if (source / finding.item).is_file()]
    named = 0
    for name in required:
        folder = shutil.copytree(source, tmp_path / f"without {name}")
        (folder / name).unlink()
        named += name in wrong_items(folder)
    for name, (spoil, item) in SPOILED.items():
        folder = shutil.copytree(source, tmp_path / f"spoiled {name}")
        spoil(folder / name)
        found = wrong_items(folder)
        assert item in found, (name, found)
        assert "checksums.sha256 (content)" in found
        named += 1
    total = len(required) + len(SPOILED)
    measure(named, unit="faults named", threshold=f"all of {total}")
    assert named == total and len(required) == 10


def test_the_contour_encloses_the_mass(deposited):
    folder = deposited.folder / "bundle"
    with mrcfile.open(folder / "emd_map.mrc") as file, mrcfile.open(folder / "emd_mask.mrc") as mask:
        n = int((file.data * mask.data > deposited.summary["contour"]).sum())
        volume = n * float(file.voxel_size.x) ** 3
    meta = json.loads((folder.parent.parent.parent / "postprocess" / "001" / "summary.json").read_text())
    assert volume == pytest.approx(1210 * meta["molecular_mass_estimate_kda"], rel=0.02)


def test_check_deposit_compares_with_the_project(deposited, finished_project, tmp_path):
    folder = shutil.copytree(deposited.folder / "bundle", tmp_path / "bundle")
    again = run_stage("check-deposit", {"bundle": folder, "project": finished_project}, {}, out=tmp_path / "check")
    assert again.summary["verdict"] == "found"
    spoil_half(folder / "emd_half_map_2.mrc")
    again = run_stage("check-deposit", {"bundle": folder, "project": finished_project}, {}, out=tmp_path / "second")
    assert again.summary["verdict"] == "doubtful" and "half-map identity" in again.summary["missing"]


def test_projects_without_a_sharpened_map_are_told_what_to_do(tmp_path):
    (tmp_path / "cryoloom.json").write_text('{"schema": 1}')
    with pytest.raises(InputError, match="cryoloom postprocess"):
        run_stage("deposit", {"project": tmp_path}, {}, out=tmp_path / "out")
    (tmp_path / "plain").mkdir()
    (tmp_path / "cryoloom.json").unlink()
    with pytest.raises(InputError, match=r"cryoloom\.json"):
        run_stage("deposit", {"project": tmp_path / "plain"}, {}, out=tmp_path / "out2")

"""The checker: opens each file of a deposition anew and names every item that is missing or does not fit."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cryoloom.contract import InputError
from cryoloom.deposit.bundle import CHECKSUMS, COPIES, IMAGE_SIDE, read_checksums, sha256_of
from cryoloom.io.fsc_xml import read_fsc_xml
from cryoloom.io.mmcif import read_mmcif
from cryoloom.io.mrc import MrcHeader, read_mrc, read_mrc_header

REQUIRED_CIF = {
    "em_experiment": ("reconstruction_method", "aggregation_state"),
    "em_imaging": ("accelerating_voltage", "nominal_cs"),
    "em_3d_reconstruction": ("resolution", "resolution_method", "num_particles", "symmetry_type"),
    "em_single_particle_entity": ("point_symmetry",),
    "em_ctf_correction": ("type",),
    "em_software": ("name", "version"),
    "em_map": ("type", "file", "pixel_spacing_x"),
}
REQUIRED_JSON = ("title", "method", "map", "images", "software", "half_map_identity")
REQUIRED_FILES = (
    COPIES["map"], COPIES["half1"], COPIES["half2"], COPIES["mask"], COPIES["fsc_xml"], "emd_image.png",
    "metadata.cif", "metadata.json", "empiar.json", CHECKSUMS,
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One item of the check.

    Attributes
    ----------
    item
        The file, or the file and what is in it.
    ok
        Whether it is there and right.
    text
        What was found, and how to mend it where it is wrong.
    """

    item: str
    ok: bool
    text: str = ""


def check_bundle(folder: Path, sources: dict[str, Path] | None = None) -> list[Finding]:
    """Check a deposition folder.

    Parameters
    ----------
    folder
        The bundle as it is now.
    sources
        Refined half maps by `half1`, `half2`, to be compared byte by byte; else the hashes in the metadata are used.

    Returns
    -------
    findings
        One for each item, in a fixed order.
    """
    findings = [
        Finding(name, (folder / name).is_file(), "" if (folder / name).is_file() else "the file is missing")
        for name in REQUIRED_FILES
    ]
    checks: list[tuple[str, Callable[[], None]]] = [
        (COPIES["map"], lambda: _check_map(folder / COPIES["map"])),
        (COPIES["half1"], lambda: _check_map(folder / COPIES["half1"])),
        (COPIES["half2"], lambda: _check_map(folder / COPIES["half2"])),
        (COPIES["mask"], lambda: _check_mask(folder / COPIES["mask"])),
        ("grids", lambda: _check_grids(folder)),
        ("halves differ", lambda: _check_halves(folder)),
        ("half-map identity", lambda: _check_identity(folder, sources)),
        (COPIES["fsc_xml"], lambda: _check_fsc(folder)),
        ("emd_image.png", lambda: _check_picture(folder / "emd_image.png")),
        ("metadata.cif", lambda: _check_cif(folder)),
        ("metadata.json", lambda: _check_json(folder / "metadata.json")),
        ("empiar.json", lambda: _check_empiar(folder / "empiar.json")),
        (CHECKSUMS, lambda: _check_checksums(folder)),
    ]
    there = {finding.item: finding.ok for finding in findings}
    for item, check in checks:
        if not there.get(item, True):
            continue  # named above
        try:
            check()
        except (InputError, ValueError, OSError, KeyError, TypeError) as error:
            findings.append(Finding(f"{item} (content)" if item in there else item, False, str(error)))
        else:
            findings.append(Finding(f"{item} (content)" if item in there else item, True))
    return findings


def _check_map(path: Path) -> None:
    array, header = read_mrc(path)
    if header.mode != 2:
        raise ValueError(f"mode {header.mode}, expected 2 (float32)")
    if header.problems:
        raise ValueError("; ".join(header.problems))
    if header.space_group != 1 or min(header.voxel_size) <= 0:
        raise ValueError(f"space group {header.space_group} and voxel {header.voxel_size}, expected 1 and a size")
    if header.axes != (1, 2, 3):
        raise ValueError(f"axes {header.axes}, expected X, Y, Z")
    if not np.isfinite(array).all() or float(np.ptp(array)) == 0:
        raise ValueError("the map is flat or holds values that are not finite")


def _check_mask(path: Path) -> None:
    _check_map(path)
    array, _ = read_mrc(path)
    if array.min() < -1e-3 or array.max() > 1.001:
        raise ValueError(f"values from {array.min():.3g} to {array.max():.3g}, expected 0 to 1")
    if not ((array > 0.05) & (array < 0.95)).any():
        raise ValueError("the mask has a hard edge")


def _check_grids(folder: Path) -> None:
    headers: dict[str, MrcHeader] = {
        name: read_mrc_header(folder / COPIES[name]) for name in ("map", "half1", "half2", "mask")
    }
    first = headers["map"]
    for name, header in headers.items():
        same = np.allclose(header.voxel_size, first.voxel_size, rtol=1e-4)
        if header.shape != first.shape or not same or not np.allclose(header.origin, first.origin, atol=1e-3):
            raise ValueError(
                f"{COPIES[name]} has another size, voxel or origin than {COPIES['map']}: {header.shape}, "
                f"{header.voxel_size}, {header.origin} against {first.shape}, {first.voxel_size}, {first.origin}"
            )


def _check_halves(folder: Path) -> None:
    one, _ = read_mrc(folder / COPIES["half1"])
    two, _ = read_mrc(folder / COPIES["half2"])
    if np.array_equal(one, two):
        raise ValueError("both half maps are the same")


def _check_identity(folder: Path, sources: dict[str, Path] | None) -> None:
    expected = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["half_map_identity"]
    for name in ("half1", "half2"):
        wanted = sha256_of(sources[name]) if sources else expected[name]["sha256"]
        if sha256_of(folder / COPIES[name]) != wanted:
            raise ValueError(f"{COPIES[name]} is not the refined half map {expected[name]['source']}; copy it again")


def _check_fsc(folder: Path) -> None:
    frequency, fsc = read_fsc_xml(folder / COPIES["fsc_xml"])
    root = ElementTree.parse(folder / COPIES["fsc_xml"]).getroot()
    lacking = [name for name in ("title", "xaxis", "yaxis") if not root.get(name)]
    if lacking:
        raise ValueError(f"the attribute {lacking[0]} is missing")
    if (np.diff(frequency) <= 0).any() or frequency[0] < 0:
        raise ValueError("frequencies do not rise")
    if not np.isfinite(fsc).all() or np.abs(fsc).max() > 1.0001:
        raise ValueError("a correlation lies outside of -1 to 1")
    header = read_mrc_header(folder / COPIES["map"])
    nyquist = 0.5 / header.voxel_size[2]
    if abs(frequency[-1] - nyquist) > 1.5 / (max(header.shape) * header.voxel_size[2]):
        raise ValueError(f"the curve ends at {frequency[-1]:.4f} 1/Å, the map at {nyquist:.4f}")
    meta = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
    resolution = float(meta["map"]["resolution"])
    at = float(np.interp(1 / resolution, frequency, fsc))
    ends_there = resolution < 1.05 / nyquist  # the pixel, not the FSC, sets the limit
    if abs(at - 0.143) > 0.15 and not (ends_there and at > 0.143):
        raise ValueError(f"the FSC is {at:.2f} at the stated resolution, expected about 0.143")


def _check_picture(path: Path) -> None:
    with Image.open(path) as picture:
        if picture.size != (IMAGE_SIDE, IMAGE_SIDE) or picture.format != "PNG":
            raise ValueError(f"{picture.format}, {picture.size[0]} x {picture.size[1]}; expected PNG, 500 x 500")
        if np.asarray(picture.convert("L")).std() < 2:
            raise ValueError("the picture is empty")


def _check_cif(folder: Path) -> None:
    found = read_mmcif(folder / "metadata.cif")
    for category, items in REQUIRED_CIF.items():
        if category not in found:
            raise ValueError(f"the category _{category} is missing")
        for item in items:
            if any(row.get(item) in (None, "", "?") for row in found[category]):
                raise ValueError(f"_{category}.{item} has no value")
    kinds = [row["type"] for row in found["em_map"]]
    if kinds.count("primary map") != 1 or kinds.count("half map") != 2:
        raise ValueError("_em_map lists no primary map with two half maps")
    for row in found["em_map"]:
        if not (folder / str(row["file"])).is_file():
            raise ValueError(f"_em_map names {row['file']}, which is missing")


def _check_json(path: Path) -> None:
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    lacking = [name for name in REQUIRED_JSON if not meta.get(name)]
    if lacking:
        raise ValueError(f"no {', '.join(lacking)}")


def _check_empiar(path: Path) -> None:
    sets = json.loads(path.read_text(encoding="utf-8"))["image_sets"]
    if not sets or not all(entry.get("files") for entry in sets):
        raise ValueError("no image set with files; the particles behind the map were not found")


def _check_checksums(folder: Path) -> None:
    listed = read_checksums(folder / CHECKSUMS)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != CHECKSUMS:
            if path.name not in listed:
                raise ValueError(f"{path.name} is not listed")
            if listed[path.name] != sha256_of(path):
                raise ValueError(f"{path.name} was changed after the bundle was made")
    gone = [name for name in listed if not (folder / name).exists()]
    if gone:
        raise ValueError(f"{gone[0]} is listed but missing")

"""The files of a deposition: copies of maps to the bit, a picture, the FSC, metadata, checksums."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cryoloom.deposit.metadata import cif_categories, empiar_sets, gather_metadata
from cryoloom.deposit.settings import DepositSettings
from cryoloom.deposit.sources import Sources
from cryoloom.io.atomic import write_whole
from cryoloom.io.map_file import read_map
from cryoloom.io.mmcif import write_mmcif
from cryoloom.maps.view import map_for_view
from cryoloom.project.files import write_json, write_text
from cryoloom.report.pictures import surface_pictures

IMAGE_SIDE = 500
PROTEIN_VOLUME = 1.21
"""Å3 per Da."""

COPIES = {
    "map": "emd_map.mrc",
    "half1": "emd_half_map_1.mrc",
    "half2": "emd_half_map_2.mrc",
    "mask": "emd_mask.mrc",
    "unsharpened": "emd_map_unsharpened.mrc",
    "fsc_xml": "emd_fsc.xml",
    "particles": "particles.star",
}
CHECKSUMS = "checksums.sha256"


def write_bundle(sources: Sources, settings: DepositSettings, folder: Path) -> dict[str, Any]:
    """Write all files of a deposition into a folder; returns its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in COPIES.items():
        if name in sources.files:
            copy_file(sources.files[name], folder / target)
    volume, mask = read_map(folder / COPIES["map"]), read_map(folder / COPIES["mask"])
    mass = settings.mass_kda or sources.summary.get("molecular_mass_estimate_kda") or 0.0
    contour = settings.contour
    if contour is None:
        contour = contour_level(volume.data * mask.data, 1000 * float(mass) * PROTEIN_VOLUME / volume.pixel_size**3)
    write_picture(volume.data, mask.data, volume.pixel_size, contour, folder / "emd_image.png")
    meta = gather_metadata(sources, settings, contour)
    meta["half_map_identity"] = {
        name: {"source": _inside(sources.files[name], sources), "sha256": sha256_of(sources.files[name])}
        for name in ("half1", "half2")
    }
    write_mmcif(folder / "metadata.cif", "cryoloom_deposition", cif_categories(meta, folder))
    write_json(folder / "metadata.json", meta)
    write_json(folder / "empiar.json", {"title": meta["title"], "image_sets": empiar_sets(sources)})
    write_checksums(folder)
    return meta


def copy_file(source: Path, target: Path) -> None:
    """Copy bytes; the target appears when it is complete."""
    with source.open("rb") as file, write_whole(target) as out:
        while block := file.read(1 << 20):
            out.write(block)


def contour_level(density: np.ndarray, n_voxels: float) -> float:
    """Level above which `n_voxels` of a map `(d, h, w)` lie."""
    n = int(np.clip(round(n_voxels), 1, density.size - 1))
    return float(np.partition(density.ravel(), -n)[-n])


def write_picture(volume: np.ndarray, mask: np.ndarray, pixel_size: float, level: float, path: Path) -> None:
    """Surface of a map `(d, h, w)` at a level as a PNG of 500 x 500 pixels on white."""
    data = map_for_view(volume, pixel_size, mask)
    shown = np.asarray(data["volume"], dtype=np.float32)
    scale = float(np.abs(volume * mask).max()) or 1.0  # `map_for_view` divides by the largest value
    picture = surface_pictures(shown, min(level / scale, 0.9 * float(shown.max())), size=IMAGE_SIDE, n_views=1)[0][1]
    colour, alpha = picture[..., :3].astype(np.float32), picture[..., 3:].astype(np.float32) / 255
    flat = np.rint(colour * alpha + 255 * (1 - alpha)).astype(np.uint8)
    with write_whole(path) as file:
        Image.fromarray(flat).save(file, format="PNG", optimize=True)


def sha256_of(path: Path) -> str:
    """Hash of all bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_checksums(folder: Path) -> None:
    """Write the hash of every file of a bundle, in the form that `sha256sum --check` reads."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != CHECKSUMS)
    write_text(folder / CHECKSUMS, "".join(f"{sha256_of(path)}  {path.name}\n" for path in files))


def read_checksums(path: Path) -> dict[str, str]:
    """Hash by file name."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = [line.split(None, 1) for line in lines if line.strip()]
    return {pair[1].strip().lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}


def _inside(path: Path, sources: Sources) -> str:
    root = sources.project.root
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)

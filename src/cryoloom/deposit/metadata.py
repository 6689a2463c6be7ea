"""Metadata of a deposition: a plain record (`metadata.json`), the same in the words of the PDBx dictionary (`em_`
categories of `metadata.cif`), and the image sets for EMPIAR.

Everything comes from what jobs recorded. What only a person knows (sample, authors, instruments) is taken from the
settings, and listed as open where it was not given.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import cryoloom
from cryoloom.contract import InputError
from cryoloom.data import ParticleSet
from cryoloom.deposit.settings import DepositSettings
from cryoloom.deposit.sources import Sources
from cryoloom.io.mmcif import Category
from cryoloom.io.mrc import read_mrc_header
from cryoloom.io.records import read_micrographs, read_particles

MAP_TYPES = {
    "emd_map.mrc": "primary map",
    "emd_half_map_1.mrc": "half map",
    "emd_half_map_2.mrc": "half map",
    "emd_mask.mrc": "mask",
    "emd_map_unsharpened.mrc": "additional map",
}
SOFTWARE_STEPS = {
    "motion": "OTHER",
    "ctf": "CTF CORRECTION",
    "pick": "PARTICLE SELECTION",
    "abinitio": "INITIAL EULER ASSIGNMENT",
    "class2d": "CLASSIFICATION",
    "class3d": "CLASSIFICATION",
    "refine": "FINAL EULER ASSIGNMENT",
    "reconstruct": "RECONSTRUCTION",
}
ASKED_OF_A_PERSON = ("sample", "organism", "authors", "microscope", "detector")


def gather_metadata(sources: Sources, settings: DepositSettings, contour: float) -> dict[str, Any]:
    """The plain record of a deposition."""
    summary = sources.summary
    particles = _particles(sources)
    resolution, symmetry = summary.get("resolution"), str(summary.get("symmetry", "C1"))
    meta: dict[str, Any] = {
        "title": settings.title or f"Single-particle map at {float(resolution or 0):.2f} Å, symmetry {symmetry}",
        "method": "SINGLE PARTICLE",
        "sample": settings.sample,
        "organism": settings.organism,
        "authors": [name.strip() for name in settings.authors.split(";") if name.strip()],
        "microscope": settings.microscope,
        "detector": settings.detector,
        "software": {"name": "cryoloom", "version": cryoloom.__version__},
        "steps": [stage for stage in sources.stages if stage in SOFTWARE_STEPS],
        "map": {
            "resolution": resolution,
            "resolution_interval": summary.get("resolution_interval"),
            "resolution_method": "FSC 0.143 CUT-OFF",
            "symmetry": symmetry,
            "pixel_size": summary.get("pixel_size"),
            "bfactor": summary.get("bfactor"),
            "contour": contour,
            "halves": "refined independently, unmasked, unfiltered",
        },
        "images": _image_facts(particles, sources),
        "project_job": str(sources.job.relative_to(sources.project.root)),
    }
    meta["open_for_the_form"] = [name for name in ASKED_OF_A_PERSON if not meta[name]]
    return meta


def cif_categories(meta: Mapping[str, Any], folder: Path) -> dict[str, Category]:
    """The record in `em_` categories of the PDBx dictionary; headers of the maps are read from the folder."""
    images, map_facts = meta["images"], meta["map"]
    entry = "new"
    software = [
        {
            "id": i,
            "category": SOFTWARE_STEPS[step],
            "name": "cryoloom",
            "version": meta["software"]["version"],
            "details": step,
            "image_processing_id": 1,
        }
        for i, step in enumerate(meta["steps"] or ["reconstruct"], 1)
    ]
    categories: dict[str, Category] = {
        "entry": {"id": entry},
        "em_experiment": {
            "entry_id": entry,
            "id": 1,
            "reconstruction_method": "SINGLE PARTICLE",
            "aggregation_state": "PARTICLE",
            "entity_assembly_id": 1,
        },
        "em_entity_assembly": {"id": 1, "name": meta["sample"], "type": "COMPLEX", "parent_id": 0},
        "em_imaging": {
            "entry_id": entry,
            "id": 1,
            "microscope_model": meta["microscope"],
            "accelerating_voltage": images.get("voltage_kv"),
            "nominal_cs": images.get("cs_mm"),
            "nominal_defocus_min": _nanometres(images.get("defocus_min")),
            "nominal_defocus_max": _nanometres(images.get("defocus_max")),
            "mode": "BRIGHT FIELD",
            "illumination_mode": "FLOOD BEAM",
        },
        "em_image_recording": {
            "id": 1,
            "imaging_id": 1,
            "film_or_detector_model": meta["detector"],
            "avg_electron_dose_per_image": images.get("dose"),
            "num_real_images": images.get("n_micrographs"),
        },
        "em_image_processing": {"id": 1, "image_recording_id": 1},
        "em_ctf_correction": {
            "id": 1,
            "em_image_processing_id": 1,
            "type": "PHASE FLIPPING AND AMPLITUDE CORRECTION",
        },
        "em_particle_selection": {
            "id": 1,
            "image_processing_id": 1,
            "num_particles_selected": images.get("n_picked") or images.get("n_particles"),
        },
        "em_3d_reconstruction": {
            "entry_id": entry,
            "id": 1,
            "image_processing_id": 1,
            "method": "FOURIER SPACE",
            "resolution": map_facts["resolution"],
            "resolution_method": map_facts["resolution_method"],
            "num_particles": images.get("n_particles"),
            "symmetry_type": "POINT",
            "refinement_type": "HALF-MAPS REFINED INDEPENDENTLY",
        },
        "em_single_particle_entity": {"id": 1, "image_processing_id": 1, "point_symmetry": map_facts["symmetry"]},
        "em_software": software,
        "em_map": [_map_row(i, folder / name, kind, meta) for i, (name, kind) in enumerate(_maps(folder), 1)],
    }
    if meta["authors"]:
        categories["em_author_list"] = [{"ordinal": i, "author": name} for i, name in enumerate(meta["authors"], 1)]
    return categories


def empiar_sets(sources: Sources) -> list[dict[str, Any]]:
    """Image sets of the project as EMPIAR lists them, paths relative to the project."""
    sets: list[dict[str, Any]] = []
    particles = _particles(sources)
    if sources.micrographs is not None:
        micrographs = read_micrographs(sources.micrographs, root=sources.project.root)
        sets.append(_image_set("aligned micrographs", "micrographs - single frame", list(micrographs.path), sources))
    if particles is not None:
        stacks = sorted(set(particles.image_path.tolist()))
        sets.append(_image_set("picked particles", "picked particles - single frame - processed", stacks, sources))
    return [entry for entry in sets if entry["files"]]


def _image_set(name: str, category: str, paths: list[str], sources: Sources) -> dict[str, Any]:
    root = sources.project.root
    files, first = [], None
    for path in map(Path, paths):
        if path.is_file():
            first = first or path
            files.append(str(path.relative_to(root)) if path.is_relative_to(root) else str(path))
    facts: dict[str, Any] = {"name": name, "category": category, "files": files, "n_files": len(files)}
    if first is not None and first.suffix.lower() in (".mrc", ".mrcs"):
        header = read_mrc_header(first)
        facts |= {
            "format": "MRCS" if first.suffix.lower() == ".mrcs" else "MRC",
            "voxel_type": str(header.dtype),
            "image_width": header.shape[2],
            "image_height": header.shape[1],
            "pixel_size": header.voxel_size[2],
        }
    return facts


def _image_facts(particles: ParticleSet | None, sources: Sources) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if particles is not None and len(particles):
        optics = particles.optics[int(particles.optics_index[0])]
        facts = {
            "n_particles": len(particles),
            "voltage_kv": optics.voltage_kv,
            "cs_mm": optics.cs_mm,
            "amplitude_contrast": optics.amplitude_contrast,
            "pixel_size": optics.pixel_size,
            "box": optics.box,
        }
        if particles.micrograph is not None:
            facts["n_micrographs"] = len(np.unique(particles.micrograph.astype(str)))
        if particles.defocus_u is not None and particles.defocus_v is not None:
            mean = 0.5 * (np.asarray(particles.defocus_u) + np.asarray(particles.defocus_v))
            facts |= {"defocus_min": float(np.nanmin(mean)), "defocus_max": float(np.nanmax(mean))}
    if "pick" in sources.stages:
        facts["n_picked"] = sources.stages["pick"][1].get("n_out")
    if sources.micrographs is not None:
        micrographs = read_micrographs(sources.micrographs, root=sources.project.root)
        facts["n_micrographs"] = len(micrographs)
        if micrographs.dose is not None and len(micrographs):
            facts["dose"] = float(np.nanmedian(micrographs.dose))
    return facts


def _particles(sources: Sources) -> ParticleSet | None:
    if "particles" not in sources.files:
        return None
    try:
        return read_particles(sources.files["particles"], root=sources.project.root)
    except InputError as error:
        raise InputError(f"{error} The deposition needs the particles of its map.") from error


def _maps(folder: Path) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind in MAP_TYPES.items() if (folder / name).exists()]


def _map_row(number: int, path: Path, kind: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    header = read_mrc_header(path)
    sections, rows, columns = header.shape
    low, high, mean, sigma = header.statistics
    axis = {1: "X", 2: "Y", 3: "Z"}
    spacing = header.voxel_size[::-1]
    cell = [n * s for n, s in zip((columns, rows, sections), spacing, strict=True)]
    return {
        "id": number,
        "type": kind,
        "file": path.name,
        "format": "CCP4",
        "size_kb": path.stat().st_size // 1024,
        "contour_level": meta["map"]["contour"] if kind == "primary map" else None,
        "contour_level_source": "AUTHOR" if kind == "primary map" else None,
        "dimensions_column": columns,
        "dimensions_row": rows,
        "dimensions_section": sections,
        "axis_order_fast": axis[header.axes[0]],
        "axis_order_medium": axis[header.axes[1]],
        "axis_order_slow": axis[header.axes[2]],
        **{f"cell_{name}": value for name, value in zip("abc", cell, strict=True)},
        **{f"pixel_spacing_{name}": float(value) for name, value in zip("xyz", spacing, strict=True)},
        "symmetry_space_group": header.space_group,
        "data_type": "IMAGE STORED AS FLOATING POINT NUMBER (4 BYTES)" if header.mode == 2 else str(header.dtype),
        "endian_type": "little" if header.byte_order == "<" else "big",
        "statistics_minimum": low,
        "statistics_maximum": high,
        "statistics_average": mean,
        "statistics_std": sigma,
    }


def _nanometres(length: float | None) -> float | None:
    return None if length is None else 0.1 * length

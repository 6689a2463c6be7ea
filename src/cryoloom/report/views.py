"""Views of results in other programs: a ChimeraX command file, a napari script and a `.bild` plot of directions.

All three name files relative to where they lie, so a folder that is moved keeps its views. ChimeraX runs a command file
in the folder of that file; the napari script needs napari and NumPy only.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import CryoloomError, Figure
from cryoloom.geometry import direction_grid
from cryoloom.io.mrc import map_mrc, read_mrc_header
from cryoloom.project.files import write_text
from cryoloom.report.surface import suggest_level

_MAIN = ("map_sharpened", "map_local", "map", "class001", "class001_map", "half1")
_COLOURS = ("#6f9fc8", "#d8b365", "#7fbf7b", "#af8dc3", "#f4a582", "#92c5de")
_ANGSTROM_MAPS = ("local_resolution", "local_significance")
_SAMPLE = 96


def write_views(folder: Path, maps: Mapping[str, Path], figures: Sequence[Figure] = ()) -> list[str]:
    """Write `view.cxc`, `view_napari.py` and, where there are poses, `directions.bild` into a folder.

    Parameters
    ----------
    folder
        Where the views go.
    maps
        Result name -> MRC file of a map; what is no map is left out.
    figures
        Of the job; one of the kind `orientations` gives the directions.

    Returns
    -------
    names
        Of the files that were written; none without a map.
    """
    shown = {name: facts for name, path in maps.items() if (facts := _map_facts(path)) is not None}
    if not shown:
        return []
    order = sorted(shown, key=lambda name: (_MAIN.index(name) if name in _MAIN else len(_MAIN), name))
    written = []
    poses = next((f for f in figures if f.kind == "orientations" and len(f.data.get("rotations", ())) > 0), None)
    if poses is not None:
        main = shown[order[0]]
        text = directions_bild(np.asarray(poses.data["rotations"]), main["centre"], 0.55 * main["width"])
        write_text(folder / "directions.bild", text)
        written.append("directions.bild")
    files = {name: os.path.relpath(maps[name], folder) for name in order}
    write_text(folder / "view.cxc", chimerax_commands(files, shown, with_directions=poses is not None))
    write_text(folder / "view_napari.py", napari_script(files))
    return [*written, "view.cxc", "view_napari.py"]


def chimerax_commands(
    files: Mapping[str, str], facts: Mapping[str, Mapping[str, Any]], *, with_directions: bool
) -> str:
    """Commands that open maps at a sensible level; the first one is shown, the others are there to be switched on."""
    lines = ["# Open this file in ChimeraX.", "set bgColor white", "lighting soft"]
    numbers = {name: i for i, name in enumerate(files, 1)}
    for name, number in numbers.items():
        lines.append(f'open "{files[name]}" name "{name}"')
        colour = _COLOURS[(number - 1) % len(_COLOURS)]
        if name == "mask":
            lines.append(f"volume #{number} level 0.5 style mesh color #9a9a9a80")
        else:
            lines.append(f"volume #{number} level {facts[name]['level']:.6g} step 1 color {colour}")
        if number > 1:
            lines.append(f"hide #{number} models")
    local = next((numbers[name] for name in _ANGSTROM_MAPS if name in numbers), None)
    main = next((number for name, number in numbers.items() if name not in (*_ANGSTROM_MAPS, "mask")), None)
    if local is not None and main is not None:
        names = list(files)
        low, high = _colour_range(facts[names[local - 1]], facts[names[main - 1]])
        palette = f"{low:.2f},blue:{(low + high) / 2:.2f},white:{high:.2f},red"
        lines += [f"show #{main} models", f"color sample #{main} map #{local} palette {palette}"]
    if with_directions:
        lines += ["open directions.bild", f"hide #{len(files) + 1} models"]
    return "\n".join([*lines, "view", ""])


def napari_script(files: Mapping[str, str]) -> str:
    """A script that opens maps as image layers with their voxel size as scale."""
    listed = ",\n".join(f"    ({name!r}, {path!r})" for name, path in files.items())
    return f'''"""Maps of this folder as layers of napari: python view_napari.py"""

from pathlib import Path

import napari
import numpy as np

FOLDER = Path(__file__).resolve().parent
LAYERS = [
{listed},
]


def read_map(path):
    """Voxels (z, y, x) of an MRC file of 32-bit floats, and the edge of a voxel in Angstrom."""
    header = np.fromfile(path, "<i4", 256)
    nx, ny, nz, mode = header[:4]
    if mode != 2:
        raise SystemExit(f"{{path}}: mode {{mode}}, 32-bit floats were expected")
    cell, grid, extended = header[10:13].view("<f4"), header[7:10], int(header[23])
    data = np.fromfile(path, "<f4", nx * ny * nz, offset=1024 + extended).reshape(nz, ny, nx)
    return data, tuple(float(c) / int(n) for c, n in zip(cell, grid))[::-1]


viewer = napari.Viewer(ndisplay=3)
for i, (name, file) in enumerate(LAYERS):
    data, voxel = read_map(FOLDER / file)
    limits = tuple(float(v) for v in np.quantile(data[::2, ::2, ::2], [0.5, 0.9995]))
    if limits[1] <= limits[0]:
        limits = (float(data.min()), float(data.max()) + 1e-6)
    viewer.add_image(data, name=name, scale=voxel, contrast_limits=limits, rendering="attenuated_mip", visible=i == 0)
viewer.axes.visible = True
napari.run()
'''


def directions_bild(rotations: np.ndarray, centre: Sequence[float], radius: float, n_side: int = 8) -> str:
    """A rod for each direction from which particles are seen; length and colour follow their number.

    Parameters
    ----------
    rotations
        Poses `(n, 3, 3)`; the third column is the viewing direction.
    centre
        Of the map in Å, xyz.
    radius
        Where the rods begin, Å.
    n_side
        Fineness of the grid of directions.
    """
    grid = direction_grid(n_side).numpy()
    directions = np.asarray(rotations, dtype=np.float64)[:, :, 2]
    directions = directions[np.isfinite(directions).all(1)]
    nearest = np.concatenate(
        [(part @ grid.T).argmax(1) for part in np.array_split(directions, max(1, len(directions) // 20_000))]
    )
    counts = np.bincount(nearest, minlength=len(grid))
    mean = max(counts.mean(), 1e-9)
    width = 0.35 * radius * math.sqrt(4 * math.pi / len(grid))
    lines = [".comment Directions from which the particles are seen"]
    for vector, count in zip(grid, counts, strict=True):
        if count == 0:
            continue
        height = radius * (1 + 0.25 * min(count / mean, 4.0))
        red = min(count / mean / 3, 1.0)
        low, high = (np.asarray(centre) + length * vector for length in (radius, height))
        lines.append(f".color {red:.3f} 0.2 {1 - red:.3f}")
        ends = " ".join(f"{value:.3f}" for value in (*low, *high))
        lines.append(f".cylinder {ends} {width:.3f}")
    return "\n".join(lines) + "\n"


def _colour_range(local: Mapping[str, Any], main: Mapping[str, Any]) -> tuple[float, float]:
    """From which to which Å a surface is coloured: what lies within it, not in the solvent, where values are coarse."""
    values, body = local["sample"], main["sample"]
    if values.shape == body.shape and (body > main["level"]).any():
        values = values[body > main["level"]]
    low, high = (float(v) for v in np.quantile(values, [0.02, 0.98]))
    return low, max(high, 1.02 * low)


def _map_facts(path: Path) -> dict[str, Any] | None:
    """Level, centre, width and some voxels of a map; None for files that are none (stacks of images, damaged files)."""
    try:
        header = read_mrc_header(path)
        if path.suffix != ".mrc" or header.shape[0] == 1 or header.space_group != 1 or header.mode != 2:
            return None
        array, _ = map_mrc(path)
    except (CryoloomError, OSError, ValueError):
        return None
    step = max(1, math.ceil(max(header.shape) / _SAMPLE))
    sample = np.array(array[::step, ::step, ::step], dtype=np.float32)
    sizes = np.array(header.shape[::-1]) * np.array(header.voxel_size[::-1])
    level = suggest_level(sample) if len(set(sample.shape)) == 1 else float(sample.mean() + 3 * sample.std())
    return {
        "level": level,
        "sample": sample,
        "centre": np.array(header.origin) + 0.5 * sizes,
        "width": float(sizes.min()),
    }

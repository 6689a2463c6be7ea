"""Inputs of a stage from files to records, and its results from records to files.

What a file becomes is decided by the kind that the stage declares; how a record is written, by its type.
"""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import Input, InputError, Settings
from cryoloom.data import FscCurve, MicrographSet, MovieSet, Optics, ParticleSet, PickSet, VolumeMap
from cryoloom.io import map_file, records

_READERS = {
    "movies": records.read_movies,
    "micrographs": records.read_micrographs,
    "picks": records.read_picks,
    "particles": records.read_particles,
}
_RECORD_TYPES = (MovieSet, MicrographSet, PickSet, ParticleSet, VolumeMap, FscCurve)
_SINGLE_PATHS = ("model", "file", "folder")


def input_paths(value: Any) -> list[Path]:
    """The files that an input names: one path, several, or glob patterns; none for records.

    Raises
    ------
    InputError
        If a path does not exist or a pattern matches nothing.
    """
    if value is None or isinstance(value, _RECORD_TYPES):
        return []
    if isinstance(value, str | Path):
        value = [value]
    found: list[Path] = []
    for entry in value:
        if isinstance(entry, _RECORD_TYPES):
            continue
        text = str(entry)
        path = Path(text).expanduser()
        if path.exists():
            found.append(path.resolve())
            continue
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - the pattern may be absolute
        if not matches:
            what = "no file matches it" if glob.has_magic(text) else "it does not exist"
            raise InputError(f"{text}: {what} (looked from {Path.cwd()}); check the spelling and the folder.")
        found.extend(Path(match).resolve() for match in matches)
    return found


def load_input(declared: Input, value: Any, settings: Settings, root: Path | None) -> Any:
    """What the stage function gets for one input.

    Parameters
    ----------
    declared
        The declaration of the input.
    value
        A record, a path, a pattern, or a list of paths.
    settings
        Settings of the stage; their optics fields describe bare image files.
    root
        Project folder that relative paths in STAR files start from.
    """
    if value is None or (isinstance(value, list | tuple) and not value):
        if declared.required:
            raise InputError(f"--{declared.name.replace('_', '-')} is missing: {declared.help}")
        return None
    if isinstance(value, _RECORD_TYPES):
        return value
    paths = input_paths(value)
    if declared.kind == "files":
        return tuple(paths)
    if declared.kind == "maps":
        records_given = [v for v in value if isinstance(v, VolumeMap)] if isinstance(value, list | tuple) else []
        return (*records_given, *(map_file.read_map(path) for path in paths))
    if declared.kind in ("movies", "micrographs") and paths[0].suffix.lower() != ".star":
        return _bare_images(declared.kind, paths, settings)
    if len(paths) != 1:
        raise InputError(f"--{declared.name.replace('_', '-')}: expected one file, got {len(paths)}.")
    if declared.kind in _SINGLE_PATHS or declared.kind == "any":
        return paths[0]
    if declared.kind == "map":
        return map_file.read_map(paths[0])
    return _READERS[declared.kind](paths[0], root=root)


def _bare_images(kind: str, paths: Sequence[Path], settings: Settings) -> MovieSet | MicrographSet:
    """A set made of image files and the optics that the settings give."""
    given = settings.model_dump()
    optics_fields = ("pixel_size", "voltage_kv", "cs_mm", "amplitude_contrast")
    optics = Optics(**{name: given[name] for name in optics_fields if given.get(name) is not None})
    if given.get("pixel_size") is None:
        raise InputError(
            f"{paths[0].name}: the pixel size of bare image files must be given; add --pixel-size (Å per pixel), "
            "or run `cryoloom import` first."
        )
    common: dict[str, Any] = {
        "path": np.asarray([str(path) for path in paths]),
        "optics": (optics,),
        "optics_index": np.zeros(len(paths), dtype=np.int64),
    }
    if kind == "micrographs":
        return MicrographSet(**common)
    dose = given.get("dose_per_frame")
    return MovieSet(**common, dose_per_frame=None if dose is None else np.full(len(paths), float(dose)))


def store_result(name: str, record: Any, folder: Path, root: Path | None) -> Path | None:
    """Write one result of a stage under its name; returns the file, or None for records without one.

    Raises
    ------
    TypeError
        If the record has no file format.
    """
    if record is None:
        return None
    if isinstance(record, VolumeMap):
        path = folder / f"{name}.mrc"
        map_file.write_map(record, path)
        return path
    path = folder / f"{name}.star"
    if isinstance(record, FscCurve):
        records.write_fsc(record, path)
    elif isinstance(record, MovieSet):
        records.write_movies(record, path, root=root)
    elif isinstance(record, MicrographSet):
        records.write_micrographs(record, path, root=root)
    elif isinstance(record, PickSet):
        records.write_picks(record, path, root=root)
    elif isinstance(record, ParticleSet):
        records.write_particles(record, path, root=root)
    else:
        raise TypeError(f"{name}: no file format for {type(record).__name__}")
    return path

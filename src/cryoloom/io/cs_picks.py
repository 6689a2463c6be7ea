"""Picks of cryoSPARC (`picked_particles.cs`): places without images, to and from `PickSet`.

A place is a fraction of the micrograph's width, and of its height counted from the last row, as for particles; the
fields are those that blob, template and manual pickers of cryoSPARC write.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import PickSet
from cryoloom.io.atomic import write_whole
from cryoloom.io.cs import read_cs_table, read_location
from cryoloom.io.cs_writer import as_table, micrograph_shapes, storable
from cryoloom.io.paths import PathFinder


def read_cs_picks(path: Path | str, *, root: Path | str | None = None) -> PickSet:
    """Read the places of picks, or of particles, from a `.cs` file.

    Parameters
    ----------
    path
        The file; a passthrough file beside it may hold the places (see `read_cs_table`).
    root
        cryoSPARC project folder, which paths in the file start from.

    Raises
    ------
    InputError
        If the table does not say where its rows lie, and on which micrograph.
    """
    table = read_cs_table(path)
    names = set(table.dtype.names or ())
    fields: dict[str, Any] = {}
    read_location(table, names, fields, PathFinder(path, root))
    if "position_px" not in fields or "micrograph" not in fields:
        raise InputError(
            f"{path}: no location/micrograph_path, location/center_x_frac, location/center_y_frac and "
            "location/micrograph_shape; these are no picks, or a passthrough file is missing."
        )
    if "pick_stats/angle_rad" in names:
        fields["psi"] = -table["pick_stats/angle_rad"].astype(np.float64)
    if "pick_stats/template_idx" in names:
        fields["class_number"] = table["pick_stats/template_idx"].astype(np.int64) + 1
    score = fields.pop("pick_score", None)
    searched = tuple(dict.fromkeys(str(name) for name in fields["micrograph"]))
    return PickSet(**fields, score=score, micrographs=searched)


def write_cs_picks(picks: PickSet, path: Path | str) -> None:
    """Write picks as cryoSPARC does; their micrographs must be there, since their sizes are needed.

    Raises
    ------
    InputError
        If a micrograph cannot be read.
    """
    shape = micrograph_shapes(np.asarray(picks.micrograph, dtype=object))
    if shape is None:
        raise InputError(
            "The micrographs of these picks are not found, and cryoSPARC gives places as fractions of their size; "
            "give --micrographs."
        )
    position = np.asarray(picks.position_px, dtype=np.float64).reshape(-1, 2)
    names = [str(name) for name in picks.micrograph]
    columns: dict[str, np.ndarray] = {
        "uid": np.asarray([_uid(f"{i}@{name}") for i, name in enumerate(names)], "<u8"),
        "location/micrograph_uid": np.asarray([_uid(name) for name in names], "<u8"),
        "location/exp_group_id": np.ones(len(names), "<u4"),
        "location/micrograph_path": storable(np.asarray(names, dtype=object)),
        "location/micrograph_shape": shape.astype("<u4"),
        "location/center_x_frac": (position[:, 1] / shape[:, 1]).astype("<f4"),
        "location/center_y_frac": (1.0 - position[:, 0] / shape[:, 0]).astype("<f4"),
    }
    if picks.score is not None:
        columns["pick_stats/ncc_score"] = np.asarray(picks.score).astype("<f4")
    if picks.psi is not None:
        columns["pick_stats/angle_rad"] = (-np.asarray(picks.psi)).astype("<f4")
    if picks.class_number is not None and int(np.min(picks.class_number, initial=1)) >= 1:
        columns["pick_stats/template_idx"] = (np.asarray(picks.class_number) - 1).astype("<u4")
    with write_whole(path) as file:
        np.save(file, as_table(columns))


def _uid(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

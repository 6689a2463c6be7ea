"""What a table lists: movies, micrographs or particles, by the columns that it has."""

from pathlib import Path

from cryoloom.contract import InputError
from cryoloom.io.cs import is_cs, read_cs_table
from cryoloom.io.star import iter_tables, read_star

_KEYS = (
    ("particles", "rlnImageName"),
    ("micrographs", "rlnMicrographName"),
    ("movies", "rlnMicrographMovieName"),
)


def guess_table_kind(path: Path) -> str:
    """`particles`, `micrographs` or `movies`, from the columns of a STAR file or a cryoSPARC table.

    Raises
    ------
    InputError
        If the file lists none of them.
    """
    if is_cs(path):
        names = set(read_cs_table(path).dtype.names or ())
        if "blob/path" in names:
            return "particles"
        return "micrographs" if any(name.startswith("micrograph_blob") for name in names) else "movies"
    labels = {label for _, block in iter_tables(read_star(path)) for label in block.labels}
    for kind, label in _KEYS:
        if label in labels:
            return kind
    raise InputError(f"{path}: none of _rlnImageName, _rlnMicrographName and _rlnMicrographMovieName is in it.")

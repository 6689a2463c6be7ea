"""Categories of an mmCIF file (PDBx dictionary), as mappings of items to values."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gemmi

from cryoloom.contract import InputError
from cryoloom.io.atomic import write_whole

Category = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def write_mmcif(path: Path | str, name: str, categories: Mapping[str, Category]) -> None:
    """Write one data block.

    Parameters
    ----------
    path
        The file; it appears when it is complete.
    name
        Name of the block.
    categories
        By category without underscore: one row as a mapping, or several as a list of mappings with equal keys. None
        and the empty text become `?`.
    """
    document = gemmi.cif.Document()
    block = document.add_new_block(name)
    for category, content in categories.items():
        rows = [content] if isinstance(content, Mapping) else list(content)
        if not rows:
            continue
        keys = list(dict.fromkeys(key for row in rows for key in row))
        if len(rows) == 1:
            for key in keys:
                block.set_pair(f"_{category}.{key}", _value(rows[0].get(key)))
        else:
            loop = block.init_loop(f"_{category}.", keys)
            for row in rows:
                loop.add_row([_value(row.get(key)) for key in keys])
    with write_whole(path) as file:
        file.write(document.as_string().encode())


def read_mmcif(path: Path | str) -> dict[str, list[dict[str, str | None]]]:
    """Rows of each category of the first block; unknown values are None.

    Raises
    ------
    InputError
        If the file is no CIF file.
    """
    try:
        document = gemmi.cif.read(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: no mmCIF file ({str(error)[:120]}).") from error
    if not len(document):
        raise InputError(f"{path}: an mmCIF file without a data block.")
    block = document[0]
    found: dict[str, list[dict[str, str | None]]] = {}
    for prefix in block.get_mmcif_category_names():
        columns = block.get_mmcif_category(prefix)
        n = len(next(iter(columns.values()), []))
        found[prefix.strip("_.")] = [
            {key: None if values[i] in (None, False) else str(values[i]) for key, values in columns.items()}
            for i in range(n)
        ]
    return found


def _value(value: Any) -> str:
    if value is None or value == "":
        return "?"
    if isinstance(value, bool):
        return "YES" if value else "NO"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(gemmi.cif.quote(str(value)))

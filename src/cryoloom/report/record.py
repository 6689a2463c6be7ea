"""The same as a page says, for programs: `report.json` beside `report.html`, with stable keys."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cryoloom
from cryoloom.project.files import write_json

SCHEMA = 1


def write_record(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write `report.json`; `content` is added to schema and version."""
    path = folder / "report.json"
    write_json(path, {"schema": SCHEMA, "version": cryoloom.__version__, **content})
    return path


def cards_of(cards: Sequence[tuple[str, str, str, str]]) -> list[dict[str, str]]:
    """Key figures as a page shows them."""
    return [dict(zip(("label", "value", "unit", "note"), card, strict=True)) for card in cards]

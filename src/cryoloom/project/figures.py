"""Figure data in a job folder: `figures/<name>.npz` for arrays, `figures/<name>.json` for the rest."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import Figure
from cryoloom.project.files import read_json, write_json


def save_figure(figure: Figure, folder: Path) -> None:
    """Store a figure in `folder / "figures"`."""
    target = folder / "figures"
    target.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    layout = _take_apart(figure.data, "", arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    beside = target / f".{figure.name}.{os.getpid()}.part"
    beside.write_bytes(buffer.getvalue())
    beside.replace(target / f"{figure.name}.npz")
    text = {
        "kind": figure.kind,
        "title": figure.title,
        "caption": figure.caption,
        "x_label": figure.x_label,
        "y_label": figure.y_label,
        "data": layout,
    }
    write_json(target / f"{figure.name}.json", text)


def load_figures(folder: Path) -> list[Figure]:
    """All figures of a job folder, in the order of their names."""
    return [load_figure(path) for path in sorted((folder / "figures").glob("*.json"))]


def load_figure(path: Path) -> Figure:
    """One figure, from its JSON file."""
    text = read_json(path)
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        data = _put_together(text.pop("data"), dict(arrays))
    return Figure(name=path.stem, data=data, **text)


def _take_apart(value: Any, key: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, Mapping):
        return {"mapping": [[str(k), _take_apart(v, f"{key}/{i}", arrays)] for i, (k, v) in enumerate(value.items())]}
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        key = key.strip("/").replace("/", "_") or "data"
        stored = value.astype(np.float32) if value.dtype == np.float64 and value.size > 4096 else value
        arrays[key] = stored.astype(str) if stored.dtype == object else stored
        return {"array": key}
    return {"value": value}


def _put_together(layout: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if "mapping" in layout:
        return {key: _put_together(item, arrays) for key, item in layout["mapping"]}
    if "array" in layout:
        return arrays[layout["array"]]
    return layout["value"]

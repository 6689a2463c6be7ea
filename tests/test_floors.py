"""Imports go downwards in the plan of the house, never sideways between stages."""

import ast
from pathlib import Path

import cryoloom

ROOT = Path(cryoloom.__file__).parent

STAGES = set(
    """simulate importing converting motion ctf_fit picking extraction class2d abinitio refine reconstruct class3d
    heterogeneity polish resolution validation restoration postprocess segmentation modelling scoring
    validate_install subtraction particle_tools volume_tools acquisition""".split()
)
FLOOR = (
    dict.fromkeys(["contract"], 0)
    | dict.fromkeys(["fourier", "geometry", "optics", "maps"], 1)
    | dict.fromkeys(["data", "io"], 2)
    | dict.fromkeys(["em"], 3)
    | dict.fromkeys(STAGES, 4)
    | dict.fromkeys(["project", "compute"], 5)
    | dict.fromkeys(["pipeline", "report", "deposit", "rerun", "compare"], 6)
    | dict.fromkeys(["cli", "web"], 7)
)
# Orders within a floor: a room may import those before it.
ORDERS = (
    ["fourier", "geometry", "optics", "maps"],
    ["data", "io"],
    ["compute", "project"],
    ["report", "pipeline"],
    ["report", "deposit"],
)
# A check of the installation runs the whole pipeline and scores it, so it is a recipe that has the face of a stage.
RECIPES_WITH_A_FACE = {("validate_install", other) for other in ("pipeline", "project", "scoring")}


def imports_of(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "cryoloom" else [f"cryoloom.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("cryoloom.")}
    return {room for room in rooms if room in FLOOR}


def is_allowed(room: str, other: str) -> bool:
    if room == other or (room, other) in RECIPES_WITH_A_FACE:
        return True
    if FLOOR[room] != FLOOR[other]:
        return FLOOR[room] > FLOOR[other]
    return any(room in order and other in order and order.index(other) < order.index(room) for order in ORDERS)


def test_every_room_has_a_floor():
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and (path / "__init__.py").exists()}
    assert rooms <= set(FLOOR)


def test_imports_only_go_downwards():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if len(parts) == 1:
            continue
        wrong += [
            f"{path.relative_to(ROOT)} imports {other}" for other in imports_of(path) if not is_allowed(parts[0], other)
        ]
    assert wrong == []


def test_settings_import_neither_torch_nor_numpy():
    for path in sorted(ROOT.glob("*/settings.py")):
        text = path.read_text(encoding="utf-8")
        assert "import torch" not in text and "import numpy" not in text, path


def test_only_the_io_room_knows_relion_labels():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0]
        if room in ("io", "converting"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node.value.lstrip("_").startswith("rln")
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value}")
    assert wrong == []

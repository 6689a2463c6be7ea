"""The descriptions of simulated projects (PLT-3) are valid and cover what they should."""

import tomllib
from pathlib import Path

import pytest

from cryoloom.pipeline.settings import RunSettings
from cryoloom.simulate.settings import SimulateMoviesSettings
from cryoloom.simulate.stage import model_atoms

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "projects"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def described(name):
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def test_there_are_twenty_projects_of_six_shapes():
    projects = [described(name) for name in NAMES]
    assert len(projects) >= 20
    assert len({p["simulate"]["phantom"] for p in projects}) == 6
    assert len({p["run"]["symmetry"] for p in projects}) >= 8
    assert any(p["expect"]["verdict"] == "not found" for p in projects)


@pytest.mark.parametrize("name", NAMES)
def test_descriptions_are_settings_of_the_stages(name):
    project = described(name)
    settings = SimulateMoviesSettings(**project["simulate"])
    RunSettings(**project["run"])
    assert (settings.symmetry or "C1") == project["run"]["symmetry"]
    atoms, symmetry = model_atoms(None, settings.phantom, settings.symmetry, settings.mass, settings.variant)
    assert symmetry == project["run"]["symmetry"]
    assert atoms.diameter / settings.pixel_size < 0.4 * min(settings.width, settings.height)

"""The package as it is built: one small wheel of pure Python with permissive dependencies and no weights."""

import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
MAX_WHEEL_BYTES = 50 * 2**20
COMPILED = {".so", ".pyd", ".dylib", ".dll", ".a", ".o", ".c", ".cc", ".cpp", ".cu", ".pyx", ".f90"}
WEIGHTS = {".pt", ".pth", ".ckpt", ".onnx", ".safetensors", ".h5", ".hdf5", ".npz", ".npy", ".pkl", ".joblib"}
# What the metadata of a permissive licence says; neither the MPL nor the GPL is among them.
PERMISSIVE = re.compile(r"\b(BSD|MIT|Apache|PSF|Python Software Foundation|ISC|HPND|Zlib|matplotlib)\b", re.IGNORECASE)
# gemmi is under MPL-2.0: changes to its own files must be published; it asks nothing of a program that uses it.
WEAK_COPYLEFT = {"gemmi"}


def project():
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def dependency_names():
    return [re.match(r"[A-Za-z0-9_.-]+", text).group() for text in project()["dependencies"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    # a PATH without a compiler: nothing may ask for one
    done = subprocess.run(
        [*command, "-w", str(folder), str(source)],
        capture_output=True, text=True, env={"PATH": str(folder), "HOME": str(folder), "CC": "/nowhere/cc"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.capability("PLT-4")
def test_the_wheel_is_small_and_pure_and_holds_no_weights(wheel, measure):
    note = f"wheel, built with Python {platform.python_version()} and no compiler"
    measure(round(wheel.stat().st_size / 2**20, 2), unit="MB", threshold="< 50", note=note)
    assert wheel.stat().st_size < MAX_WHEEL_BYTES
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        tags = archive.read(next(n for n in names if n.endswith(".dist-info/WHEEL"))).decode()
    assert "Root-Is-Purelib: true" in tags
    suffixes = {Path(name).suffix.lower() for name in names}
    assert not suffixes & (COMPILED | WEIGHTS), suffixes & (COMPILED | WEIGHTS)


def test_everything_that_the_package_reads_is_in_the_wheel(wheel):
    source = REPOSITORY / "src"
    wanted = {
        str(path.relative_to(source))
        for path in (source / "cryoloom").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    with zipfile.ZipFile(wheel) as archive:
        assert wanted <= set(archive.namelist())


def test_the_wheel_carries_its_licence_and_its_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = archive.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
        entry = archive.read(next(n for n in names if n.endswith("entry_points.txt"))).decode()
    assert "License-Expression: BSD-3-Clause" in about
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "cryoloom = cryoloom.cli.main:main" in entry


@pytest.mark.parametrize("name", dependency_names())
def test_dependencies_have_permissive_licences(name):
    about = metadata.metadata(name)
    words = [about.get("License-Expression") or "", (about.get("License") or "")[:200]]
    words += [c for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
    text = " | ".join(words)
    if name in WEAK_COPYLEFT:
        assert "MPL" in text or "Mozilla" in text, text
        return
    assert PERMISSIVE.search(text), text
    assert not re.search(r"(?<!L)\bGPL|General Public License", text), text


def test_dependencies_come_as_wheels_or_pure_python():
    """Each dependency as installed here was built elsewhere: its wheel says so."""
    for name in dependency_names():
        tags = metadata.distribution(name).read_text("WHEEL")
        assert tags and "Tag:" in tags, name

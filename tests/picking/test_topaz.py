"""The adapter to Topaz, with a program in its place that takes the same options and writes the same files."""

import sys

import numpy as np
import picking_bed
import pytest

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_picks
from cryoloom.project.runner import run_stage

# scores are the local darkness, saved as `topaz segment` does: a TIFF whose first row is the first of the image
PROGRAM = """#!{python}
import sys
from pathlib import Path
import numpy as np, tifffile
from scipy.ndimage import gaussian_filter
arguments = sys.argv[1:]
assert arguments[:4] == ["segment", "-d", "-1", "-o"], arguments
out = Path(arguments[4])
out.mkdir()
for path in arguments[5:]:
    data = Path(path).read_bytes()
    nx, ny = np.frombuffer(data, "<i4", 2)
    image = np.frombuffer(data, "<f4", nx * ny, 1024).reshape(ny, nx)
    tifffile.imwrite(out / (Path(path).stem + ".tiff"), -gaussian_filter(image, 4).astype("f4"))
"""


@pytest.fixture
def micrographs(tmp_path):
    beads = picking_bed.bead_cloud(300, (0.9, 1.0, 1.3), 5)
    truth = picking_bed.simulate(beads, shape=(800, 900), n_particles=30, snr=0.1, seed=1)
    write_mrc(tmp_path / "m.mrc", truth.image, 1.5)
    optics = (Optics(pixel_size=1.5),)
    return MicrographSet(
        path=np.asarray([str(tmp_path / "m.mrc")]), optics=optics, optics_index=np.zeros(1, int)
    ), truth


def install(tmp_path, monkeypatch, text):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "topaz").write_text(text)
    (folder / "topaz").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_scores_of_topaz_become_picks_at_their_places(tmp_path, monkeypatch, micrographs):
    install(tmp_path, monkeypatch, PROGRAM.format(python=sys.executable))
    record, truth = micrographs
    settings = {"topaz": True, "diameter": truth.diameter, "contrast": "dark", "exclude": False}
    job = run_stage("pick", {"micrographs": record}, settings, out=tmp_path / "job", threads=1)
    recall, precision = picking_bed.pooled_score(read_picks(job["picks"]), record, [truth])
    assert recall > 0.8 and precision > 0.8


def test_without_the_program_it_is_said_what_to_install(tmp_path, monkeypatch, micrographs):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="install topaz-em"):
        run_stage("pick", {"micrographs": micrographs[0]}, {"topaz": True}, out=tmp_path / "job", threads=1)


def test_topaz_and_references_are_too_much(tmp_path, micrographs):
    write_mrc(tmp_path / "r.mrcs", np.zeros((2, 32, 32), np.float32), 3.0)
    inputs = {"micrographs": micrographs[0], "references": tmp_path / "r.mrcs"}
    with pytest.raises(InputError, match="two things to look for"):
        run_stage("pick", inputs, {"topaz": True}, out=tmp_path / "job", threads=1)

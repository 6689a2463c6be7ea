"""Filaments: oriented templates, traces, segments and the columns that RELION reads."""

import math

import filament_bed
import numpy as np
import pytest
import torch

from cryoloom.data import MicrographSet, Optics
from cryoloom.fourier import frequency_grid, irfftn
from cryoloom.geometry import euler_to_matrix
from cryoloom.io.filaments import segment_columns
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_picks
from cryoloom.io.star import read_star
from cryoloom.picking.filaments.oriented import tube_transform
from cryoloom.picking.filaments.segments import cut_filaments
from cryoloom.picking.filaments.settings import TraceFilamentsSettings
from cryoloom.picking.filaments.stage import trace_micrograph
from cryoloom.picking.filaments.trace import Filament, certain_score
from cryoloom.picking.matched import Transfer
from cryoloom.project.runner import run_stage

DIAMETERS = (70.0, 100.0, 160.0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def micrograph_of(seed, diameter, carbon):
    """Five filaments on a field of about fifteen diameters."""
    side = int(10.24 * diameter) // 8 * 8
    return filament_bed.filament_micrograph(seed, diameter=diameter, n=5, shape=(side, side), carbon=carbon)


def test_a_tube_is_long_along_its_direction_and_as_wide_as_its_diameter():
    frequency = frequency_grid((128, 128), 4.0)
    image = irfftn(tube_transform(frequency, 80.0, math.radians(90)).to(torch.complex64), (128, 128))
    image = torch.fft.fftshift(image)
    y, x = (torch.arange(128) - 64).double(), (torch.arange(128) - 64).double()
    weight = image.double() / image.double().sum()
    # second moments: D² / 16 across a projected solid cylinder, and D² along (the Gaussian)
    assert float((weight.sum(0) * (4 * x) ** 2).sum()) == pytest.approx(80.0**2 / 16, rel=0.05)
    assert float((weight.sum(1) * (4 * y) ** 2).sum()) == pytest.approx(80.0**2, rel=0.05)


def test_segments_lie_at_equal_steps_and_point_along_the_curve():
    angle = np.linspace(0, np.pi / 2, 200)
    arc = Filament(np.stack([100 * np.sin(angle), 100 * np.cos(angle)], -1), 5.0)
    cut = cut_filaments([arc, arc], 2.0, 30.0)
    first = cut.filament == 1
    assert first.sum() == int((100 * np.pi / 2 * 2.0 - 15) // 30) + 1 and (cut.filament == 2).sum() == first.sum()
    np.testing.assert_allclose(np.linalg.norm(cut.position_px, axis=1), 100, atol=0.05)
    np.testing.assert_allclose(np.diff(cut.along[first]), 30.0)
    place = np.arctan2(cut.position_px[first, 0], cut.position_px[first, 1])
    np.testing.assert_allclose(np.cos(cut.direction[first] - (place + np.pi / 2)), 1.0, atol=1e-3)


def test_the_prior_turns_the_helical_axis_into_the_image_along_the_filament():
    """The axis z of the reference, seen in the image frame of a pose with the priors, lies along the filament."""
    direction = np.array([0.3, 1.2, -2.0])
    columns = segment_columns(np.ones(3, int), direction, np.zeros(3))
    psi = np.deg2rad(columns["rlnAnglePsiPrior"])
    tilt = np.deg2rad(columns["rlnAngleTiltPrior"])
    rotation = euler_to_matrix(torch.from_numpy(np.stack([np.zeros(3), tilt, psi], -1))).numpy()
    axis = np.swapaxes(rotation, 1, 2) @ np.array([0.0, 0.0, 1.0])  # xyz
    np.testing.assert_allclose(axis[:, 2], 0, atol=1e-9)
    cross = axis[:, 0] * np.sin(direction) - axis[:, 1] * np.cos(direction)
    np.testing.assert_allclose(cross, 0, atol=1e-9)


def test_noise_seldom_reaches_what_is_called_certain():
    score = torch.randn(40, 300, 300, generator=torch.Generator().manual_seed(0))
    assert float(score.max()) < certain_score((40, 300, 300), 0.01)
    assert (score > certain_score((40, 300, 300), 100.0)).sum() == pytest.approx(100, rel=0.4)


def test_the_stage_writes_segments_for_relion(tmp_path):
    made = micrograph_of(3, 100.0, False)
    write_mrc(tmp_path / "m.mrc", made.image, filament_bed.PIXEL, kind="image")
    micrographs = MicrographSet(
        path=np.asarray([str(tmp_path / "m.mrc")]), optics=(Optics(pixel_size=filament_bed.PIXEL),),
        optics_index=np.zeros(1, int), defocus_u=np.full(1, made.defocus), defocus_v=np.full(1, made.defocus),
        defocus_angle=np.zeros(1),
    )  # fmt: skip
    job = run_stage("trace-filaments", {"micrographs": micrographs}, {"diameter": 100.0}, out=tmp_path / "j", threads=1)
    picks = read_picks(job["picks"])
    assert job.summary["verdict"] == "found" and len(picks) == job.summary["n_out"]
    distance = [min(np.linalg.norm(c - p, axis=1).min() for c in made.curves) for p in picks.position_px]
    assert np.median(distance) * filament_bed.PIXEL < 15
    table = read_star(job.folder / "coordinates" / "m.star")[""]
    labels = {"rlnHelicalTubeID", "rlnAngleTiltPrior", "rlnAnglePsiPrior", "rlnHelicalTrackLengthAngst"}
    assert labels <= set(table.labels)
    assert len(read_star(job.folder / "start_end" / "m.star")[""]) == 2 * job.summary["filaments"]


@pytest.mark.slow
@pytest.mark.capability("PIK-5")
@pytest.mark.parametrize("carbon", [False, True], ids=["ice", "carbon"])
def test_traced_filaments_cover_the_planted_ones(measure, carbon):
    """Bent and crossing tubes of three diameters, SNR 0.05 inside them; IoU of all micrographs together."""
    inside = together = 0
    notes = []
    for seed in range(100, 109):
        diameter = DIAMETERS[seed % 3]
        made = micrograph_of(seed, diameter, carbon)
        transfer = Transfer(made.defocus, made.defocus, 0.0, 0.0, 300.0, 2.7, 0.1)
        image = torch.from_numpy(made.image)
        found = trace_micrograph(image, filament_bed.PIXEL, transfer, diameter, TraceFilamentsSettings())
        a, u = filament_bed.areas([one.points for one in found], made)
        inside, together = inside + a, together + u
        notes.append(f"{diameter:g} Å {a / max(u, 1):.2f} ({len(found)} of {len(made.curves)})")
    value = inside / max(together, 1)
    where = "beside carbon" if carbon else "in ice"
    measure(round(value, 3), "IoU", ">= 0.8", note=f"{where}, 9 micrographs of 5 filaments: {', '.join(notes)}")
    assert value >= 0.8

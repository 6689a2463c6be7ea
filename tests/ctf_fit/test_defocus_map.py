"""Defocus of each place of a micrograph."""

import math

import numpy as np
import torch
from test_tilt import tilted_ice

from cryoloom.ctf_fit.defocus_map import map_defocus
from cryoloom.ctf_fit.estimate import estimate_image_ctf
from cryoloom.ctf_fit.model import Beam
from cryoloom.ctf_fit.search import SearchRange
from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import write_mrc
from cryoloom.io.star import read_star
from cryoloom.project.runner import run_stage

BEAM = Beam(300.0, 2.7, 0.1)


def test_a_level_micrograph_has_one_defocus_with_honest_errors(micrograph):
    image = micrograph(np.random.default_rng(2), (1200, 1200), 1.5, 15_000.0, 14_600.0, 0.7, envelope=60, ice=0.5)
    found = estimate_image_ctf(torch.from_numpy(image), 1.5, BEAM, SearchRange())
    places = map_defocus(found.fit, found.spectra)
    assert places.place_px.shape == (len(places.defocus), 2) and len(places.defocus) >= 9
    misses = np.sqrt(np.mean((places.defocus - 14_800) ** 2))
    assert misses < 100
    assert 0.4 < misses / np.sqrt(np.mean(places.error**2)) < 2


def test_a_slope_of_the_specimen_shows_in_the_map_up_to_its_edges(textbook):
    tilt, axis, pixel_size = math.radians(20), math.radians(20), 1.5
    image = tilted_ice(textbook, np.random.default_rng(0), 1400, pixel_size, 18_000.0, tilt, axis)
    found = estimate_image_ctf(torch.from_numpy(image), pixel_size, BEAM, SearchRange())
    places = map_defocus(found.fit, found.spectra)
    y, x = ((places.place_px - 0.5 * 1399) * pixel_size).T
    true = 18_000 + math.tan(tilt) * (math.cos(axis) * y - math.sin(axis) * x)
    assert np.ptp(true) > 300
    assert 0.85 < np.polyfit(true, places.defocus, 1)[0] < 1.15
    assert 0.4 < np.sqrt(np.mean((places.defocus - true) ** 2) / np.mean(places.error**2)) < 2


def test_the_stage_writes_the_map_where_it_is_asked_for(micrograph, tmp_path):
    image = micrograph(np.random.default_rng(3), (700, 800), 1.5, 15_000.0, 14_600.0, 0.7, envelope=60, ice=0.5)
    write_mrc(tmp_path / "m.mrc", image, 1.5, kind="image")
    record = MicrographSet(
        path=np.asarray([str(tmp_path / "m.mrc")]),
        optics=(Optics(pixel_size=1.5),),
        optics_index=np.zeros(1, np.int64),
    )
    done = run_stage("ctf", {"micrographs": record}, {"defocus_map": True}, out=tmp_path / "out")
    table = read_star(done.folder / "defocus_maps" / "m.star")["defocus_map"]
    assert table.numbers("rlnCoordinateX").max() < 800
    assert table.numbers("rlnCoordinateY").max() < 700
    assert np.abs(table.numbers("cryoloomDefocus") - 14_800).max() < 6 * table.numbers("cryoloomDefocusError").max()

"""Metadata of EPU and SerialEM, and optics groups from planted beam shifts."""

import json

import numpy as np
import pytest

from cryoloom.acquisition.groups import group_shifts
from cryoloom.contract import InputError
from cryoloom.data import MovieSet, Optics, ParticleSet
from cryoloom.io.acquisition import read_acquisition
from cryoloom.io.records import read_movies, read_particles, write_movies, write_particles
from cryoloom.project.runner import run_stage

EPU = """<?xml version="1.0" encoding="utf-8"?>
<MicroscopeImage xmlns="http://schemas.datacontract.org/2004/07/Fei.SharedObjects" \
xmlns:i="http://www.w3.org/2001/XMLSchema-instance">
<CustomData xmlns:a="http://schemas.microsoft.com/2003/10/Serialization/Arrays">
<a:KeyValueOfstringanyType><a:Key>Dose</a:Key><a:Value>4.52E+21</a:Value></a:KeyValueOfstringanyType>
<a:KeyValueOfstringanyType><a:Key>AppliedDefocus</a:Key><a:Value>-1.2E-06</a:Value></a:KeyValueOfstringanyType>
</CustomData>
<microscopeData><acquisition><acquisitionDateTime>2024-01-02T03:04:05</acquisitionDateTime></acquisition>
<gun><AccelerationVoltage>300000</AccelerationVoltage></gun>
<optics><BeamShift xmlns:a="http://schemas.datacontract.org/2004/07/Fei.Types"><a:_x>{x}</a:_x><a:_y>{y}</a:_y>
</BeamShift></optics></microscopeData>
<SpatialScale><pixelSize><x><numericValue>8.3E-11</numericValue></x></pixelSize></SpatialScale>
</MicroscopeImage>
"""
MDOC = """T = SerialEM: acquired
Voltage = 300

[FrameSet = 0]
PixelSpacing = 0.83
ExposureDose = 45.2
TargetDefocus = -1.2
ImageShift = {x} {y}
SubFramePath = X:\\frames\\{name}.tif
DateTime = 02-Jan-24  03:04:05
"""


def planted(rng, n_groups, n, jitter=0.05):
    """A square pattern with scatter, the step of the pattern being 1."""
    side = int(np.ceil(np.sqrt(n_groups)))
    places = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:n_groups].astype(float)
    places = places @ np.array([[0.9, 0.3], [-0.25, 0.95]])
    label = np.concatenate([np.arange(n_groups).repeat(2), rng.integers(0, n_groups, n - 2 * n_groups)])
    return places[label] + rng.normal(0, jitter, (n, 2)) * rng.uniform(0.3, 1), label


def same_partition(a, b):
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.capability("TOL-4")
def test_planted_groups_are_recovered(measure):
    rng = np.random.default_rng(0)
    right, total = 0, 0
    for n_groups in (1, 2, 4, 9, 25, 49, 81):
        for _ in range(10):
            shifts, label = planted(rng, n_groups, max(20, int(rng.integers(6, 20)) * n_groups))
            shifts = shifts * rng.uniform(1e-3, 50) + rng.normal(0, 5, 2)
            total += 1
            right += same_partition(group_shifts(shifts)[0], label)
    measure(right, unit="patterns", threshold=f"all of {total}", note="1 to 81 places, scatter up to 5 % of the step")
    assert right == total


@pytest.mark.capability("TOL-4")
@pytest.mark.parametrize("kind", ["epu", "mdoc"])
def test_movies_get_the_groups_of_their_metadata_and_what_is_missing_is_named(tmp_path, measure, kind):
    rng = np.random.default_rng(1)
    shifts, label = planted(rng, 9, 60)
    names = [f"FoilHole_{i:04d}_Data" for i in range(60)]
    (tmp_path / "meta").mkdir()
    for i, (name, (x, y)) in enumerate(zip(names, shifts, strict=True)):
        if i in (7, 30):
            continue  # lost
        suffix = ".xml" if kind == "epu" else ".tif.mdoc"
        text = (EPU if kind == "epu" else MDOC).format(x=x, y=y, name=name)
        if i == 12:
            text = text.replace("BeamShift", "Nothing").replace("ImageShift", "Nothing")
        (tmp_path / "meta" / (name + suffix)).write_text(text)
    movies = MovieSet(
        path=np.array([f"movies/{name}_Fractions.tif" for name in names], dtype=object),
        optics=(Optics(pixel_size=0.83),), optics_index=np.zeros(60, int), dose_per_frame=np.full(60, 1.1),
    )  # fmt: skip
    write_movies(movies, tmp_path / "movies.star")
    inputs = {"table": tmp_path / "movies.star", "metadata": [str(tmp_path / "meta" / "*")]}
    done = run_stage("optics-groups", inputs, {}, out=tmp_path / "out")
    grouped = read_movies(done.outputs["movies"])
    assert [p.rpartition("/")[2] for p in grouped.path] == [f"{name}_Fractions.tif" for name in names]
    good = np.array([i not in (7, 30, 12) for i in range(60)])
    assert same_partition(grouped.optics_index[good], label[good])
    unknown = {grouped.optics[i].name for i in grouped.optics_index[~good]}
    assert unknown == {"shiftUnknown"}
    summary = json.loads((done.folder / "summary.json").read_text())
    assert summary["without_metadata"] == [names[7] + "_Fractions", names[30] + "_Fractions"]
    assert summary["without_beam_shift"] == [names[12]] and summary["missing_items"] == {"beam_shift": 1}
    assert {entry["item"] for entry in summary["left_out"]} == {names[12], *summary["without_metadata"]}
    measure(summary["n_groups"], unit="groups", threshold="9", note=f"{kind}; 3 of 3 faults named")
    assert summary["n_groups"] == 9


def test_both_programs_say_the_same_in_our_units(tmp_path):
    (tmp_path / "a.xml").write_text(EPU.format(x=0.01, y=-0.02))
    (tmp_path / "b.mdoc").write_text(MDOC.format(x=0.01, y=-0.02, name="a"))
    for facts in (read_acquisition(tmp_path / "a.xml")[0], read_acquisition(tmp_path / "b.mdoc")[0]):
        assert facts.name == "a" and facts.beam_shift == (0.01, -0.02) and facts.voltage_kv == 300
        assert facts.pixel_size == pytest.approx(0.83) and facts.dose == pytest.approx(45.2)
        assert facts.defocus == pytest.approx(12000) and facts.missing == [] and facts.time.endswith("03:04:05")


def test_particles_follow_their_micrographs(tmp_path):
    shifts, label = planted(np.random.default_rng(2), 4, 20, 0.01)
    for i, (x, y) in enumerate(shifts):
        (tmp_path / f"m{i}.xml").write_text(EPU.format(x=x, y=y))
    row = np.repeat(np.arange(20), 3)
    particles = ParticleSet(
        image_path=np.full(60, "s.mrcs", dtype=object), image_index=np.arange(60),
        micrograph=np.array([f"M/m{i}.mrc" for i in row], dtype=object), half=1 + np.arange(60) % 2,
        optics=(Optics(),), optics_index=np.zeros(60, int),
    )  # fmt: skip
    write_particles(particles, tmp_path / "p.star")
    inputs = {"table": tmp_path / "p.star", "metadata": [str(tmp_path / "*.xml")]}
    done = run_stage("optics-groups", inputs, {"groups": 4}, out=tmp_path / "out")
    grouped = read_particles(done.outputs["particles"])
    assert same_partition(grouped.optics_index, label[row]) and grouped.half.tolist() == particles.half.tolist()


def test_files_without_sense_are_named(tmp_path):
    (tmp_path / "a.xml").write_text("<other/>")
    (tmp_path / "b.xml").write_text("<MicroscopeImage>")
    (tmp_path / "c.mdoc").write_text("Voltage = 300\n")
    (tmp_path / "d.txt").write_text("hello")
    for name, words in (
        ("a.xml", "no MicroscopeImage"),
        ("b.xml", "damaged"),
        ("c.mdoc", "no section"),
        ("d.txt", "neither"),
    ):
        with pytest.raises(InputError, match=words):
            read_acquisition(tmp_path / name)
    assert group_shifts(np.random.default_rng(0).normal(size=(50, 2)))[0].max() == 0  # no pattern, one group

"""The stage `convert`: forms of other programs and back."""

import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, Optics, ParticleSet, PickSet
from cryoloom.io.coordinates import read_coordinates
from cryoloom.io.records import (
    read_micrographs,
    read_particles,
    read_picks,
    write_micrographs,
    write_particles,
    write_picks,
)
from cryoloom.project.runner import run_stage


def convert(tmp_path, files, out="out", micrographs=None, **settings):
    inputs = {"files": files} | ({"micrographs": micrographs} if micrographs else {})
    return run_stage("convert", inputs=inputs, settings=settings, out=tmp_path / out)


def make_particles(n=6):
    rng = np.random.default_rng(0)
    return ParticleSet(
        optics=(Optics(name="a", pixel_size=1.5, box=8), Optics(name="b", pixel_size=2.0, box=8, voltage_kv=200.0)),
        optics_index=np.arange(n) % 2, image_path=np.full(n, "s.mrcs", dtype=object), image_index=np.arange(n),
        micrograph=np.array([f"m{i // 3}.mrc" for i in range(n)], dtype=object),
        position_px=rng.uniform(20, 900, (n, 2)),
        shift=rng.normal(size=(n, 2)), defocus_u=rng.uniform(1e4, 2e4, n), extra={"rlnMine": np.arange(n)},
    )  # fmt: skip


def test_relion_3_0_and_3_1_say_the_same(tmp_path):
    particles = make_particles()
    write_particles(particles, tmp_path / "p.star")
    done = convert(tmp_path, tmp_path / "p.star", to="relion30")
    old = done.folder / "particles_relion30.star"
    text = old.read_text()
    assert "data_optics" not in text and "version" not in text and "_rlnOriginXAngst" not in text
    back = convert(tmp_path, old, out="back")
    again = read_particles(back.outputs["particles"])
    assert [g.pixel_size for g in again.optics] == [1.5, 2.0] and [g.voltage_kv for g in again.optics] == [300, 200]
    np.testing.assert_allclose(again.shift, particles.shift, atol=1e-12)
    for name in ("image_index", "position_px", "defocus_u", "optics_index"):
        assert getattr(again, name).tolist() == getattr(particles, name).tolist()
    assert again.extra["rlnMine"].tolist() == particles.extra["rlnMine"].tolist()
    assert back.summary["columns_kept"] == ["rlnMine"]


def test_what_relion_3_0_cannot_say_is_named(tmp_path):
    from dataclasses import replace

    particles = make_particles()
    tilted = replace(particles.optics[0], beam_tilt_mrad=(0.1, 0.0), odd_zernike=(0.1,))
    write_particles(particles.replace(optics=(tilted, particles.optics[1])), tmp_path / "p.star")
    done = convert(tmp_path, tmp_path / "p.star", to="relion30")
    assert sorted(w.split()[0] for w in done.summary["warnings"]) == ["beam_tilt_mrad", "odd_zernike"]


def test_particles_and_picks_become_boxes_and_topaz_tables(tmp_path):
    particles = make_particles()
    write_particles(particles, tmp_path / "p.star")
    done = convert(tmp_path, tmp_path / "p.star", to="box", box=100)
    boxes = sorted((done.folder / "boxes").iterdir())
    assert [b.name for b in boxes] == ["m0.box", "m1.box"]
    found = np.concatenate([read_coordinates(b).position_px for b in boxes])
    np.testing.assert_allclose(found, particles.position_px, atol=0.011)
    picks = PickSet(position_px=particles.position_px, micrograph=particles.micrograph)
    write_picks(picks, tmp_path / "picks.star")
    done = convert(tmp_path, tmp_path / "picks.star", out="t", to="topaz", scale=4.0)
    again = read_coordinates(done.folder / "picks.txt", scale=4.0)
    np.testing.assert_allclose(again.position_px, picks.position_px, atol=0.021)


def test_coordinate_files_find_their_micrographs(tmp_path):
    micrographs = MicrographSet(
        path=np.array(["x/m0.mrc", "x/m1.mrc"], dtype=object), optics=(Optics(),), optics_index=np.zeros(2, int)
    )
    write_micrographs(micrographs, tmp_path / "m.star")
    for i in range(2):
        (tmp_path / f"m{i}.box").write_text(f"{i} 2 10 10\n")
    done = convert(tmp_path, [tmp_path / "m0.box", tmp_path / "m1.box"], micrographs=tmp_path / "m.star")
    picks = read_picks(done.outputs["picks"])
    assert picks.micrograph.tolist() == ["x/m0.mrc", "x/m1.mrc"] and picks.position_px.tolist() == [[7, 5], [7, 6]]
    done = convert(tmp_path, tmp_path / "m.star", out="b")
    assert read_micrographs(done.outputs["micrographs"]).path.tolist() == ["x/m0.mrc", "x/m1.mrc"]


def test_conversions_without_sense_are_refused(tmp_path):
    write_particles(make_particles(), tmp_path / "p.star")
    with pytest.raises(InputError, match="--box"):
        convert(tmp_path, tmp_path / "p.star", to="box")
    with pytest.raises(InputError, match="one by one"):
        (tmp_path / "q.star").write_text((tmp_path / "p.star").read_text())
        convert(tmp_path, [tmp_path / "p.star", tmp_path / "q.star"], out="b")
    (tmp_path / "t.txt").write_text("image_name\tx_coord\ty_coord\nm\t1\t2\n")
    with pytest.raises(InputError, match="scale"):
        convert(tmp_path, tmp_path / "t.txt", out="c")
    (tmp_path / "e.star").write_text("data_\nloop_\n_rlnVoltage\n300\n")
    with pytest.raises(InputError, match="neither particles"):
        convert(tmp_path, tmp_path / "e.star", out="d")

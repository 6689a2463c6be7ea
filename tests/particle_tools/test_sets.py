"""Tools on particle sets: which rows come out, whole, in order, and in their halves."""

import time

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import Optics, ParticleSet
from cryoloom.geometry import random_rotations
from cryoloom.io.particle_columns import column_names, particle_column
from cryoloom.io.records import read_particles, write_particles
from cryoloom.particle_tools.duplicates import keep_apart
from cryoloom.particle_tools.recentre import recentre_on_point, shifts_into_coordinates
from cryoloom.project.runner import run_stage


def make_set(n=600, n_micrographs=6, seed=0, name="a", start=0):
    rng = np.random.default_rng(seed)
    micrograph = np.array([f"{name}/mic_{i * n_micrographs // n}.mrc" for i in range(n)], dtype=object)
    return ParticleSet(
        optics=(Optics(name="one", pixel_size=2.0, box=64, original_pixel_size=1.0), Optics(name=f"only {name}")),
        optics_index=np.arange(n) % 2, image_path=np.array([f"{m}s" for m in micrograph], dtype=object),
        image_index=np.arange(n) + start, micrograph=micrograph, position_px=rng.uniform(0, 4000, (n, 2)),
        defocus_u=rng.uniform(1e4, 2e4, n), defocus_v=rng.uniform(1e4, 2e4, n), defocus_angle=rng.uniform(0, 3, n),
        class_number=rng.integers(1, 9, n), half=rng.integers(1, 3, n), pick_score=rng.normal(size=n),
        rotation=random_rotations(n, torch.Generator().manual_seed(seed)).numpy(), shift=rng.normal(0, 3, (n, 2)),
        extra={"rlnMine": np.arange(n) * 7, "rlnText": np.array([f"x{i % 5}" for i in range(n)], dtype=object)},
    )  # fmt: skip


def names(particles):
    return particle_column(particles, "rlnImageName").tolist()


def same_rows(result, source):
    """Rows of `result` are rows of `source` in its order, with all that belongs to them; returns their numbers."""
    place = {name: i for i, name in enumerate(names(source))}
    rows = [place[name] for name in names(result)]
    assert rows == sorted(rows)
    for name in ("half", "class_number", "defocus_u", "position_px", "shift", "pick_score"):
        np.testing.assert_array_equal(getattr(result, name), getattr(source, name)[rows], err_msg=name)
    np.testing.assert_allclose(result.rotation, source.rotation[rows], atol=1e-8)
    for label in source.extra:
        assert result.extra[label].tolist() == source.extra[label][rows].tolist()
    assert result.per_row("name").tolist() == source.per_row("name")[rows].tolist()
    return np.array(rows, int)


@pytest.fixture
def tool(tmp_path):
    count = iter(range(100))

    def run(verb, particles, **settings):
        out = tmp_path / f"out{next(count)}"
        sets = particles if isinstance(particles, list) else [particles]
        files = []
        for i, one in enumerate(sets):
            files.append(tmp_path / f"{out.name}_{i}.star")
            write_particles(one, files[-1])
        inputs = {"files": files} if verb == "merge" else {"particles": files[0]}
        done = run_stage(f"particles {verb}", inputs, settings, out=out)
        return done, {name: read_particles(path) for name, path in done.outputs.items()}

    return run


@pytest.mark.capability("TOL-1")
def test_counts_identities_and_halves_are_exact(tool, measure):
    whole = make_set()
    expected = {
        "values": ({"column": "rlnClassNumber", "values": "2,5"}, np.isin(whole.class_number, [2, 5])),
        "text": ({"column": "rlnText", "values": "x3"}, whole.extra["rlnText"] == "x3"),
        "range": ({"column": "defocus_u", "least": 1.2e4, "most": 1.5e4},
                  (whole.defocus_u >= 1.2e4) & (whole.defocus_u <= 1.5e4)),
        "optics": ({"column": "rlnOpticsGroupName", "values": "only a"}, whole.optics_index == 1),
        "origin": ({"column": "_rlnOriginXAngst", "least": 0}, -whole.shift[:, 1] >= 0),
        "highest": ({"column": "rlnAutopickFigureOfMerit", "highest": 50}, whole.pick_score.argsort().argsort() >= 550),
        "rows": ({"rows": "1,5-9,600"}, np.isin(np.arange(1, 601), [1, 5, 6, 7, 8, 9, 600])),
        "extra": ({"column": "rlnMine", "most": 700, "invert": True}, whole.extra["rlnMine"] > 700),
    }  # fmt: skip
    for name, (settings, rows) in expected.items():
        done, out = tool("subset", whole, **settings)
        assert same_rows(out["particles"], whole).tolist() == np.flatnonzero(rows).tolist(), name
        assert done.summary["halves"] == [int((whole.half[rows] == h).sum()) for h in (1, 2)]
    _, out = tool("subset", whole, random=77)
    assert len(same_rows(out["particles"], whole)) == 77
    # parts are disjoint and complete
    for settings, n_parts in (({"by": "half"}, 2), ({"parts": 7}, 7), ({"parts": 4, "order": "file"}, 4),
                              ({"by": "rlnText"}, 5), ({"parts": 3, "together": "rlnMicrographName"}, 3)):  # fmt: skip
        _, out = tool("split", whole, **settings)
        rows = [same_rows(part, whole) for part in out.values()]
        assert len(rows) == n_parts and sorted(np.concatenate(rows).tolist()) == list(range(600))
        if "parts" in settings and "together" not in settings:
            assert max(map(len, rows)) - min(map(len, rows)) <= 1
        if "together" in settings:
            seen = [set(part.micrograph) for part in out.values()]
            assert not seen[0] & seen[1] and not seen[1] & seen[2] and max(map(len, rows)) == 200
    # parts merged again are the whole
    _, out = tool("split", whole, parts=3, order="file")
    done, back = tool("merge", list(out.values()))
    assert same_rows(back["particles"], whole).tolist() == list(range(600)) and len(back["particles"].optics) == 2
    measure(len(expected) + 7, unit="operations exact", threshold="all", note="rows, order, halves, unknown columns")


@pytest.mark.capability("TOL-1")
@pytest.mark.slow
def test_a_million_rows_take_seconds(tmp_path, measure):
    n = 1_000_000
    small = make_set(n, n_micrographs=4000)
    write_particles(small.select(slice(0, n // 2)), tmp_path / "a.star")
    write_particles(small.select(slice(n // 2, n)), tmp_path / "b.star")
    cost = {}
    halves = [int((small.half == h).sum()) for h in (1, 2)]
    del small
    steps = [
        ("merge", {"files": [tmp_path / "a.star", tmp_path / "b.star"]}, {}),
        ("subset", None, {"column": "rlnClassNumber", "values": "1,3,5"}),
        ("unique", None, {"distance": 5.0, "best": "rlnAutopickFigureOfMerit"}),
        ("split", None, {"by": "half"}),
        ("recentre", None, {"z": 40.0, "move_coordinates": True}),
    ]
    for verb, inputs, settings in steps:
        inputs = inputs or {"particles": tmp_path / "merge" / "particles.star"}
        start = time.process_time()
        done = run_stage(f"particles {verb}", inputs, settings, out=tmp_path / verb, threads=1)
        cost[verb] = time.process_time() - start
        if verb in ("merge", "recentre"):
            assert done.summary["n_out"] == n and done.summary["halves"] == halves
    note = "CPU s with reading and writing: " + ", ".join(f"{verb} {s:.1f}" for verb, s in cost.items())
    measure(round(max(cost.values()), 1), unit="s", threshold="< 30", note=note)
    assert max(cost.values()) < 30


def test_sets_of_two_sessions_merge_by_the_name_of_their_optics(tool):
    first, second = make_set(), make_set(seed=1, name="b")
    other = second.replace(optics=(Optics(name="one", pixel_size=3.0), second.optics[1]))
    done, out = tool("merge", [first, second])
    assert [g.name for g in out["particles"].optics] == ["one", "only a", "only b"] and len(out["particles"]) == 1200
    done, out = tool("merge", [first, other])
    assert [g.name for g in out["particles"].optics] == ["one", "only a", "one_2", "only b"]
    assert any("one -> one_2" in text for text in done.summary["warnings"])
    assert out["particles"].per_row("pixel_size")[600:].tolist() == other.per_row("pixel_size").tolist()


def test_doubles_are_dropped_or_refused_and_halves_must_be_whole(tool):
    first = make_set()
    done, out = tool("merge", [first, first.select(slice(100, 200))])
    assert same_rows(out["particles"], first).tolist() == list(range(600)) and done.summary["n_duplicates"] == 100
    with pytest.raises(InputError, match="100 images"):
        tool("merge", [first, first.select(slice(100, 200))], duplicates="refuse")
    turned = first.select(slice(100, 200)).replace(half=3 - first.half[100:200])
    done, out = tool("merge", [first, turned], duplicates="keep")
    assert len(out["particles"]) == 700 and any("halves" in text for text in done.summary["warnings"])
    bare = make_set(seed=3, name="c").replace(half=None)
    with pytest.raises(InputError, match="no half sets"):
        tool("merge", [first, bare])
    done, out = tool("merge", [first, bare], without_halves=True)
    assert out["particles"].half is None and any("half" in text for text in done.summary["warnings"])


def test_of_near_particles_the_best_stays(tool):
    rng = np.random.default_rng(5)
    centre = np.stack(np.meshgrid(np.arange(10) * 300.0, np.arange(10) * 300.0), -1).reshape(-1, 2) + 200
    twins = np.concatenate([centre, centre + rng.normal(0, 5, centre.shape)])
    whole = make_set(200, n_micrographs=1).replace(position_px=twins, shift=np.zeros((200, 2)))
    best = np.where(whole.pick_score[:100] >= whole.pick_score[100:], np.arange(100), np.arange(100, 200))
    done, out = tool("unique", whole, distance=60.0, best="rlnAutopickFigureOfMerit")
    assert same_rows(out["particles"], whole).tolist() == sorted(best.tolist())
    assert len(out["removed"]) == 100 and done.summary["n_near"] == 100
    # a shift that explains the distance makes them apart; micrographs do not meet
    away = whole.replace(shift=np.concatenate([np.zeros((100, 2)), np.full((100, 2), 200.0)]))
    assert keep_apart(away, 60.0).all()
    other = whole.replace(micrograph=np.repeat(["a", "b"], 100).astype(object))
    assert keep_apart(other, 60.0).all()


def test_a_chain_of_neighbours_loses_every_second_one():
    chain = make_set(9, n_micrographs=1).replace(
        position_px=np.stack([np.zeros(9), 10.0 * np.arange(9)], -1), shift=None, optics=(Optics(), Optics(name="b"))
    )
    assert keep_apart(chain, 15.0).tolist() == [True, False] * 4 + [True]
    best = np.array([0, 9, 0, 8, 0, 7, 0, 6, 0.0])
    assert keep_apart(chain, 15.0, best).tolist() == [False, True] * 4 + [False]


def test_a_new_centre_lies_where_the_projection_convention_puts_it():
    whole = make_set(50)
    point = np.array([5.0, -3.0, 2.0])
    moved = recentre_on_point(whole, tuple(point), adjust_defocus=True)
    projected = np.stack([r.T @ point for r in whole.rotation])  # style.md: p lands at the x, y of R.T p
    np.testing.assert_allclose(moved.shift[:, 1] - whole.shift[:, 1], projected[:, 0])
    np.testing.assert_allclose(moved.shift[:, 0] - whole.shift[:, 0], projected[:, 1])
    np.testing.assert_allclose(moved.defocus_u - whole.defocus_u, projected[:, 2])
    back = recentre_on_point(moved, tuple(-point), adjust_defocus=True)
    np.testing.assert_allclose(back.shift, whole.shift, atol=1e-12)
    size = whole.per_row("original_pixel_size")
    size = np.array([s or 1.0 for s in size], float)[:, None]
    cut = shifts_into_coordinates(moved)
    np.testing.assert_allclose(cut.position_px * size + cut.shift, moved.position_px * size + moved.shift)
    assert np.abs(cut.shift).max() <= 0.5 and np.array_equal((cut.position_px - moved.position_px) % 1 < 1e-9,
                                                            np.ones((50, 2), bool))  # fmt: skip


def test_an_unknown_column_is_answered_by_the_nearest_one():
    whole = make_set(6)
    with pytest.raises(InputError, match="rlnClassNumber"):
        particle_column(whole, "rlnClasNumber")
    for name in column_names(whole):
        assert len(particle_column(whole, name)) == 6
    np.testing.assert_allclose(particle_column(whole, "defocus_angle"), np.rad2deg(whole.defocus_angle), atol=1e-8)


def test_conditions_without_sense_are_refused(tool):
    whole = make_set(20)
    for settings in ({}, {"least": 1.0}, {"column": "half"}, {"rows": "0"}, {"rows": "7-30"}, {"rows": "x"},
                     {"column": "rlnText", "least": 1.0}, {"column": "half", "values": "one"}):  # fmt: skip
        with pytest.raises(InputError):
            tool("subset", whole, **settings)
    with pytest.raises(InputError, match="either --by"):
        tool("split", whole, by="half", parts=3)

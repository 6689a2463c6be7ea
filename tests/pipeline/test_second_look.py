"""What a second look with the map would add, and which refinement is kept."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cryoloom.data import Optics, ParticleSet, PickSet
from cryoloom.io.records import write_particles, write_picks
from cryoloom.pipeline.second_look import gained_share, refine_again
from cryoloom.pipeline.settings import RunSettings
from cryoloom.project.runner import JobResult

DIAMETER, PIXEL = 100.0, 2.0
SIDE = 12  # particles on a lattice twice their diameter apart


def _lattice(n):
    return 100.0 * np.stack(np.divmod(np.arange(n), SIDE), -1) + 60.0


def _known(n, unreliable=0):
    rng = np.random.default_rng(0)
    wander = rng.normal(0, 5, (n, 2))  # px between box and centre, which the shift undoes
    reliability = np.where(np.arange(n) < n - unreliable, 0.9, 0.1)
    return ParticleSet(
        image_path=np.full(n, "a.mrcs"), image_index=np.arange(n), micrograph=np.full(n, "m.mrc"),
        optics=(Optics(pixel_size=2 * PIXEL, original_pixel_size=PIXEL),), optics_index=np.zeros(n, np.int64),
        position_px=_lattice(n) - wander, shift=wander * PIXEL, reliability=reliability,
    )  # fmt: skip


def _picks(n, n_dirt=0):
    rng = np.random.default_rng(1)
    place = np.concatenate([_lattice(n), _lattice(n_dirt) + 50.0])  # dirt lies between the particles
    score = np.concatenate([rng.normal(9, 2, n), rng.normal(4, 0.5, n_dirt)])
    return PickSet(position_px=place, micrograph=np.full(len(place), "m.mrc"), score=score)


@pytest.mark.parametrize("n_known, n_picked, expected", [(60, 60, 0.0), (60, 90, 0.5), (100, 144, 0.44)])
def test_picks_that_score_like_particles_count_as_missed_ones(n_known, n_picked, expected):
    alone = gained_share(_picks(n_picked), _known(n_known), DIAMETER)
    assert abs(alone - expected) < 0.15
    assert gained_share(_picks(n_picked, n_dirt=100), _known(n_known), DIAMETER) == pytest.approx(alone, abs=0.02)


def test_places_of_unreliable_particles_are_free():
    assert gained_share(_picks(100), _known(100, unreliable=50), DIAMETER) > 0.7


def test_without_picks_nothing_is_gained():
    assert gained_share(_picks(0), _known(50), DIAMETER) == 0.0


class Scripted:
    """A way that picks as told and notes what it is asked."""

    def __init__(self, root: Path, picks: PickSet):
        self.root, self.settings, self.jobs = root, RunSettings(), []
        self.sink = SimpleNamespace(message=lambda *args, **kwargs: None)
        self.asked: list[str] = []
        write_picks(picks, root / "picks.star")

    def step(self, stage, inputs, **settings):
        self.asked.append(stage)
        outputs = {"picks": self.root / "picks.star", "particles": self.root / "cut.star"}
        self.jobs = [*self.jobs, JobResult(self.root / stage, {}, outputs)]
        return self.jobs[-1]


def _refined(root: Path, name: str, resolution: float, known: ParticleSet) -> JobResult:
    write_particles(known, root / f"{name}.star")
    outputs = {"particles": root / f"{name}.star", "map": root / "map.mrc"}
    return JobResult(root / name, {"verdict": "found", "resolution": resolution}, outputs)


@pytest.mark.parametrize("resolution, kept", [(4.5, "second"), (5.5, "first")])
def test_the_better_refinement_is_kept(tmp_path, resolution, kept):
    way = Scripted(tmp_path, _picks(100))
    first = _refined(tmp_path, "first", 5.0, _known(50))
    second = _refined(tmp_path, "second", resolution, _known(100))
    way.jobs = [first]

    def refine(particles):
        way.jobs = [*way.jobs, second]
        return second

    best = refine_again(way, tmp_path / "m.star", first, DIAMETER, refine)
    assert way.asked == ["pick", "extract"]
    assert best.folder.name == kept and way.jobs[-1] is best
    assert len(way.jobs) == 4


def test_nothing_is_refined_again_for_few_particles_or_a_map_that_is_not_there(tmp_path):
    def never(particles):
        raise AssertionError("refined again")

    way = Scripted(tmp_path, _picks(55))
    first = _refined(tmp_path, "first", 5.0, _known(50))
    way.jobs = [JobResult(tmp_path / "pick1", {}, {}), first]
    assert refine_again(way, tmp_path / "m.star", first, DIAMETER, never) is first
    assert [job.folder.name for job in way.jobs] == ["pick", "pick1", "first"]
    way = Scripted(tmp_path, _picks(100))
    weak = _refined(tmp_path, "weak", 5.0, _known(50, unreliable=45))
    assert refine_again(way, tmp_path / "m.star", weak, DIAMETER, never) is weak
    assert way.asked == []

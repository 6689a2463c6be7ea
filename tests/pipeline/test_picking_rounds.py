"""Which round of picking counts, when rounds end, and that what goes on is centred and each particle once."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cryoloom.data import Optics, ParticleSet
from cryoloom.io.records import write_particles
from cryoloom.pipeline.picking_rounds import find_particles
from cryoloom.pipeline.settings import RunSettings
from cryoloom.project.runner import JobResult

DIAMETER = 200.0


class Scripted:
    """A way whose rounds end as told: particles kept by the classes, and how far they were moved in diameters."""

    def __init__(self, root: Path, rounds: list[tuple[int, float]], seen=(DIAMETER,) * 3, **settings):
        self.root, self.rounds, self.settings = root, rounds, RunSettings(**settings)
        self.seen = seen  # diameters measured in 2D
        self.asked: list[tuple[str, dict, dict]] = []
        self.sink = SimpleNamespace(message=lambda *args, **kwargs: None)

    def step(self, stage, inputs, **settings):
        self.asked.append((stage, inputs, settings))
        number = sum(name == "pick" for name, _, _ in self.asked) - 1
        n, moved = self.rounds[number]
        outputs = {}
        if stage == "particles unique":
            rows = ParticleSet(
                image_path=np.full(n, "a.mrcs"), image_index=np.arange(n), optics=(Optics(pixel_size=1.0),),
                optics_index=np.zeros(n, np.int64), shift=np.tile([0.0, moved * DIAMETER], (n, 1)),
            )  # fmt: skip
            outputs["particles"] = self.root / f"unique{number}.star"
            write_particles(rows, outputs["particles"])
        else:
            outputs = {name: self.root / f"{stage}{number}" for name in ("picks", "particles", "selected")}
        summary = {"n_out": n, "diameter": DIAMETER, "particle_diameter": self.seen[number]}
        return JobResult(self.root, summary, outputs)


@pytest.mark.parametrize(
    "rounds, n_rounds, taken",
    [
        ([(300, 0.3), (200, 0.01), (1, 1)], 2, 1),  # settled after the second
        ([(300, 0.3), (200, 0.2), (150, 0.1)], 3, 2),  # each better placed than the one before
        ([(300, 0.0), (40, 0.0), (1, 1)], 2, 0),  # the second lost nearly all
        ([(300, 0.3), (0, 0.0), (1, 1)], 2, 0),
    ],
)
def test_the_last_round_counts_unless_it_lost_the_particles(tmp_path, rounds, n_rounds, taken):
    way = Scripted(tmp_path, rounds)
    found = find_particles(way, tmp_path / "micrographs.star")
    assert sum(stage == "pick" for stage, _, _ in way.asked) == n_rounds
    stage, inputs, _ = way.asked[-1]
    assert stage == "extract" and inputs["particles"].name == f"unique{taken}.star"
    assert found.diameter == DIAMETER


def test_without_good_classes_nothing_is_found(tmp_path):
    assert find_particles(Scripted(tmp_path, [(0, 0.0)]), tmp_path / "micrographs.star") is None


def test_a_diameter_that_one_round_got_wrong_does_not_stay(tmp_path):
    way = Scripted(tmp_path, [(300, 0.3), (200, 0.2), (150, 0.1)], seen=(210.0, 250.0, 230.0))
    assert find_particles(way, tmp_path / "micrographs.star").diameter == 230.0


def test_a_first_diameter_that_was_too_large_gives_way_to_two_rounds_that_agree(tmp_path):
    way = Scripted(tmp_path, [(300, 0.3), (200, 0.01)], seen=(150.0, 142.0))
    assert find_particles(way, tmp_path / "micrographs.star").diameter == 142.0
    second = [settings["diameter"] for stage, _, settings in way.asked if stage == "pick"][1]
    assert second == DIAMETER


def test_rounds_go_on_until_the_diameter_is_found_again(tmp_path):
    way = Scripted(tmp_path, [(300, 0.3), (200, 0.01), (200, 0.01)], seen=(250.0, 155.0, 150.0))
    assert find_particles(way, tmp_path / "micrographs.star").diameter == 155.0
    assert [settings["diameter"] for stage, _, settings in way.asked if stage == "pick"] == [None, 250.0, DIAMETER]


def test_a_diameter_that_was_given_is_kept(tmp_path):
    way = Scripted(tmp_path, [(300, 0.3), (200, 0.01)], seen=(400.0, 400.0), diameter=250.0)
    assert find_particles(way, tmp_path / "micrographs.star").diameter == 250.0
    assert all(settings["diameter"] == 250.0 for stage, _, settings in way.asked if stage in ("pick", "extract"))


def test_a_diameter_beyond_the_circle_of_the_classes_is_not_believed(tmp_path):
    way = Scripted(tmp_path, [(300, 0.3), (200, 0.2), (150, 0.1)], seen=(500.0, 210.0, 205.0))
    assert find_particles(way, tmp_path / "micrographs.star").diameter == 210.0
    second = [settings["diameter"] for stage, _, settings in way.asked if stage == "pick"][1]
    assert second == pytest.approx(1.3 * DIAMETER)


def test_each_round_picks_by_the_method_that_is_wanted(tmp_path):
    for wanted in ("single", "consensus"):
        way = Scripted(tmp_path, [(300, 0.3), (200, 0.01)], picking=wanted)
        find_particles(way, tmp_path / "micrographs.star")
        assert [settings["method"] for stage, _, settings in way.asked if stage == "pick"] == [wanted, wanted]

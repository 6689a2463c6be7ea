import numpy as np

from cryoloom.data import Optics, ParticleSet
from cryoloom.scoring.matching import match_particles


def particles(folder, positions):
    n = len(positions)
    return ParticleSet(
        image_path=np.array([f"{folder}/movie_0001.mrcs"] * n),
        image_index=np.arange(n),
        micrograph=np.array([f"{folder}/movie_0001.mrc"] * n),
        position_px=np.array(positions, dtype=float),
        optics=(Optics(),),
        optics_index=np.zeros(n, np.int64),
    )


def test_stacks_that_only_share_their_name_are_matched_by_place():
    truth = particles("simulated", [(100, 100), (300, 300), (500, 500)])
    found = particles("extracted", [(501, 499), (99, 101)])
    mine, true = match_particles(found, truth, distance_px=10)
    assert dict(zip(mine.tolist(), true.tolist(), strict=True)) == {0: 2, 1: 0}


def test_equal_stacks_are_matched_by_slice():
    truth = particles("same", [(100, 100), (300, 300)])
    mine, true = match_particles(truth.select([1, 0]), truth, distance_px=10)
    assert mine.tolist() == [0, 1] and true.tolist() == [1, 0]

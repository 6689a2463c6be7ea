"""SIM-2: the scorer gives the truth full marks, and sees through frame, place and hand."""

import numpy as np
import pytest
import torch

from cryoloom.data import MicrographSet, Optics, ParticleSet, PickSet, VolumeMap
from cryoloom.geometry import random_rotations, rotation_angle, symmetry_matrices
from cryoloom.maps.superpose import mirror_z
from cryoloom.scoring.classes import score_classes
from cryoloom.scoring.defocus import score_defocus
from cryoloom.scoring.maps import score_map, true_resolution
from cryoloom.scoring.motion import score_motion
from cryoloom.scoring.picks import score_picks
from cryoloom.scoring.poses import score_rotations
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

pytestmark = pytest.mark.capability("SIM-2")
MIRROR = np.diag([1.0, 1.0, -1.0])


def test_truth_scores_perfect(measure):
    rng = np.random.default_rng(0)
    n = 100
    rotation = random_rotations(n, torch.Generator().manual_seed(0)).numpy()
    columns = {
        "optics": (Optics(),), "optics_index": np.zeros(n, np.int64), "defocus_u": rng.uniform(1e4, 2e4, n),
        "defocus_v": rng.uniform(1e4, 2e4, n), "defocus_angle": rng.uniform(0, 3, n),
    }  # fmt: skip
    truth = ParticleSet(
        image_path=np.full(n, "s.mrcs"), image_index=np.arange(n), micrograph=np.full(n, "m.mrc"),
        position_px=rng.uniform(0, 1000, (n, 2)), rotation=rotation, shift=rng.normal(0, 2, (n, 2)), **columns,
    )  # fmt: skip
    micrographs = MicrographSet(path=np.asarray([f"{i}.mrc" for i in range(n)]), **columns)
    volume = potential_map(phantom("globule", mass_kda=60), 40, 3.5)
    labels = rng.integers(1, 5, n)
    track = rng.normal(size=(4, 20, 2))
    picks = PickSet(micrograph=truth.micrograph, position_px=truth.position_px)
    checks = {
        "poses": score_rotations(rotation, rotation, shifts=(truth.shift, truth.shift)).angle.max() < 1e-6,
        "defocus": score_defocus(truth, truth).median == 0 and score_defocus(micrographs, micrographs).median == 0,
        "picks": score_picks(picks, truth, 3.0).f1 == 1,
        "classes": abs(score_classes(labels, labels).ami - 1) < 1e-9,
        "motion": score_motion(track, track).rms == 0,
        "map": true_resolution(volume, volume) == 7.0 and score_map(volume, volume, superposed=True).auc > 0.9999,
    }
    share = float(np.mean(list(checks.values())))
    measure(100 * share, "%", "= 100", note=", ".join(checks))
    assert share == 1, checks


def test_turned_moved_and_mirrored_poses_are_recognised_every_time(measure):
    """Also with half of the poses random and 3 degrees of error on the others."""
    rng = np.random.default_rng(1)
    right = []
    groups = ["C1", "C2", "C5", "D2", "D7", "T", "O", "I1"]
    for case in range(160):
        symmetry, mirrored, spoilt = groups[case % 8], case % 2 == 1 if case < 80 else case % 3 == 1, case >= 80
        generator = torch.Generator().manual_seed(case)
        truth = random_rotations(300, generator).numpy()
        group = symmetry_matrices(symmetry).numpy()
        frame = random_rotations(1, generator).numpy()[0]
        estimated = group[rng.integers(0, len(group), 300)] @ truth
        estimated = frame @ (MIRROR @ estimated @ MIRROR if mirrored else estimated)
        if spoilt:
            small = rng.normal(0, np.deg2rad(1.7), (300, 3))
            from cryoloom.geometry import axis_angle_to_matrix

            estimated = estimated @ axis_angle_to_matrix(torch.from_numpy(small)).numpy()
            estimated[:150] = random_rotations(150, generator).numpy()
        score = score_rotations(estimated, truth, symmetry)
        close = np.median(score.angle[150:]) < np.deg2rad(4 if spoilt else 1e-4)
        right.append(close and score.mirrored == mirrored)
    measure(100 * float(np.mean(right)), "%", "= 100", note="160 sets of 300 poses, 8 groups")
    assert all(right)


@pytest.mark.slow
def test_turned_moved_and_mirrored_maps_are_recognised_every_time(measure):
    """Noisy copies of phantoms of several shapes, also in other boxes and pixel sizes."""
    rng = np.random.default_rng(2)
    right = []
    for case in range(16):
        shape, symmetry = [("globule", "C1"), ("fork", "C1"), ("tripod", "C3"), ("rod", "D2")][case % 4]
        atoms = phantom(shape, symmetry, mass_kda=120, seed=case)
        pixel_size = max(3.0, atoms.diameter / 44)
        truth = potential_map(atoms, 64, pixel_size)
        turn = random_rotations(1, torch.Generator().manual_seed(case))[0].numpy()
        other = (72, 0.95 * pixel_size) if case % 3 == 2 else (64, pixel_size)
        copy = potential_map(atoms.moved(turn, rng.normal(0, 4, 3)), *other)
        data = copy.data + rng.normal(0, copy.data.std(), copy.data.shape).astype(np.float32)
        mirrored = case % 2 == 1
        if mirrored:
            data = mirror_z(torch.from_numpy(data)).numpy()
        score = score_map(VolumeMap(data.astype(np.float32), copy.pixel_size), truth)
        good = score.resolution < 2.4 * max(pixel_size, copy.pixel_size) and score.mirrored == mirrored
        if symmetry == "C1" and not mirrored:
            good &= float(rotation_angle(score.superposition.rotation @ torch.from_numpy(turn))) < np.deg2rad(0.5)
        right.append(good)
    measure(100 * float(np.mean(right)), "%", "= 100", note="16 maps, 4 shapes, noise as strong as the map")
    assert all(right)

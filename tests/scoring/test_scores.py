"""Truth scores perfect; rotated, shifted, mirrored copies are recognised; wrong answers are not."""

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, Optics, ParticleSet, PickSet
from cryoloom.geometry import axis_angle_to_matrix, random_rotations, symmetry_matrices
from cryoloom.scoring.classes import adjusted_mutual_information, score_classes
from cryoloom.scoring.defocus import score_defocus
from cryoloom.scoring.motion import score_motion, true_tracks
from cryoloom.scoring.picks import score_picks
from cryoloom.scoring.poses import score_poses, score_rotations

MIRROR = np.diag([1.0, 1.0, -1.0])


def rotations(n, seed):
    return random_rotations(n, torch.Generator().manual_seed(seed)).numpy()


def particles(n=200, seed=0, **changes):
    rng = np.random.default_rng(seed)
    base = ParticleSet(
        image_path=np.full(n, "a/stack.mrcs"),
        image_index=np.arange(n),
        micrograph=np.asarray([f"m/mic{i % 4}.mrc" for i in range(n)]),
        position_px=rng.uniform(0, 2000, (n, 2)),
        optics=(Optics(pixel_size=1.5, original_pixel_size=1.5),),
        optics_index=np.zeros(n, np.int64),
        defocus_u=rng.uniform(1e4, 2e4, n),
        defocus_v=rng.uniform(1e4, 2e4, n),
        defocus_angle=rng.uniform(0, np.pi, n),
        rotation=rotations(n, seed),
        shift=rng.normal(0, 3, (n, 2)),
        class_number=np.ones(n, np.int64),
    )
    return base.replace(**changes)


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D2", "D7", "T", "O", "I1"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_turned_moved_and_mirrored_poses_are_recognised(symmetry, mirrored):
    truth = rotations(150, 1)
    group = symmetry_matrices(symmetry).numpy()
    frame = rotations(1, 2)[0]
    chosen = group[np.random.default_rng(3).integers(0, len(group), len(truth))]
    base = chosen @ truth
    base = MIRROR @ base @ MIRROR if mirrored else base
    estimated = frame @ base
    origin = np.array([4.0, -7.0, 2.5])
    true_shift = np.random.default_rng(4).normal(0, 3, (len(truth), 2))
    shift = true_shift + (estimated.transpose(0, 2, 1) @ origin)[:, [1, 0]]
    score = score_rotations(estimated, truth, symmetry, shifts=(shift, true_shift))
    assert score.median_deg < 1e-5
    assert score.angle.max() < 1e-5
    assert score.mirrored == mirrored
    assert score.shift_rms < 1e-6
    np.testing.assert_allclose(score.origin, origin, atol=1e-5)


def test_a_known_pose_error_is_measured():
    truth = rotations(400, 5)
    noise = axis_angle_to_matrix(torch.from_numpy(np.random.default_rng(6).normal(0, np.deg2rad(2), (400, 3)))).numpy()
    score = score_rotations(truth @ noise, truth)
    # the length of three Gaussian components of 2 degrees has its median at 1.538 of their deviation
    assert abs(score.median_deg - 2 * 1.538) < 0.25


def test_right_poses_are_found_among_a_majority_of_wrong_ones():
    truth = rotations(500, 7)
    estimated = rotations(1, 8)[0] @ truth
    wrong = np.random.default_rng(9).random(500) < 0.8
    estimated[wrong] = rotations(int(wrong.sum()), 10)
    score = score_rotations(estimated, truth)
    assert abs(score.share_right - (1 - wrong.mean())) < 0.02


def test_random_poses_score_like_chance():
    score = score_rotations(rotations(500, 11), rotations(500, 12), "D7")
    assert score.share_right < 2 * score.share_by_chance + 0.02


def test_particles_are_matched_by_image_and_junk_does_not_count():
    truth = particles(300)
    truth = truth.replace(class_number=np.where(np.arange(300) < 30, 0, 1))
    order = np.random.default_rng(0).permutation(300)[:200]
    found = truth.select(order)
    rotation = found.rotation.copy()
    rotation[order < 30] = np.eye(3)
    score = score_poses(found.replace(rotation=rotation, image_path=np.full(200, "elsewhere/stack.mrcs")), truth)
    assert score.n == int((order >= 30).sum())
    assert score.angle.max() < 1e-6


def test_particles_of_other_stacks_are_matched_by_position():
    truth = particles(200)
    found = truth.select(np.arange(199, -1, -1)).replace(
        image_path=np.full(200, "new.mrcs"), image_index=np.arange(200), shift=None,
        position_px=truth.position_px[::-1] + truth.shift[::-1] / 1.5 + 0.4,
    )  # fmt: skip
    score = score_poses(found, truth)
    assert score.n == 200 and score.angle.max() < 1e-6


def test_particles_without_poses_are_refused():
    with pytest.raises(InputError, match="poses"):
        score_poses(particles(rotation=None), particles())


def test_true_picks_score_one_and_known_faults_are_counted():
    truth = particles(100)
    picks = PickSet(micrograph=truth.micrograph, position_px=truth.position_px + 1.0, score=np.arange(100.0))
    perfect = score_picks(picks, truth, 5.0)
    assert (perfect.precision, perfect.recall, perfect.f1, perfect.average_precision) == (1, 1, 1, 1)
    assert abs(perfect.offset_px - np.sqrt(2)) < 1e-9
    # 20 of 100 lost, 20 wrong ones of low score far away
    position = picks.position_px.copy()
    position[:20] += 5000
    score = score_picks(picks.replace(position_px=position), truth, 5.0)
    assert score.precision == score.recall == 0.8
    assert score.average_precision == pytest.approx(0.8)


def test_one_particle_picked_twice_counts_once():
    truth = particles(1)
    picks = PickSet(micrograph=np.repeat(truth.micrograph, 2), position_px=np.repeat(truth.position_px, 2, axis=0))
    assert score_picks(picks, truth, 5.0).precision == 0.5


def test_micrographs_that_were_not_searched_do_not_count():
    truth = particles(100)
    here = truth.micrograph == "m/mic1.mrc"
    picks = PickSet(micrograph=truth.micrograph[here], position_px=truth.position_px[here], micrographs=("x/mic1.mrc",))
    assert score_picks(picks, truth, 5.0).recall == 1


def test_swapped_defocus_axes_are_no_error():
    truth = particles(50)
    swapped = truth.replace(
        defocus_u=truth.defocus_v, defocus_v=truth.defocus_u, defocus_angle=truth.defocus_angle + np.pi / 2
    )
    score = score_defocus(swapped, truth)
    assert np.abs(score.defocus).max() < 1e-9 and score.astigmatism.max() < 1e-6
    off = score_defocus(truth.replace(defocus_u=truth.defocus_u + 80), truth)
    assert off.median == pytest.approx(40)
    np.testing.assert_allclose(off.astigmatism, 40)


def test_micrographs_are_matched_by_name():
    def micrographs(names, defocus):
        return MicrographSet(
            path=np.asarray(names), defocus_u=np.asarray(defocus), defocus_v=np.asarray(defocus),
            defocus_angle=np.zeros(len(names)), optics=(Optics(),), optics_index=np.zeros(len(names), np.int64),
        )  # fmt: skip

    score = score_defocus(
        micrographs(["b/two.mrc", "b/one.tif"], [2e4, 1.1e4]), micrographs(["one.mrc", "two.mrc"], [1e4, 2e4])
    )
    np.testing.assert_allclose(score.defocus, [0, 1000])


def test_trajectories_are_compared_up_to_their_start():
    track = np.cumsum(np.random.default_rng(0).normal(0, 1, (5, 20, 2)), axis=1)
    assert score_motion(track + np.array([3.0, -8.0]), track).rms < 1e-12
    error = np.random.default_rng(1).normal(0, 0.5, track.shape)
    assert score_motion(track + error, track).rms_axis == pytest.approx(0.5 * np.sqrt(19 / 20), rel=0.1)


def test_a_partition_agrees_with_itself_under_other_names_and_not_with_chance():
    rng = np.random.default_rng(2)
    states = rng.integers(1, 5, 3000)
    same = score_classes(10 - states, states)
    assert same.ami == pytest.approx(1) and same.accuracy == 1 and same.purity == 1
    chance = score_classes(rng.integers(0, 40, 3000), states)
    assert abs(chance.ami) < 0.01


def test_adjusted_mutual_information_by_hand():
    # Two classes of two items each, crossed: the information is 0 and its expectation over the 6 partitions ln2 / 3.
    value = adjusted_mutual_information(np.array([[1, 1], [1, 1]]))
    expected = (0 - np.log(2) / 3) / (np.log(2) - np.log(2) / 3)
    assert value == pytest.approx(expected)


def test_true_tracks_evaluate_the_modes_of_the_record():
    modes = np.zeros((3, 4, 2))
    modes[1, :, 0] = [0, 1, 2, 3]  # linear in y
    record = {"motion_modes": modes.tolist(), "recipe": {"shape": [100, 200]}}
    tracks = true_tracks(record, np.array([[99.5, 10.0], [49.5, 0.0]]))
    np.testing.assert_allclose(tracks[0, :, 0], [0, 1, 2, 3])
    np.testing.assert_allclose(tracks[1], 0, atol=1e-12)

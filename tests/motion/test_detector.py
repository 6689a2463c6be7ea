"""Gain, defects, motion files."""

import numpy as np
import pytest

from cryoloom.data import MovieSet, Optics
from cryoloom.io.gain import orient
from cryoloom.io.motion_tracks import MovieFacts
from cryoloom.io.mrc import write_mrc
from cryoloom.io.star import read_star
from cryoloom.motion.defects import find_defects
from cryoloom.motion.field import MotionField, mode_values
from cryoloom.motion.frames import make_frames
from cryoloom.motion.gain_orientation import find_gain_orientation
from cryoloom.motion.load import choose_gain
from cryoloom.motion.motion_file import evaluate_relion_polynomial, relion_polynomial, write_motion_file
from cryoloom.motion.settings import MotionSettings


def test_planted_defects_are_found_and_nothing_else():
    rng = np.random.default_rng(0)
    raw = rng.poisson(1.0, (30, 300, 320)).astype(np.uint8)
    raw[:, 50, 60] = 0
    raw[:, 70:72, 80] = 9
    raw[:, :, 200] += (rng.random((30, 300)) < 0.4).astype(np.uint8)
    raw[:, 150, :] = (raw[:, 150, :] * 0.5).astype(np.uint8)
    gain = np.ones((300, 320), np.float32)
    gain[10:13, 10:14] = 0
    bad = find_defects(make_frames(raw, gain))
    planted = np.zeros_like(bad)
    planted[50, 60] = planted[70, 80] = planted[71, 80] = True
    planted[:, 200] = planted[150] = True
    planted[10:13, 10:14] = True
    assert bad[planted].all()
    assert bad[~planted].sum() <= 2


def test_repaired_pixels_take_values_of_good_neighbours():
    rng = np.random.default_rng(1)
    raw = rng.poisson(3.0, (40, 64, 64)).astype(np.uint16)
    raw[:, 20:24, 30:33] = 5000
    mask = np.zeros((64, 64), bool)
    mask[20:24, 30:33] = True
    frames = make_frames(raw, bad=mask)
    repaired = np.stack([frames.frame(t)[mask] for t in range(40)])
    assert repaired.max() < 20
    assert repaired.mean() == pytest.approx(3.0, abs=0.4)
    assert repaired.var() == pytest.approx(3.0, rel=0.35)
    np.testing.assert_array_equal(frames.frame(0)[~mask], raw[0][~mask])


@pytest.mark.parametrize("divide", [False, True])
def test_gain_of_a_frame_that_is_not_square_goes_one_of_four_ways(divide):
    rng = np.random.default_rng(2)
    gain = rng.normal(1, 0.04, (120, 200)).clip(0.5)
    total = rng.poisson(40 * (gain if divide else 1 / gain)).astype(float)
    choice = find_gain_orientation(total, np.rot90(gain))  # a quarter turn anticlockwise
    assert (choice.rotation, choice.flip, choice.divide) == (1, 0, divide)
    assert choice.is_certain
    assert len(choice.correlations) == 4
    np.testing.assert_array_equal(orient(np.rot90(gain), choice.rotation, choice.flip), gain)


@pytest.mark.parametrize("carried", [1.0, 0.1, 0.0])
def test_a_gain_that_was_applied_already_or_is_wrong_is_told_from_one_that_is_carried(carried):
    """Corrected frames may still carry a tenth of it, where the detector has changed since: not certain but absent."""
    rng = np.random.default_rng(3)
    gain = rng.normal(1, 0.04, (1024, 1024)).clip(0.7, 1.4)
    choice = find_gain_orientation(rng.poisson(60 / gain**carried).astype(float), gain)
    assert choice.is_absent == (carried < 1)
    assert choice.is_certain or carried < 1
    few = find_gain_orientation(rng.poisson(0.5, (1024, 1024)).astype(float), gain)
    assert not few.is_certain and not few.is_absent


def test_polynomial_of_relion_holds_a_field_of_its_own_kind_and_changes_its_sign(tmp_path):
    n, shape = 20, (400, 500)
    rng = np.random.default_rng(4)
    coefficients = rng.normal(0, 1, (2, 6, 3)) / np.array([20.0, 400.0, 8000.0])
    points = np.stack(np.meshgrid(np.linspace(0, 399, 9), np.linspace(0, 499, 9)), -1).reshape(-1, 2)
    shift = evaluate_relion_polynomial(coefficients.reshape(-1), points, shape, n)
    modes = np.linalg.lstsq(mode_values(points, shape, 2), -shift.reshape(len(points), -1), rcond=None)[0]
    field = MotionField(modes.reshape(6, n, 2), shape, 2, np.eye(6 * n))
    # RELION adds the global shift, ours is the mean over the frame: both add up to minus the displacement
    whole = evaluate_relion_polynomial(relion_polynomial(field), points, shape, n) - field.trajectory_px
    np.testing.assert_allclose(whole, -field.at(points), atol=1e-6)
    path = tmp_path / "m.star"
    write_motion_file(path, field, MovieFacts("m.tif", 1.0, 300.0), hot_pixels=np.array([[3, 4]]))
    star = read_star(path)
    assert len(star["local_motion_model"]) == 36
    shift_x = star["global_shift"].numbers("rlnMicrographShiftX")
    np.testing.assert_allclose(shift_x, -modes[0].reshape(n, 2)[:, 1], atol=1e-5)
    assert star["hot_pixels"].numbers("rlnCoordinateX")[0] == 4


@pytest.mark.capability("FOR-1")
def test_orientation_and_operation_of_a_gain_are_found_before_anything_is_corrected(tmp_path, measure):
    """8 orientations x 2 operations x 4 movies that differ in counts, frames and spread of the gain."""
    n, right = 0, 0
    kinds = ((0.5, 12, 0.05), (1.0, 8, 0.03), (4.0, 8, 0.08), (0.1, 40, 0.06))
    for case, (counts, n_frames, spread) in enumerate(kinds):
        rng = np.random.default_rng(70 + case)
        gain = rng.normal(1, spread, (288, 288)).clip(0.4).astype(np.float32)
        gain[:, 140:142] *= 1.1
        gain[40:43, 60:64] = 0
        for divide in (False, True):
            sensitivity = gain if divide else np.divide(1, gain, out=np.zeros_like(gain), where=gain > 0)
            scene = 1 + 0.1 * np.sin(np.arange(288) / 9.0)[:, None]
            frames = rng.poisson(counts * sensitivity * scene, (n_frames, 288, 288)).astype(np.uint8)
            write_mrc(tmp_path / "movie.mrcs", frames.astype(np.int16), 1.0, kind="stack")
            movies = MovieSet(
                path=np.asarray([str(tmp_path / "movie.mrcs")]), optics=(Optics(pixel_size=1.0),),
                optics_index=np.zeros(1, np.int64),
            )  # fmt: skip
            for flip in (0, 2):
                for rotation in range(4):
                    # the reference lies such that this turn and flip bring it back
                    given = np.rot90(gain[:, ::-1] if flip == 2 else gain, rotation)
                    write_mrc(tmp_path / "gain.mrc", np.ascontiguousarray(given), 1.0)
                    recipe, choice = choose_gain(movies, tmp_path / "gain.mrc", MotionSettings())
                    n += 1
                    right += (recipe.rotation, recipe.flip, bool(recipe.divide)) == (rotation, flip, divide) and (
                        choice is not None and choice.is_certain
                    )
    measure(right, unit=f"of {n}", threshold=f"{n} (100 %)", note="8 orientations x multiply/divide x 4 kinds of movie")
    assert right == n == 64

"""Coordinates of other pickers: corners become centres, scales are asked for."""

import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.data import PickSet
from cryoloom.io.coordinates import match_micrographs, read_coordinates, write_box, write_topaz

CBOX = """
data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
10.0 20.0 <NA> 100.0 60.0 1 99 99 0.75 <NA> <NA>
-5.0 0.5 <NA> 100.0 60.0 1 99 99 0.5 <NA> <NA>
"""


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_boxes_of_eman_become_centres(tmp_path):
    picks = read_coordinates(write(tmp_path, "m1.box", "10\t20\t100\t60\n-5 0.5 100 60 \n"))
    assert picks.position_px.tolist() == [[50, 60], [30.5, 45]] and picks.micrograph.tolist() == ["m1", "m1"]


def test_boxes_of_cryolo_become_centres(tmp_path):
    picks = read_coordinates(write(tmp_path, "m1.cbox", CBOX))
    assert picks.position_px.tolist() == [[50, 60], [30.5, 45]] and picks.score.tolist() == [0.75, 0.5]


def test_topaz_tables_need_their_scale(tmp_path):
    path = write(tmp_path, "t.txt", "image_name\tx_coord\ty_coord\tscore\nm 1\t10\t20\t1.5\nm2\t3\t4\t-2\n")
    with pytest.raises(InputError, match="scale"):
        read_coordinates(path)
    picks = read_coordinates(path, scale=8)
    assert picks.position_px.tolist() == [[160, 80], [32, 24]] and picks.score.tolist() == [1.5, -2]
    assert picks.micrograph.tolist() == ["m 1", "m2"]
    found = match_micrographs(picks, ["a/m 1.mrc", "a/m2.mrc", "a/m3.mrc"])
    assert found.micrograph.tolist() == ["a/m 1.mrc", "a/m2.mrc"] and len(found.micrographs) == 3
    with pytest.raises(InputError, match="no micrograph has this name"):
        match_micrographs(picks, ["a/m2.mrc"])
    with pytest.raises(InputError, match="2 micrographs have"):
        match_micrographs(picks, ["a/m 1.mrc", "b/m 1.mrc", "a/m2.mrc"])


def test_written_coordinates_are_read_again(tmp_path):
    rng = np.random.default_rng(0)
    picks = PickSet(
        position_px=np.round(rng.uniform(0, 4000, (7, 2)), 2), score=rng.normal(size=7),
        micrograph=np.array(["x/a.mrc"] * 4 + ["x/b.mrc"] * 3, dtype=object),
    )  # fmt: skip
    for path, rows in zip(write_box(picks, tmp_path, 64), (slice(0, 4), slice(4, 7)), strict=True):
        np.testing.assert_allclose(read_coordinates(path).position_px, picks.position_px[rows], atol=0.011)
    write_topaz(picks, tmp_path / "t.txt", scale=4)
    again = read_coordinates(tmp_path / "t.txt", scale=4)
    np.testing.assert_allclose(again.position_px, picks.position_px, atol=0.021)
    assert again.score.tolist() == picks.score.tolist()


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.box", "1 2 3\n", "line 1: 3 numbers"),
        ("a.box", "1 2 0 5\n", "line 1: a box of 0 x 5"),
        ("a.box", "1 2 x 5\n", "line 1: expected numbers"),
        ("a.box", "", "empty"),
        ("a.cbox", "data_global\n_v 1\n", "no table 'cryolo'"),
        ("a.cbox", CBOX.replace("<NA> 100", "7 100"), "tomogram"),
        ("a.txt", "x y\n1 2\n", "no Topaz table"),
        ("a.txt", "image_name\tx_coord\ty_coord\nm\t1\n", "line 2: 2 values"),
        ("a.txt", "image_name\tx_coord\ty_coord\nm\t1\tnan\n", "line 2: a number is NaN"),
        ("a.xyz", "1 2\n", "unknown coordinate format"),
    ],
)
def test_wrong_files_are_refused_with_their_line(tmp_path, name, text, words):
    with pytest.raises(InputError, match=words):
        read_coordinates(write(tmp_path, name, text), scale=1)

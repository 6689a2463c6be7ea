"""Coordinates of other pickers, in the form that those write: corners become centres, scales are asked for."""

import numpy as np
import pytest

from cryoloom.contract import InputError
from cryoloom.data import PickSet
from cryoloom.io.coordinates import match_micrographs, read_coordinates, write_box, write_topaz
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import read_picks
from cryoloom.project.runner import run_stage

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

# relion_autopick, relion_manualpick (which writes -999 where nothing was measured), and crYOLO's STAR
AUTOPICK = """
# version 30001

data_

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnAutopickFigureOfMerit #3
_rlnClassNumber #4
_rlnAnglePsi #5
  812.500000   301.250000     0.712345            2    45.000000
"""
MANUALPICK = """
# version 30001

data_

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnClassNumber #3
_rlnAnglePsi #4
_rlnAutopickFigureOfMerit #5
  812.500000   301.250000         -999  -999.000000  -999.000000
  100.000000    50.000000         -999  -999.000000  -999.000000
"""
CRYOLO_STAR = """

data_

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
812.5 301.25
100.0 50.0
"""
# a filament of crYOLO, whose boxes carry its number; the list of slices at the end is for tomograms
CRYOLO_FILAMENT = (
    CBOX.replace("_Angle #11", "_Angle #11\n_filamentid #12").replace("<NA> <NA>\n", "<NA> <NA> 3\n")
    + """
data_cryolo_include

loop_
_slice_index #1
"""
)


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_boxes_of_eman_become_centres(tmp_path):
    picks = read_coordinates(write(tmp_path, "m1.box", "10\t20\t100\t60\n-5 0.5 100 60 \n"))
    assert picks.position_px.tolist() == [[50, 60], [30.5, 45]] and picks.micrograph.tolist() == ["m1", "m1"]


def test_boxes_of_cryolo_become_centres(tmp_path):
    picks = read_coordinates(write(tmp_path, "m1.cbox", CBOX))
    assert picks.position_px.tolist() == [[50, 60], [30.5, 45]] and picks.score.tolist() == [0.75, 0.5]


def test_boxes_of_cryolo_before_its_star_form_become_centres(tmp_path):
    picks = read_coordinates(write(tmp_path, "m1.cbox", "10 20 100 60 0.75 99 99\n-5 0.5 100 60 0.5 99 99\n"))
    assert picks.position_px.tolist() == [[50, 60], [30.5, 45]] and picks.score.tolist() == [0.75, 0.5]


def test_filaments_of_cryolo_keep_their_number(tmp_path):
    picks = read_coordinates(write(tmp_path, "m1.cbox", CRYOLO_FILAMENT))
    assert picks.position_px.tolist() == [[50, 60], [30.5, 45]]
    assert picks.extra["cboxfilamentid"].tolist() == ["3", "3"]


def test_boxes_of_eman_may_be_marked_as_particles(tmp_path):
    picks = read_coordinates(write(tmp_path, "m1.box", "10\t20\t100\t60\t-3\n"))
    assert picks.position_px.tolist() == [[50, 60]]


def test_info_files_of_eman_hold_centres(tmp_path):
    text = '{"ctf_frame": [256, null], "boxes": [[812.5, 301.25, "manual"], [100, 50, "auto_local", 0.3]]}'
    picks = read_picks(write(tmp_path, "m1_info.json", text))
    assert picks.position_px.tolist() == [[301.25, 812.5], [50, 100]] and picks.micrograph.tolist() == ["m1", "m1"]


def test_stars_of_relion_and_cryolo_hold_centres_and_no_values_that_were_never_set(tmp_path):
    picks = read_picks(write(tmp_path, "m1_autopick.star", AUTOPICK))
    assert picks.position_px.tolist() == [[301.25, 812.5]] and picks.micrograph.tolist() == ["m1"]
    assert picks.score.tolist() == [0.712345] and picks.class_number.tolist() == [2]
    assert picks.psi[0] == pytest.approx(-np.pi / 4)
    for name, text in (("m1_manualpick.star", MANUALPICK), ("m1.star", CRYOLO_STAR)):
        picks = read_picks(write(tmp_path, name, text))
        assert picks.position_px.tolist() == [[301.25, 812.5], [50, 100]] and picks.micrograph.tolist() == ["m1", "m1"]
        assert picks.score is None and picks.psi is None and picks.class_number is None


def cs_picks(path, micrograph):
    """What a picker of cryoSPARC writes for a micrograph of 400 x 800 pixels (rows, columns)."""
    fields = [
        ("uid", "<u8"), ("location/exp_group_id", "<u4"), ("location/micrograph_uid", "<u8"),
        ("location/micrograph_path", f"S{len(micrograph)}"), ("location/micrograph_shape", "<u4", (2,)),
        ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"), ("location/micrograph_psize_A", "<f4"),
        ("location/min_dist_A", "<f4"), ("pick_stats/ncc_score", "<f4"), ("pick_stats/power", "<f4"),
        ("pick_stats/template_idx", "<u4"), ("pick_stats/angle_rad", "<f4"),
    ]  # fmt: skip
    table = np.zeros(1, fields)
    table[0] = (7, 1, 9, micrograph.encode(), (400, 800), 0.25, 0.75, 1.5, 90, 0.5, 200, 2, 0.5)
    np.save(path.with_suffix(".npy"), table)
    path.with_suffix(".npy").rename(path)
    return path


def test_picks_of_cryosparc_count_rows_from_the_last_one(tmp_path):
    write_mrc(tmp_path / "m1.mrc", np.zeros((400, 800), np.float32), 1.5)
    path = cs_picks(tmp_path / "picked_particles.cs", str(tmp_path / "m1.mrc"))
    picks = read_picks(path)
    assert picks.position_px.tolist() == [[100, 200]] and picks.micrograph.tolist() == [str(tmp_path / "m1.mrc")]
    assert picks.score.tolist() == [0.5] and picks.class_number.tolist() == [3] and picks.psi.tolist() == [-0.5]


def test_the_command_converts_picks_of_cryosparc_and_back(tmp_path):
    write_mrc(tmp_path / "m1.mrc", np.zeros((400, 800), np.float32), 1.5)
    path = cs_picks(tmp_path / "picked_particles.cs", str(tmp_path / "m1.mrc"))
    job = run_stage("convert", {"files": path}, {"to": "star"}, out=tmp_path / "star")
    back = run_stage("convert", {"files": job["picks"]}, {"to": "cs"}, out=tmp_path / "cs")
    before, after = np.load(path), np.load(back.folder / "picks.cs")
    for name in ("center_x_frac", "center_y_frac", "micrograph_shape", "micrograph_path"):
        np.testing.assert_array_equal(after[f"location/{name}"], before[f"location/{name}"])
    for name in ("ncc_score", "template_idx"):
        np.testing.assert_array_equal(after[f"pick_stats/{name}"], before[f"pick_stats/{name}"])
    np.testing.assert_allclose(after["pick_stats/angle_rad"], before["pick_stats/angle_rad"], atol=1e-6)
    (tmp_path / "m1.mrc").unlink()
    with pytest.raises(InputError, match="give --micrographs"):
        run_stage("convert", {"files": job["picks"]}, {"to": "cs"}, out=tmp_path / "gone")


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
        ("a.box", "1 2 5 5 -1\n40 50 5 5 -2\n", "line 1: the end of a filament"),
        ("a.cbox", "1 2 5 5\n", "line 1: 4 numbers"),
        ("a.json", '{"ctf": 1}', "no list 'boxes'"),
        ("a.json", '{"boxes": [[1]]}', "box 1: expected x, y"),
        ("a.json", "1 2", "cannot be read as JSON"),
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

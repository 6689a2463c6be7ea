"""STAR syntax: what RELION writes, what people write, and what nobody should."""

import numpy as np
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoloom.contract import InputError
from cryoloom.io.star import StarTable, read_star, write_star

TWO_BLOCKS = """
# version 30001

data_general

_rlnFinalResolution    3.25
_rlnMaskName  "my mask.mrc"

data_particles

loop_
_rlnImageName #1
_rlnDefocusU #2
_rlnClassNumber #3
000001@a.mrcs   12345.678900   1
000002@a.mrcs   -0.5           2
"""


@pytest.fixture(params=["small tables", "large tables"], autouse=True)
def both_ways_through_the_rows(request, monkeypatch):
    """Large tables take a compiled pass; every test runs through it too."""
    if request.param == "large tables":
        monkeypatch.setattr("cryoloom.io.star._LARGE", -1)


def read_text(tmp_path, text):
    (tmp_path / "a.star").write_bytes(text.encode() if isinstance(text, str) else text)
    return read_star(tmp_path / "a.star")


def test_lists_and_loops_are_read(tmp_path):
    star = read_text(tmp_path, TWO_BLOCKS)
    assert star.version == 30001 and list(star) == ["general", "particles"]
    assert star["general"] == {"rlnFinalResolution": "3.25", "rlnMaskName": "my mask.mrc"}
    table = star["particles"]
    assert table.labels == ["rlnImageName", "rlnDefocusU", "rlnClassNumber"] and len(table) == 2
    assert table.numbers("rlnDefocusU").tolist() == [12345.6789, -0.5]
    assert table.integers("rlnClassNumber").tolist() == [1, 2]
    assert table.text("rlnImageName").tolist() == ["000001@a.mrcs", "000002@a.mrcs"]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("data_general\n\n", "data_general\n"),
        lambda t: t.replace("   12345", "\t12345").replace("   1\n", " \t 1   \n"),
        lambda t: t.rstrip("\n"),
        lambda t: t + "\n\n# end\n",
        lambda t: t.replace("loop_\n", "loop_ \n"),
        lambda t: t.replace(" #1", "").replace(" #2", " # second"),
        lambda t: t.replace("000001@", "  000001@"),
        lambda t: "\ufeff" + t,
        lambda t: t.replace("my mask.mrc", "my mask.mrc").replace('"', "'"),
        lambda t: t.replace("-0.5           2", "-0.5           2 # remark"),
        lambda t: t.replace("000002@a.mrcs", '"000002@a.mrcs"'),
        lambda t: t.replace("data_particles\n\nloop_", "data_particles\nloop_"),
        lambda t: t.replace("_rlnMaskName", "; remark\n_rlnMaskName"),
    ],
)
def test_the_same_content_is_read_in_other_clothes(tmp_path, change):
    star = read_text(tmp_path, change(TWO_BLOCKS))
    assert star["general"]["rlnMaskName"] == "my mask.mrc"
    assert star["particles"].numbers("rlnDefocusU").tolist() == [12345.6789, -0.5]
    assert star["particles"].text("rlnImageName").tolist() == ["000001@a.mrcs", "000002@a.mrcs"]


def test_windows_line_ends_are_read_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="line ends"):
        star = read_text(tmp_path, TWO_BLOCKS.replace("\n", "\r\n"))
    assert len(star["particles"]) == 2


def test_a_loop_may_be_followed_by_a_block_without_an_empty_line(tmp_path):
    star = read_text(tmp_path, "data_\nloop_\n_a\n1\n2\ndata_b\nloop_\n_c\n3\n \ndata_d\n_e 5\n")
    assert len(star[""]) == 2 and len(star["b"]) == 1 and star["d"] == {"e": "5"}


def test_a_table_without_rows_is_a_table(tmp_path):
    star = read_text(tmp_path, "data_x\n\nloop_\n_a #1\n_b #2\n\ndata_y\n_c 1\n")
    assert len(star["x"]) == 0 and star["x"].labels == ["a", "b"] and star["y"] == {"c": "1"}


def test_quotes_comments_and_single_quoted_cistem_names_are_understood(tmp_path):
    star = read_text(tmp_path, "data_\nloop_\n_a\n_b\n_c\n#   A  B  C\n'my file.mrc' 2 \"\"\nplain# 3 it's\n")
    table = star[""]
    assert table.text("a").tolist() == ["my file.mrc", "plain#"]
    assert table.text("c").tolist() == ["", "it's"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty"),
        (" \n\n", "empty"),
        ("hello", "data_"),
        ("_rlnA 1\n", "data_"),
        ("data_a\nloop_\n_a\n_a\n1 2\n", "twice"),
        ("data_a\nloop_\n_a\n_b\n1 2\n3\n", "line 6: 1 values for 2 columns"),
        ("data_a\nloop_\n_a\n_b\n1 2\n3 4 5\n", "line 6: 3 values for 2 columns"),
        ("data_a\nloop_\n\n", "without columns"),
        ("data_a\nloop_\n_a\n1\n\n2\n", "outside a table"),
        ("data_a\n_b\n", "0 values"),
        ("data_a\n_b 1 2\n", "2 values"),
        ("data_a\n_b 1\n_b 2\n", "twice"),
        (b"data_a\nloop_\n_a\n\xff\xfe\n", "line 4: not UTF-8"),
        (b"\x93NUMPY\x01\x00", "binary"),
        (b"abc\0def", "binary"),
    ],
)
def test_wrong_files_are_refused_with_place_and_reason(tmp_path, text, words):
    with pytest.raises(InputError, match=words) as caught:
        read_text(tmp_path, text)
    assert "a.star" in str(caught.value)


def test_wrong_numbers_are_named_with_row_and_column(tmp_path):
    table = read_text(tmp_path, "data_a\nloop_\n_rlnX\n_rlnY\n1.5 1\n2,5 1.5\n")["a"]
    with pytest.raises(
        InputError, match="row 2: _rlnX is '2,5', expected a number; write numbers with a decimal point"
    ):
        table.numbers("rlnX")
    with pytest.raises(InputError, match="row 2: _rlnY is 1.5, expected a whole number"):
        table.integers("rlnY")
    with pytest.raises(InputError, match="column _rlnZ is missing"):
        table.numbers("rlnZ")


def test_whole_numbers_may_be_written_with_a_fraction(tmp_path):
    table = read_text(tmp_path, "data_a\nloop_\n_x\n1.000000\n2\n")["a"]
    assert table.integers("x").tolist() == [1, 2]


def test_unknown_columns_take_the_type_that_keeps_their_value(tmp_path):
    text = "data_a\nloop_\n_i\n_f\n_t\n_lead\n_big\n1 1.5 a 007 15494748553812943456\n-2 2e3 b 010 1\n"
    table = read_text(tmp_path, text)["a"]
    assert table.best("i").dtype == np.int64 and table.best("f").tolist() == [1.5, 2000.0]
    assert table.best("t").tolist() == ["a", "b"] and table.best("lead").tolist() == ["007", "010"]
    assert table.best("big").tolist() == ["15494748553812943456", "1"]


def test_what_is_written_starfile_reads(tmp_path):
    columns = {
        "rlnImageName": np.array(["000001@a b.mrcs", "000002@c.mrcs"], dtype=object),
        "rlnDefocusU": np.array([1e-7, 12345.678901234567]),
        "rlnGroupNumber": np.array([3, -4]),
    }
    write_star(tmp_path / "a.star", {"general": {"rlnName": "two words", "rlnValue": 2.5}, "particles": columns})
    oracle = starfile.read(tmp_path / "a.star", always_dict=True)
    assert oracle["general"]["rlnName"] == "two words" and oracle["general"]["rlnValue"] == 2.5
    for label, values in columns.items():
        assert oracle["particles"][label].tolist() == values.tolist()
    assert (tmp_path / "a.star").read_text().count("# version 30001") == 2


def test_what_starfile_writes_is_read(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"rlnImageName": ["1@a.mrcs", "2@with space.mrcs"], "rlnDefocusU": [1.25, -2.5]})
    starfile.write({"optics": {"rlnVoltage": 300}, "particles": frame}, tmp_path / "a.star")
    star = read_star(tmp_path / "a.star")
    assert star["particles"].text("rlnImageName").tolist() == frame["rlnImageName"].tolist()
    assert star["particles"].numbers("rlnDefocusU").tolist() == [1.25, -2.5]


NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12).filter(
    lambda t: not ('"' in t and "'" in t) and not any(c.isspace() and c != " " for c in t)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(
            st.lists(NAMES, min_size=n, max_size=n),
            st.lists(st.floats(allow_nan=False), min_size=n, max_size=n),
            st.lists(st.integers(-(2**53), 2**53), min_size=n, max_size=n),
        )
    )
)
def test_any_table_survives_a_round_trip(tmp_path_factory, columns):
    names, floats, integers = columns
    path = tmp_path_factory.mktemp("star") / "a.star"
    blocks = {"t": {"name": np.array(names, dtype=object), "f": np.array(floats), "i": np.array(integers)}}
    write_star(path, blocks)
    table = read_star(path)["t"]
    assert table.text("name").tolist() == names
    assert table.numbers("f").tolist() == floats and table.integers("i").tolist() == integers
    write_star(path, {"t": table})
    assert read_star(path)["t"].frame.equals(table.frame)


@pytest.mark.parametrize("text", [TWO_BLOCKS, TWO_BLOCKS.replace("my mask.mrc", "x")])
def test_writing_what_was_read_keeps_every_value(tmp_path, text):
    star = read_text(tmp_path, text)
    write_star(tmp_path / "b.star", star, version=star.version)
    again = read_star(tmp_path / "b.star")
    assert again.version == star.version and list(again) == list(star)
    assert again["general"] == star["general"] and again["particles"].frame.equals(star["particles"].frame)


def test_every_public_star_file_survives_a_round_trip(tmp_path, shared_data):
    files = sorted(shared_data.rglob("*.star"))
    assert len(files) > 10
    for path in files:
        star = read_star(path)
        write_star(tmp_path / "a.star", star, version=star.version)
        again = read_star(tmp_path / "a.star")
        assert list(again) == list(star)
        for name, block in star.items():
            if isinstance(block, StarTable):
                assert again[name].frame.equals(block.frame), path.name
                oracle = starfile.read(path, always_dict=True, parse_as_string=block.labels)
                frame = oracle.get(name, oracle.get(name or 0))
                if frame is not None:
                    for label in block.labels:
                        assert frame[label].tolist() == block.text(label).tolist(), (path.name, label)
            else:
                assert again[name] == block

import json

import numpy as np

from cryoloom.project.journal import Journal


def test_finished_items_are_known_when_the_journal_is_read_again(tmp_path):
    journal = Journal(tmp_path / "items.jsonl")
    journal.add("a", result={"shift": np.array([1.5, 2.0]), "n": np.int64(3)})
    journal.add("b", cause="the file is cut short")
    again = Journal(tmp_path / "items.jsonl")
    assert again.done["a"]["result"] == {"shift": [1.5, 2.0], "n": 3}
    assert again.done["b"]["cause"] == "the file is cut short"


def test_a_line_cut_short_by_a_kill_is_dropped_and_written_over(tmp_path):
    path = tmp_path / "items.jsonl"
    journal = Journal(path)
    journal.add("a", result={"n": 1})
    with path.open("a") as file:
        file.write('{"key": "b", "resu')
    again = Journal(path)
    assert set(again.done) == {"a"}
    again.add("b", result={"n": 2})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_what_is_handed_out_equals_what_is_read_back(tmp_path):
    journal = Journal(tmp_path / "items.jsonl")
    entry = journal.add("a", result={"x": np.float32(0.1), "missing": float("nan")})
    assert entry["result"] == Journal(tmp_path / "items.jsonl").done["a"]["result"]
    assert entry["result"]["missing"] is None


def test_a_file_that_failed_is_tried_again_when_it_is_another(tmp_path):
    movie = tmp_path / "movie.tif"
    movie.write_bytes(b"torn")
    Journal(tmp_path / "items.jsonl").add(str(movie), cause="cut short")
    Journal(tmp_path / "items.jsonl").add("number 3", cause="unlucky")
    read = Journal(tmp_path / "items.jsonl")
    assert read.is_settled(str(movie)) and read.is_settled("number 3") and not read.is_settled("number 4")
    movie.write_bytes(b"whole now")
    assert not read.is_settled(str(movie))
    read.add(str(movie), result={"frames": 4})
    movie.write_bytes(b"touched after it was done")
    again = Journal(tmp_path / "items.jsonl")
    assert again.is_settled(str(movie)) and again.done[str(movie)]["result"] == {"frames": 4}

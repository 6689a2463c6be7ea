"""Every kind of figure is drawn, and pages hold together, say the verdict first and need no network."""

import json
import re

import numpy as np
import pytest
import scipy.ndimage
import torch

from cryoloom.contract import Figure
from cryoloom.geometry import random_rotations
from cryoloom.project.figures import save_figure
from cryoloom.report.draw import draw_figure
from cryoloom.report.job import split_series, write_job_report
from cryoloom.report.labels import duration, rank_reasons, rank_warnings, with_title
from cryoloom.report.page import make_piece
from cryoloom.report.pictures import surface_pictures
from cryoloom.report.plots import format_value
from cryoloom.report.project import write_project_report
from cryoloom.report.sphere import direction_density
from cryoloom.report.surface import _march, oblique_rotation, render_surface, view_rotations, without_dust


def ball(box: int = 40, radius: float = 10.0, centre=(20, 20, 20)) -> np.ndarray:
    z, y, x = np.mgrid[:box, :box, :box]
    distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


def all_figures() -> list[Figure]:
    rng = np.random.default_rng(0)
    x = np.linspace(0.01, 0.3, 40)
    rotations = random_rotations(500, torch.Generator().manual_seed(0)).numpy()
    fsc = np.exp(-20 * x)
    curve = {
        "x": x,
        "y": {"corrected": fsc},
        "lines": {"0.143": 0.143},
        "bands": {"corrected": np.stack([fsc - 0.1, fsc + 0.1])},
        "mark": 0.1,
        "resolution_axis": True,
    }
    picks = {
        "image": rng.normal(size=(60, 80)),
        "points": np.array([[10.0, 20.0]]),
        "values": np.array([0.5]),
        "radius": 6.0,
        "pixel_size": 2.0,
    }
    classes = {"images": rng.normal(size=(5, 16, 16)), "labels": [f"c{i}" for i in range(5)]}
    planes = rng.normal(5, 1, size=(3, 16, 16))
    planes[:, :4] = np.nan
    one_scale = {"images": planes, "labels": ["xy", "xz", "yz"], "scale": "local resolution (Å)"}
    return [
        Figure("fsc", "curves", "FSC", "Look at 0.143.", "Resolution", "FSC", curve),
        Figure("picks_1", "image", "Picks", data=picks),
        Figure("scaled", "gallery", "On one scale", data=one_scale),
        Figure("classes", "gallery", "Classes", data=classes),
        Figure("scores", "histogram", "Scores", data={"values": rng.normal(size=300), "lines": {"threshold": 1.0}}),
        Figure("track", "scatter", "Track", data={"x": x, "y": x**2, "values": x, "connect": True}),
        Figure("views", "orientations", "Views", data={"rotations": rotations}),
        Figure("table", "table", "Table", data={"columns": {"name": ["a<b", "c"], "value": [1.5, 20000]}}),
        Figure("map", "volume", "Map", data={"volume": ball(), "pixel_size": 2.0, "level": 0.5}),
    ]


@pytest.mark.parametrize("figure", all_figures(), ids=lambda figure: figure.kind)
def test_each_kind_of_figure_is_drawn(figure, tmp_path):
    draw_figure(figure).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 2000
    assert "could not be drawn" not in make_piece(figure).body


def job(folder, stage, figures=(), **summary):
    folder.mkdir(parents=True)
    for figure in figures:
        save_figure(figure, folder)
    base = {"stage": stage, "verdict": "found", "reasons": [], "n_in": 10, "n_out": 9, "warnings": [], "left_out": []}
    (folder / "summary.json").write_text(json.dumps(base | {"seconds": 75.0} | summary), encoding="utf-8")
    record = {
        "stage": stage,
        "state": "finished",
        "started": "2026-01-02T03:04:05",
        "settings": {"box": None},
        "version": "0",
    }
    (folder / "job.json").write_text(json.dumps(record | {"inputs": {"x": ["a.star"]}}), encoding="utf-8")


def test_a_job_page_stands_alone_and_says_verdict_numbers_and_warnings(tmp_path):
    folder = tmp_path / "postprocess" / "001"
    job(
        folder, "postprocess", all_figures()[:-1], resolution=3.81, resolution_interval=[3.79, 3.84], bfactor=102.0,
        verdict="doubtful", reasons=["The mask <cuts> density."], warnings=["a small thing", "The mask cuts density"],
        left_out=[{"item": "mic7", "cause": "no rings"}],
    )  # fmt: skip
    page = write_job_report(folder).read_text(encoding="utf-8")
    assert "Look before you trust this map" in page and "3.81 Å resolution" in page and "95 %: 3.79 to 3.84" in page
    assert "The mask &lt;cuts&gt; density." in page and "mic7" in page and "found from the data" in page
    assert page.index("The mask cuts density") < page.index("a small thing")
    assert not re.search(r'(src|href)="https?:', page) and "<script" not in page
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    assert (folder / "fsc.png").exists() and not list(folder.glob(".*part*"))


def test_a_project_page_shows_every_step_in_order_and_the_last_map_on_top(tmp_path):
    job(tmp_path / "ctf" / "001", "ctf", all_figures()[:1])
    job(tmp_path / "postprocess" / "001", "postprocess", all_figures()[-1:], resolution=4.0, reasons=["Halves agree."])
    page = write_project_report(tmp_path).read_text(encoding="utf-8")
    assert "The map can be trusted" in page and "4.00 Å resolution" in page and "Halves agree." in page
    assert page.index(">Defocus<") < page.index(">Resolution and sharpening<")


def test_a_project_without_a_map_says_so(tmp_path):
    job(tmp_path / "ctf" / "001", "ctf")
    job(tmp_path / "ctf" / "002", "ctf")
    page = write_project_report(tmp_path).read_text(encoding="utf-8")
    assert "Not finished" in page and "No map yet" in page and "Defocus, round 2" in page
    (tmp_path / "summary.json").write_text('{"verdict": "not found", "reasons": ["Too few particles."]}')
    page = write_project_report(tmp_path).read_text(encoding="utf-8")
    assert "No structure was found" in page and "Too few particles." in page


def test_a_figure_that_cannot_be_drawn_does_not_spoil_the_page():
    piece = make_piece(Figure("bad", "curves", "Bad", data={"x": np.arange(3), "y": {"a": np.arange(5)}}))
    assert "could not be drawn" in piece.body


def test_a_series_shows_its_first_members_and_folds_the_rest():
    figures = [Figure(f"picks_{i}", "image", str(i)) for i in range(1, 6)] + [Figure("fsc", "curves", "FSC")]
    first, rest = split_series(figures)
    assert [f.name for f in first] == ["fsc", "picks_1", "picks_2", "picks_3"]
    assert [f.name for f in rest] == ["picks_4", "picks_5"]


def test_a_ball_is_rendered_as_a_disc_lit_from_above_left():
    picture = render_surface(ball(), 0.5, np.eye(3), size=100, oversample=1)
    inside = picture[..., 3] > 127
    radius = 100 / 2 * 10 / (10 + 2)  # the bounding sphere has a margin
    assert inside.sum() == pytest.approx(np.pi * radius**2, rel=0.12)
    gray = picture[..., :3].mean(-1)
    assert gray[30, 35] > gray[70, 65] + 15


def test_views_are_rotations_and_the_camera_sees_what_it_should():
    for _, rotation in view_rotations():
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
    # Two balls, one at large x: in the front view it is on the right; at large y it is on top.
    for centre, where in (((20, 20, 32), (50, 75)), ((20, 32, 20), (25, 50))):
        pair = np.maximum(ball(40, 4), ball(40, 4, centre))
        picture = render_surface(pair, 0.5, np.eye(3), size=100, oversample=1)
        rows, columns = np.nonzero(picture[..., 3] > 127)
        middle = (rows.max() + rows.min()) / 2, (columns.max() + columns.min()) / 2
        assert abs(middle[0] - 50) < 4 and abs(middle[1] - 50) < 4
        assert picture[where[0], where[1], 3] > 127


def test_leaping_over_empty_space_changes_no_pixel():
    shape = (30, 34, 38)
    points = (np.random.default_rng(0).random(shape) > 0.9995).astype(np.float32)
    volume = scipy.ndimage.gaussian_filter(points, 2.0) * 400
    rotation = oblique_rotation()
    centre, reach = (np.array(shape) - 1) / 2, 32.0
    clear = scipy.ndimage.distance_transform_cdt(volume <= 0.5, metric="chessboard").astype(np.int16)
    drawn = []
    for leaps in (clear, np.zeros_like(clear)):
        planes = [np.full((60, 60), np.nan, np.float32), *(np.zeros((60, 60, 3), np.float32) for _ in range(2))]
        _march(volume, leaps, 0.5, rotation, centre, reach, *planes)
        drawn.append(planes)
    assert 0.05 < np.isfinite(drawn[0][0]).mean() < 0.7 and clear.max() > 3
    for one, two in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_surface_at_another_size_is_the_same_picture():
    volume = ball()
    (_, large), *_ = surface_pictures(volume, 0.5, size=400)
    (_, small), *_ = surface_pictures(volume, 0.5, size=200)
    means = large.astype(float).reshape(200, 2, 200, 2, 4).mean((1, 3))
    whole = means[..., 3] > 250
    assert np.abs(means - small)[whole].mean() < 2 and small.shape == (200, 200, 4)


def test_dust_is_removed_and_the_body_stays():
    volume = np.maximum(ball(), ball(40, 1.5, (4, 4, 4)))
    clean = without_dust(volume, 0.5)
    assert clean[4, 4, 4] < 0.5 and (clean[10:30, 10:30, 10:30] == volume[10:30, 10:30, 10:30]).all()


def test_even_views_have_density_one_everywhere():
    rotations = random_rotations(40_000, torch.Generator().manual_seed(1)).numpy()
    places = np.array([[0, 0, 1.0], [1.0, 0, 0], [0, -1.0, 0]])
    np.testing.assert_allclose(direction_density(rotations[:, :, 2], places), 1.0, atol=0.15)
    top = np.repeat(np.array([[0.0, 0.0, 1.0]]), 10, axis=0)
    assert direction_density(top, places)[0] > 100 and direction_density(top, places)[1] < 1e-6


def test_messages_begin_with_the_heading_of_their_step():
    assert with_title("abinitio: 3 starts met") == "First map: 3 starts met"
    assert with_title("Note: this is no step") == "Note: this is no step" and with_title("refine") == "refine"


def test_numbers_are_written_for_people():
    assert format_value(12345) == "12\u202f345" and format_value(3.14159) == "3.14" and format_value(None) == "–"
    assert format_value([1.0, 2.5]) == "1, 2.5" and format_value(True) == "yes"
    assert duration(75) == ("75", "s") and duration(600) == ("10", "min") and duration(9000) == ("2.5", "h")
    assert [text for _, text in rank_warnings(["b", "The half maps share noise", "b"])] == [
        "The half maps share noise",
        "b",
    ]


def test_the_steps_that_measure_the_map_speak_first():
    said = ["motion: one movie is blurred", "abinitio: starts met", "refine: poses hold", "postprocess: halves agree"]
    assert rank_reasons(said) == [said[3], said[2], said[1], said[0]]


def test_answers_of_a_table_are_coloured_by_what_they_mean():
    figure = Figure("items", "table", "Items", data={"columns": {"answer": ["failed", "passed"]}, "marks": "answer"})
    body = make_piece(figure).body
    assert '<span class="mark bad">failed</span>' in body and '<span class="mark good">passed</span>' in body


def test_a_project_page_shows_its_evidence_on_top_and_a_warning_is_said_once(tmp_path):
    fsc = Figure("fsc", "curves", "FSC", data={"x": np.linspace(0, 0.3, 9), "y": {"corrected": np.linspace(1, 0, 9)}})
    job(tmp_path / "postprocess" / "001", "postprocess", [fsc], resolution=4.0, reasons=["Halves agree."])
    page = write_project_report(tmp_path).read_text()
    assert page.index("<h2>Why</h2>") < page.index("The way to the map") and page.count("<h3>FSC</h3>") == 2
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names))
    job(tmp_path / "validate" / "001", "validate", reasons=["It dips."], warnings=["It dips.", "It leans."])
    page = write_job_report(tmp_path / "validate" / "001").read_text()
    assert page.split("<h2>")[0].count("It dips.") == 1 and "It leans." in page
    assert "The map can be trusted" in page
    job(tmp_path / "validate" / "002", "validate", particles_asked=False)
    page = write_job_report(tmp_path / "validate" / "002").read_text()
    assert "particles were not asked" in page and "can be trusted" not in page

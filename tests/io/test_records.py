"""Sets to RELION tables and back: conventions pinned by hand, nothing lost on the way."""

from dataclasses import replace

import numpy as np
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cryoloom.contract import InputError
from cryoloom.data import FscCurve, MicrographSet, MovieSet, Optics, ParticleSet, PickSet
from cryoloom.io.mrc import write_mrc
from cryoloom.io.records import (
    read_fsc,
    read_micrographs,
    read_movies,
    read_particles,
    read_picks,
    write_coordinates,
    write_fsc,
    write_micrographs,
    write_movies,
    write_particles,
    write_picks,
)

OPTICS = (
    Optics(name="one", pixel_size=1.06, voltage_kv=200.0, cs_mm=1.4, amplitude_contrast=0.07, box=64),
    Optics(
        name="two", pixel_size=1.0612345, box=64, beam_tilt_mrad=(0.12, -0.34), odd_zernike=(0.0, 0.1, -0.2),
        even_zernike=(1.5, 2.5), magnification=((1.01, 0.002), (-0.003, 0.99)), original_pixel_size=0.53,
        mtf_path="mtf.star", hand=-1, ctf_premultiplied=True, phase_flipped=True,
        extra={"rlnUnknown": 7, "rlnText": "x y"},
    ),
)  # fmt: skip


def make_particles(n=20, seed=0, optics=OPTICS):
    rng = np.random.default_rng(seed)
    return ParticleSet(
        optics=optics,
        optics_index=rng.integers(0, len(optics), n),
        image_path=np.array([f"stacks/my stack {i // 7}.mrcs" for i in range(n)], dtype=object),
        image_index=np.arange(n) % 7,
        micrograph=np.array([f"mics/m{i // 5}.mrc" for i in range(n)], dtype=object),
        position_px=rng.uniform(0, 4000, (n, 2)),
        defocus_u=rng.uniform(5000, 30000, n),
        defocus_v=rng.uniform(5000, 30000, n),
        defocus_angle=rng.uniform(-np.pi, np.pi, n),
        phase_shift=rng.uniform(0, np.pi, n),
        ctf_bfactor=rng.uniform(0, 100, n),
        ctf_scale=rng.uniform(0.5, 1, n),
        rotation=Rotation.random(n, random_state=seed).as_matrix(),
        shift=rng.normal(0, 5, (n, 2)),
        class_number=rng.integers(0, 5, n),
        half=rng.integers(1, 3, n),
        scale=rng.uniform(0.8, 1.2, n),
        log_likelihood=rng.normal(0, 1e4, n),
        posterior_max=rng.uniform(0, 1, n),
        n_significant=rng.uniform(1, 100, n),
        pose_error=rng.uniform(0, 0.1, n),
        shift_error=rng.uniform(0, 1, n),
        pose_radius=rng.uniform(0, 1, n),
        shift_radius=rng.uniform(0, 1, n),
        reliability=rng.uniform(0, 1, n),
        pick_score=rng.normal(0, 1, n),
        junk_score=rng.uniform(0, 1, n),
        extra={
            "rlnGroupName": np.array([f"group {i % 3}" for i in range(n)], dtype=object),
            "rlnNormCorrection": rng.uniform(0.5, 1.5, n),
            "rlnNrOfFrames": rng.integers(0, 50, n),
        },
    )


def assert_equal_sets(a, b, angle=1e-8):
    assert a.columns().keys() == b.columns().keys()
    for name, column in a.columns().items():
        other = b.columns()[name]
        if name in ("rotation", "defocus_angle", "phase_shift", "psi", "pose_error", "pose_radius"):
            np.testing.assert_allclose(other, column, atol=angle, err_msg=name)
        else:
            assert np.asarray(other).tolist() == np.asarray(column).tolist(), name
    assert getattr(a, "optics", None) == getattr(b, "optics", None)


def test_particles_survive_a_round_trip_with_all_columns(tmp_path):
    particles = make_particles()
    write_particles(particles, tmp_path / "a.star")
    again = read_particles(tmp_path / "a.star")
    padded = again.optics[0]
    assert padded.odd_zernike == (0, 0, 0) and padded.even_zernike == (0, 0)  # one length for all groups
    assert padded.extra == {"rlnUnknown": 0, "rlnText": "0"}
    assert again.optics[1] == OPTICS[1]
    assert_equal_sets(particles, again.replace(optics=OPTICS))


def test_reading_writing_and_reading_is_equal_to_the_bit(tmp_path):
    write_particles(make_particles(300), tmp_path / "a.star")
    first = read_particles(tmp_path / "a.star")
    write_particles(first, tmp_path / "b.star")
    assert (tmp_path / "a.star").read_text().split("data_particles")[1] == (
        (tmp_path / "b.star").read_text().split("data_particles")[1]
    )


def test_the_table_has_the_labels_and_signs_of_relion(tmp_path):
    euler = np.array([[-130.25, 71.5, 33.125], [10.0, 120.0, -170.0]])
    matrix = Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix()
    particles = ParticleSet(
        optics=(Optics(pixel_size=1.5, box=8),), optics_index=np.zeros(2, int),
        image_path=np.array(["a.mrcs", "b.mrc"]), image_index=np.array([0, 41]),
        position_px=np.array([[10.0, 20.0], [30.5, 40.25]]), rotation=matrix, shift=np.array([[1.5, -2.5], [0, 3]]),
        phase_shift=np.deg2rad([0.0, 90.0]),
    )  # fmt: skip
    write_particles(particles, tmp_path / "a.star")
    table = starfile.read(tmp_path / "a.star")["particles"]
    assert table["rlnImageName"].tolist() == ["000001@a.mrcs", "000042@b.mrc:mrcs"]
    np.testing.assert_allclose(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]], euler, atol=1e-6)
    assert table["rlnOriginXAngst"].tolist() == [2.5, -3] and table["rlnOriginYAngst"].tolist() == [-1.5, 0]
    assert table["rlnCoordinateX"].tolist() == [20.0, 40.25] and table["rlnCoordinateY"].tolist() == [10.0, 30.5]
    assert table["rlnPhaseShift"].tolist() == [0, 90]


def test_rotations_follow_the_check_values_of_the_style_page(tmp_path):
    text = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n"
    text += "_rlnImagePixelSize\n_rlnImageSize\n1 300 2.7 0.1 1 8\n\ndata_particles\nloop_\n_rlnImageName\n"
    text += "_rlnOpticsGroup\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n"
    text += "1@a.mrcs 1 0 0 90\n2@a.mrcs 1 0 90 0\n3@a.mrcs 1 90 90 0\n"
    (tmp_path / "a.star").write_text(text)
    rotation = read_particles(tmp_path / "a.star").rotation
    where = np.einsum("nji,j->ni", rotation, [5.0, -3.0, 2.0])[:, :2]
    np.testing.assert_allclose(where, [[-3, -5], [-2, -3], [-2, -5]], atol=1e-12)


def test_the_2d_angle_has_the_opposite_sign_of_relions(tmp_path):
    particles = ParticleSet(
        optics=(Optics(box=8),), optics_index=np.zeros(2, int), image_path=np.array(["a.mrcs"] * 2),
        image_index=np.arange(2), psi=np.deg2rad([30.0, -60.0]), class_number=np.array([1, 2]),
    )  # fmt: skip
    write_particles(particles, tmp_path / "a.star")
    table = starfile.read(tmp_path / "a.star")["particles"]
    assert table["rlnAnglePsi"].tolist() == [-30.0, 60.0] and "rlnAngleRot" not in table
    again = read_particles(tmp_path / "a.star")
    assert again.rotation is None
    np.testing.assert_allclose(again.psi, particles.psi, atol=1e-9)


def test_the_pixel_size_of_coordinates_is_that_of_the_aligned_micrograph(tmp_path):
    optics = Optics(box=8, pixel_size=2.12, original_pixel_size=1.06, extra={"rlnMicrographOriginalPixelSize": 0.53})
    write_particles(make_particles(3, optics=(optics,)), tmp_path / "a.star")
    table = starfile.read(tmp_path / "a.star", always_dict=True)["optics"]
    assert table["rlnMicrographPixelSize"].tolist() == [1.06]
    assert table["rlnMicrographOriginalPixelSize"].tolist() == [0.53]
    assert read_particles(tmp_path / "a.star").optics == (optics,)


def test_a_table_of_2d_classes_from_relion_gives_both_angles(tmp_path):
    particles = make_particles(5)
    flat = Rotation.from_euler("Z", np.array([[10], [20], [30], [40], [50]]), degrees=True).as_matrix()
    write_particles(particles.replace(rotation=flat), tmp_path / "a.star")
    again = read_particles(tmp_path / "a.star")
    np.testing.assert_allclose(again.rotation, flat, atol=1e-8)
    np.testing.assert_allclose(np.rad2deg(again.psi), [-10, -20, -30, -40, -50], atol=1e-6)
    both = particles.replace(psi=np.linspace(0, 1, 5))
    write_particles(both, tmp_path / "b.star")
    np.testing.assert_allclose(read_particles(tmp_path / "b.star").psi, both.psi, atol=1e-9)


OLD = """
data_images

loop_
_rlnVoltage #1
_rlnSphericalAberration #2
_rlnAmplitudeContrast #3
_rlnMagnification #4
_rlnDetectorPixelSize #5
_rlnImageName #6
_rlnMicrographName #7
_rlnOriginX #8
_rlnOriginY #9
_rlnMyColumn #10
300.0 2.7 0.1 50000.0 5.0 000001@a.mrcs m1.mrc 2.0 -3.0 yes
300.0 2.7 0.1 25000.0 5.0 000002@a.mrcs m1.mrc 2.0 -3.0 no
300.0 2.7 0.1 50000.0 5.0 000003@a.mrcs m1.mrc 0.0 1.0 007
"""


def test_an_old_table_gets_one_optics_group_per_set_of_values(tmp_path):
    (tmp_path / "a.star").write_text(OLD)
    particles = read_particles(tmp_path / "a.star")
    assert [group.pixel_size for group in particles.optics] == [1.0, 2.0]
    assert particles.optics_index.tolist() == [0, 1, 0]
    assert particles.shift.tolist() == [[3.0, -2.0], [6.0, -4.0], [-1.0, 0.0]]
    assert particles.extra["rlnMyColumn"].tolist() == ["yes", "no", "007"]
    write_particles(particles, tmp_path / "b.star")
    again = read_particles(tmp_path / "b.star")
    assert_equal_sets(particles, again)


def test_an_empty_optics_group_column_is_forgiven_for_one_group_only(tmp_path):
    write_particles(make_particles(3, optics=OPTICS[:1]), tmp_path / "a.star")
    text = (tmp_path / "a.star").read_text().replace("_rlnOpticsGroup #", "_rlnOther #")
    head, tail = text.split("data_particles")
    (tmp_path / "b.star").write_text(head.replace("_rlnOther", "_rlnOpticsGroup") + "data_particles" + tail)
    with pytest.warns(UserWarning, match="_rlnOpticsGroup"):
        assert read_particles(tmp_path / "b.star").optics_index.tolist() == [0, 0, 0]
    write_particles(make_particles(3), tmp_path / "a.star")
    text = (tmp_path / "a.star").read_text()
    head, tail = text.split("data_particles")
    (tmp_path / "c.star").write_text(head + "data_particles" + tail.replace("_rlnOpticsGroup #", "_rlnOther #"))
    with pytest.raises(InputError, match="2 groups"):
        read_particles(tmp_path / "c.star")


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("000001@a.mrcs", "a@a.mrcs", "row 1: _rlnImageName"),
        ("000001@a.mrcs", "000000@a.mrcs", "row 1: _rlnImageName"),
        (" 50000.0 ", " 0.0 ", "rlnMagnification"),
        ("_rlnMagnification", "_rlnMagnificatio", "no pixel size"),
        ("_rlnImageName", "_rlnImageNam", "no table with _rlnImageName"),
        ("_rlnVoltage", "_rlnVolt", "optics are unknown"),
        ("-3.0 yes", "-3,0 yes", "decimal point"),
        ("300.0 2.7 0.1 50000", "-300.0 2.7 0.1 50000", "voltage"),
        ("300.0 2.7 0.1 50000", "nan 2.7 0.1 50000", "rlnVoltage"),
    ],
)
def test_wrong_particle_tables_are_refused(tmp_path, old, new, words):
    assert old in OLD
    (tmp_path / "a.star").write_text(OLD.replace(old, new))
    with pytest.raises(InputError, match=words) as caught:
        read_particles(tmp_path / "a.star")
    assert "a.star" in str(caught.value)


def test_an_unknown_optics_group_is_named_with_its_row(tmp_path):
    write_particles(make_particles(4, optics=OPTICS[:1]), tmp_path / "a.star")
    text = (tmp_path / "a.star").read_text()
    head, tail = text.split("data_particles")
    (tmp_path / "a.star").write_text(head.replace("one 1 ", "one 9 ") + "data_particles" + tail)
    with pytest.raises(InputError, match="row 1: optics group 1 is not in the block 'optics'"):
        read_particles(tmp_path / "a.star")


def test_the_box_comes_from_the_stack_where_the_table_is_silent(tmp_path):
    write_mrc(tmp_path / "a.mrcs", np.zeros((3, 12, 12), np.float32), 1.0)
    (tmp_path / "a.star").write_text(OLD)
    assert [group.box for group in read_particles(tmp_path / "a.star").optics] == [12, 12]


def test_paths_are_found_from_the_project_the_folder_and_above(tmp_path, monkeypatch):
    project = tmp_path / "my project"
    (project / "Extract" / "job001").mkdir(parents=True)
    (project / "stacks").mkdir()
    stack = project / "stacks" / "a.mrcs"
    write_mrc(stack, np.zeros((3, 8, 8), np.float32), 1.0)
    text = OLD.replace("@a.mrcs", "@stacks/a.mrcs")
    (project / "Extract" / "job001" / "p.star").write_text(text)
    (tmp_path / "p.star").write_text(text)
    (project / "stacks" / "p.star").write_text(OLD)
    monkeypatch.chdir(tmp_path)
    for table, root in (
        ("my project/Extract/job001/p.star", None),
        ("p.star", project),
        ("my project/stacks/p.star", None),
    ):
        assert set(read_particles(table, root=root).image_path) == {str(stack)}
    assert set(read_particles("p.star").image_path) == {"stacks/a.mrcs"}  # not found: as it was
    particles = read_particles(project / "stacks" / "p.star")
    write_particles(particles, project / "out.star", root=project)
    assert "000001@stacks/a.mrcs" in (project / "out.star").read_text()
    moved = tmp_path / "moved"
    project.rename(moved)
    assert set(read_particles(moved / "out.star", root=moved).image_path) == {str(moved / "stacks" / "a.mrcs")}


def test_micrographs_survive_a_round_trip(tmp_path):
    rng = np.random.default_rng(1)
    n = 6
    names = {
        name: np.array([f"job/{name}_{i}.mrc" for i in range(n)], dtype=object)
        for name in ("path", "path_even", "path_odd", "path_undosed", "movie_path", "motion_path", "ctf_image",
                     "defocus_map")
    }  # fmt: skip
    values = {
        name: rng.uniform(1, 10, n)
        for name in ("motion_total", "motion_early", "motion_late", "dose", "defocus_u", "defocus_v", "defocus_error",
                     "ctf_score", "ctf_resolution", "defocus_angle", "phase_shift")
    }  # fmt: skip
    optics = (Optics(pixel_size=0.83, original_pixel_size=0.415),)
    micrographs = MicrographSet(
        optics=optics, optics_index=np.zeros(n, int), extra={"rlnX": np.arange(n)}, **names, **values
    )
    write_micrographs(micrographs, tmp_path / "m.star")
    assert_equal_sets(micrographs, read_micrographs(tmp_path / "m.star"))
    table = starfile.read(tmp_path / "m.star")["micrographs"]
    np.testing.assert_allclose(table["rlnCtfAstigmatism"], np.abs(values["defocus_u"] - values["defocus_v"]))


def test_movies_survive_a_round_trip(tmp_path):
    movies = MovieSet(
        optics=(Optics(pixel_size=0.5, voltage_kv=200),), optics_index=np.zeros(2, int),
        path=np.array(["raw/a b.tif", "raw/c.eer"], dtype=object), dose_per_frame=np.array([1.25, 1.0]),
        pre_exposure=np.array([0.0, 0.5]), gain_path=tmp_path / "gain.mrc", defect_path=tmp_path / "d.txt",
        extra={"eer_grouping": np.array([20, 20])},
    )  # fmt: skip
    write_movies(movies, tmp_path / "m.star", root=tmp_path)
    assert "_rlnEERGrouping #" in (tmp_path / "m.star").read_text()
    assert "gain.mrc" in (tmp_path / "m.star").read_text() and str(tmp_path) not in (tmp_path / "m.star").read_text()
    (tmp_path / "gain.mrc").touch()
    (tmp_path / "d.txt").touch()
    again = read_movies(tmp_path / "m.star", root=tmp_path)
    assert_equal_sets(movies, again)
    assert again.gain_path == movies.gain_path and again.defect_path == movies.defect_path


def test_picks_survive_a_round_trip_and_relion_finds_its_tables(tmp_path):
    rng = np.random.default_rng(2)
    picks = PickSet(
        micrograph=np.array(["m/a.mrc", "m/a.mrc", "m/c.mrc"], dtype=object), position_px=rng.uniform(0, 99, (3, 2)),
        score=rng.normal(size=3), probability=rng.uniform(size=3), psi=rng.uniform(-3, 3, 3),
        class_number=np.array([1, 2, 1]), diameter=123.0, micrographs=("m/a.mrc", "m/b.mrc", "m/c.mrc"),
    )  # fmt: skip
    write_picks(picks, tmp_path / "picks.star")
    again = read_picks(tmp_path / "picks.star")
    assert_equal_sets(picks, again)
    assert again.diameter == 123.0 and again.micrographs == picks.micrographs
    for name in ("a", "b", "c"):
        rows = [i for i, m in enumerate(picks.micrograph) if m == f"m/{name}.mrc"]
        write_coordinates(picks.select(rows), tmp_path / "coordinates" / f"{name}.star")
    write_picks(picks, tmp_path / "picks.star", root=tmp_path)
    tables = starfile.read(tmp_path / "picks.star", always_dict=True)
    assert tables["coordinate_files"]["rlnMicrographCoordinates"].tolist() == [f"coordinates/{n}.star" for n in "abc"]
    only = {"coordinate_files": tables["coordinate_files"]}
    starfile.write(only, tmp_path / "autopick.star")
    relion = read_picks(tmp_path / "autopick.star")
    np.testing.assert_allclose(relion.position_px, picks.position_px)
    assert relion.micrograph.tolist() == picks.micrograph.tolist() and relion.micrographs == picks.micrographs


def test_manual_picks_of_a_real_micrograph_are_read(real_data):
    picks = read_picks(real_data / "May08_03.05.02_manual.star")
    assert len(picks) == 145 and set(picks.micrograph) == {"May08_03.05.02"}
    assert picks.position_px[:, 0].max() < 1200 and picks.position_px[:, 1].max() < 1240


def test_no_picks_at_all_is_a_set(tmp_path):
    picks = PickSet(position_px=np.zeros((0, 2)), micrograph=np.zeros(0, object), micrographs=("a.mrc",))
    write_picks(picks, tmp_path / "p.star")
    again = read_picks(tmp_path / "p.star")
    assert len(again) == 0 and again.micrographs == ("a.mrc",)


def test_an_fsc_curve_survives_a_round_trip(tmp_path):
    n = 33
    rng = np.random.default_rng(0)
    curve = FscCurve(
        frequency=np.arange(n) / (64 * 1.5), corrected=rng.uniform(size=n), unmasked=rng.uniform(size=n),
        masked=rng.uniform(size=n), phase_randomised=rng.uniform(size=n), n_independent=rng.uniform(size=n),
        randomise_from=0.125,
    )  # fmt: skip
    write_fsc(curve, tmp_path / "fsc.star")
    again = read_fsc(tmp_path / "fsc.star")
    for name in ("frequency", "corrected", "unmasked", "masked", "phase_randomised", "n_independent"):
        assert getattr(again, name).tolist() == getattr(curve, name).tolist()
    assert again.randomise_from == 0.125
    write_fsc(FscCurve(curve.frequency, curve.corrected), tmp_path / "plain.star")
    assert read_fsc(tmp_path / "plain.star").masked is None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sets(st.sampled_from(ParticleSet.row_fields()), max_size=12))
def test_any_choice_of_columns_survives_a_round_trip(tmp_path_factory, seed, n, dropped):
    path = tmp_path_factory.mktemp("records") / "a.star"
    particles = make_particles(n, seed, optics=OPTICS[:1])
    dropped -= {"image_path", "image_index", "optics_index"}
    particles = particles.replace(**dict.fromkeys(dropped))
    write_particles(particles, path)
    assert_equal_sets(particles, read_particles(path))


def test_public_tables_of_relion_3_and_5_survive_a_round_trip(tmp_path, shared_data):
    n = 0
    for path in sorted(shared_data.rglob("*.star")):
        text = path.read_text()
        if "_rlnImageName" not in text or "_rlnVoltage" not in text:
            continue
        particles = read_particles(path)
        write_particles(particles, tmp_path / "a.star")
        assert_equal_sets(particles, read_particles(tmp_path / "a.star"), angle=2e-8)
        labels = {line.split()[0][1:] for line in text.splitlines() if line.startswith("_rln")}
        kept = {line.split()[0][1:] for line in (tmp_path / "a.star").read_text().splitlines() if line.startswith("_")}
        replaced = {"rlnOriginX", "rlnOriginY", "rlnMagnification", "rlnDetectorPixelSize", "rlnBeamTiltClass"}
        assert labels - kept <= replaced, path.name
        n += 1
    assert n >= 8


def test_the_mtf_of_an_optics_group_is_named_from_the_project_and_found_again(tmp_path):
    particles = make_particles()
    (tmp_path / "mtf.star").write_text("data_\n")
    optics = tuple(replace(group, mtf_path=str(tmp_path / "mtf.star")) for group in particles.optics)
    write_particles(replace(particles, optics=optics), tmp_path / "job" / "a.star", root=tmp_path)
    assert str(tmp_path) not in (tmp_path / "job" / "a.star").read_text().split("data_particles")[0]
    again = read_particles(tmp_path / "job" / "a.star", root=tmp_path)
    assert [group.mtf_path for group in again.optics] == [str(tmp_path / "mtf.star")] * len(optics)

"""cryoSPARC tables: fields to the words of the project, joins by uid, refusals."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoloom.contract import InputError
from cryoloom.data import MicrographSet, MovieSet
from cryoloom.io.cs import read_cs_exposures, read_cs_particles, read_cs_table
from cryoloom.io.records import read_particles, write_particles

FIELDS = [
    ("uid", "<u8"), ("blob/path", "S60"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)), ("blob/psize_A", "<f4"),
    ("blob/sign", "<f4"), ("ctf/exp_group_id", "<u4"), ("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"),
    ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4"),
    ("ctf/phase_shift_rad", "<f4"), ("ctf/tilt_A", "<f4", (2,)), ("ctf/trefoil_A", "<f4", (2,)),
    ("alignments3D/split", "<u4"), ("alignments3D/shift", "<f4", (2,)), ("alignments3D/pose", "<f4", (3,)),
    ("alignments3D/psize_A", "<f4"), ("alignments3D/class", "<u4"), ("alignments3D/alpha", "<f4"),
    ("location/micrograph_path", "S60"), ("location/micrograph_shape", "<u4", (2,)),
    ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"),
]  # fmt: skip


def make_table(n=12):
    rng = np.random.default_rng(0)
    table = np.zeros(n, FIELDS)
    table["uid"] = rng.permutation(n).astype(np.uint64) + np.uint64(2**63)
    table["blob/path"] = [f">J3/extract/m {i // 4}.mrc".encode() for i in range(n)]
    table["blob/idx"] = np.arange(n) % 4
    table["blob/shape"] = 64
    table["blob/psize_A"] = 2.1
    table["blob/sign"] = -1
    table["ctf/exp_group_id"] = 5 + np.arange(n) % 2
    table["ctf/accel_kv"], table["ctf/cs_mm"], table["ctf/amp_contrast"] = 300, 2.7, 0.1
    table["ctf/df1_A"], table["ctf/df2_A"] = rng.uniform(1e4, 2e4, n), rng.uniform(1e4, 2e4, n)
    table["ctf/df_angle_rad"] = rng.uniform(-1, 1, n)
    table["alignments3D/split"] = np.arange(n) % 2
    table["alignments3D/shift"] = rng.normal(0, 3, (n, 2))
    table["alignments3D/pose"] = Rotation.random(n, random_state=1).as_rotvec()
    table["alignments3D/psize_A"] = 4.2
    table["alignments3D/class"] = np.arange(n) % 3
    table["location/micrograph_path"] = [f"J1/m {i // 4}.mrc".encode() for i in range(n)]
    table["location/micrograph_shape"] = (4000, 6000)
    table["location/center_x_frac"], table["location/center_y_frac"] = rng.uniform(size=n), rng.uniform(size=n)
    return table


def save(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.save(file, table)
    return path


def test_fields_become_columns_with_units_and_signs(tmp_path):
    table = make_table()
    particles = read_cs_particles(save(tmp_path / "p.cs", table))
    assert particles.image_path[0] == "J3/extract/m 0.mrc" and particles.image_index[5] == 1
    assert [group.name for group in particles.optics] == ["exposureGroup5", "exposureGroup6"]
    assert particles.optics[0].pixel_size == 2.1 and particles.optics[0].box == 64
    np.testing.assert_allclose(particles.shift, -4.2 * table["alignments3D/shift"][:, ::-1], rtol=1e-6)
    np.testing.assert_allclose(particles.position_px[:, 1], table["location/center_x_frac"] * 6000, rtol=1e-6)
    np.testing.assert_allclose(particles.position_px[:, 0], (1 - table["location/center_y_frac"]) * 4000, rtol=1e-4)
    assert particles.half.tolist() == [1, 2] * 6 and particles.class_number.tolist() == [1, 2, 3] * 4
    assert particles.extra["cryosparcBlobSign"].tolist() == [-1] * 12
    assert particles.extra["cryosparcUid"][0] == str(table["uid"][0])


def test_a_pose_is_the_rotation_vector_of_the_image_to_volume_matrix(tmp_path):
    """90 degrees about z: RELION's table then says psi = +90 (or rot), as pyem's conversion does."""
    table = make_table(1)
    table["alignments3D/pose"] = [0, 0, np.pi / 2]
    particles = read_cs_particles(save(tmp_path / "p.cs", table))
    np.testing.assert_allclose(particles.rotation[0], Rotation.from_euler("Z", 90, degrees=True).as_matrix(), atol=1e-6)
    random = make_table()
    particles = read_cs_particles(save(tmp_path / "p.cs", random))
    expected = Rotation.from_rotvec(random["alignments3D/pose"].astype(float)).as_matrix()
    np.testing.assert_allclose(particles.rotation, expected, atol=1e-7)


def test_particles_reach_relion_and_come_back(tmp_path):
    particles = read_cs_particles(save(tmp_path / "p.cs", make_table()))
    write_particles(particles, tmp_path / "p.star")
    again = read_particles(tmp_path / "p.star")
    for name, column in particles.columns().items():
        if name in ("rotation", "defocus_angle", "phase_shift"):
            np.testing.assert_allclose(again.columns()[name], column, atol=1e-8)
        else:
            assert again.columns()[name].tolist() == column.tolist(), name
    assert again.optics == particles.optics


def test_beam_tilt_becomes_milliradians(tmp_path):
    table = make_table()
    table["ctf/tilt_A"] = (2700.0, -1350.0)
    optics = read_cs_particles(save(tmp_path / "p.cs", table)).optics[0]
    assert optics.beam_tilt_mrad == pytest.approx((0.1, -0.05), rel=1e-6)


def test_aberrations_that_differ_within_a_group_are_announced(tmp_path):
    table = make_table()
    table["ctf/trefoil_A"][::2] = (100.0, -50.0)
    table["ctf/trefoil_A"][0] = (300.0, 0.0)
    with pytest.warns(UserWarning, match="trefoil_A differs"):
        read_cs_particles(save(tmp_path / "p.cs", table))


def test_a_split_with_one_value_is_no_half_set(tmp_path):
    table = make_table()
    table["alignments3D/split"] = 0
    assert read_cs_particles(save(tmp_path / "p.cs", table)).half is None


def test_passthrough_files_are_joined_by_uid_never_by_order(tmp_path):
    table = make_table()
    main_fields = [name for name in table.dtype.names if not name.startswith(("ctf/", "location/"))]
    rest = ["uid", *[name for name in table.dtype.names if name not in main_fields]]
    order = np.random.default_rng(3).permutation(len(table))
    main = np.zeros(len(table), [f for f in FIELDS if f[0] in main_fields])
    passthrough = np.zeros(len(table), [f for f in FIELDS if f[0] in rest])
    for name in main_fields:
        main[name] = table[name]
    for name in rest:
        passthrough[name] = table[name][order]
    save(tmp_path / "J5_particles.cs", main)
    save(tmp_path / "J5_passthrough_particles.cs", passthrough)
    joined = read_cs_table(tmp_path / "J5_particles.cs")
    for name in table.dtype.names:
        assert np.array_equal(joined[name], table[name])
    save(tmp_path / "other" / "J5_particles.cs", main)
    with pytest.raises(InputError, match="optics are unknown"):
        read_cs_particles(tmp_path / "other" / "J5_particles.cs")
    passthrough["uid"] += np.uint64(1)
    save(tmp_path / "wrong.cs", passthrough)
    with pytest.raises(InputError, match="of 12 rows of J5_particles.cs are not in it"):
        read_cs_table(tmp_path / "J5_particles.cs", passthrough=[tmp_path / "wrong.cs"])


def test_exposures_become_micrographs_or_movies(tmp_path):
    fields = [("uid", "<u8"), ("micrograph_blob/path", "S40"), ("micrograph_blob/psize_A", "<f4")]
    optics = [f for f in FIELDS if f[0] in ("ctf/accel_kv", "ctf/cs_mm", "ctf/df1_A", "ctf/df2_A", "ctf/df_angle_rad")]
    table = np.zeros(3, fields + optics)
    table["micrograph_blob/path"], table["micrograph_blob/psize_A"] = [b"a.mrc", b"b.mrc", b"c.mrc"], 1.1
    table["ctf/accel_kv"], table["ctf/cs_mm"], table["ctf/df1_A"] = 200, 2.7, 9000
    micrographs = read_cs_exposures(save(tmp_path / "m.cs", table))
    assert isinstance(micrographs, MicrographSet) and micrographs.defocus_u.tolist() == [9000.0] * 3
    movies = np.zeros(2, [("uid", "<u8"), ("movie_blob/path", "S40"), ("movie_blob/psize_A", "<f4"),
                          ("gain_ref_blob/path", "S40"), ("mscope_params/accel_kv", "<f4"),
                          ("mscope_params/cs_mm", "<f4")])  # fmt: skip
    movies["movie_blob/path"], movies["movie_blob/psize_A"] = [b"a.tif", b"b.tif"], 0.5
    movies["mscope_params/accel_kv"], movies["gain_ref_blob/path"] = 300, b"gain.mrc"
    read = read_cs_exposures(save(tmp_path / "v.cs", movies))
    assert isinstance(read, MovieSet) and str(read.gain_path) == "gain.mrc" and read.optics[0].voltage_kv == 300


def test_long_headers_are_read(tmp_path):
    table = np.zeros(2, FIELDS + [(f"group{i}/a_field_with_a_long_name_{i}", "<f4") for i in range(400)])
    for name in make_table(2).dtype.names:
        table[name] = make_table(2)[name]
    assert len(read_cs_particles(save(tmp_path / "p.cs", table))) == 2


def test_wrong_files_are_refused(tmp_path):
    path = save(tmp_path / "p.cs", make_table())
    data = path.read_bytes()
    for content, words in (
        (b"\x95CSDAT" + data[6:], "CSDAT"),
        (b"hello", "not a cryoSPARC table"),
        (b"", "not a cryoSPARC table"),
        (data[:-10], "cut short"),
        (data[:60], "cannot be read"),
    ):
        (tmp_path / "q.cs").write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_cs_particles(tmp_path / "q.cs")
    save(tmp_path / "q.cs", np.zeros((3, 3)))
    with pytest.raises(InputError, match="no table of rows"):
        read_cs_particles(tmp_path / "q.cs")
    table = make_table()
    table["blob/psize_A"][0] = 3
    with pytest.raises(InputError, match="blob/psize_A runs from"):
        read_cs_particles(save(tmp_path / "q.cs", table))
    with pytest.raises(InputError, match="no exposures"):
        read_cs_exposures(path)


def test_a_public_table_is_read(shared_data):
    particles = read_cs_particles(shared_data / "metadata-only" / "cryosparc_P12_J24_001_particles.cs")
    assert len(particles) == 2019 and particles.optics[0].box == 180 and particles.optics[0].pixel_size == 2.95
    assert np.bincount(particles.half).tolist() == [0, 1010, 1009]

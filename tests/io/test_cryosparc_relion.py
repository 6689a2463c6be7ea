"""cryoSPARC to RELION and back: nothing lost, and the same pictures by formulas written down here once more."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from cryoloom.data import Optics, ParticleSet
from cryoloom.io.cs import read_cs_particles, read_cs_table
from cryoloom.io.cs_writer import write_cs_particles
from cryoloom.io.records import read_particles, write_particles
from cryoloom.io.star import StarTable, read_star
from cryoloom.project.runner import run_stage

POINTS = np.array([[5.0, -3.0, 2.0], [-20.0, 11.0, 7.0], [14.0, 25.0, -9.0], [-4.0, -17.0, 23.0]])  # Å, xyz
WEIGHTS = np.array([1.0, 0.7, 1.3, 0.5])
K = np.random.default_rng(8).uniform(-0.16, 0.16, (60, 2))  # 1/Å, xy

ODD = [
    lambda k, t: k * np.sin(t), lambda k, t: k * np.cos(t), lambda k, t: k**3 * np.sin(3 * t),
    lambda k, t: (3 * k**3 - 2 * k) * np.sin(t), lambda k, t: (3 * k**3 - 2 * k) * np.cos(t),
    lambda k, t: k**3 * np.cos(3 * t),
]  # fmt: skip
EVEN = [
    lambda k, t: np.ones_like(k), lambda k, t: k**2 * np.sin(2 * t), lambda k, t: 2 * k**2 - 1,
    lambda k, t: k**2 * np.cos(2 * t), lambda k, t: k**4 * np.sin(4 * t),
    lambda k, t: (4 * k**4 - 3 * k**2) * np.sin(2 * t), lambda k, t: 6 * k**4 - 6 * k**2 + 1,
    lambda k, t: (4 * k**4 - 3 * k**2) * np.cos(2 * t), lambda k, t: k**4 * np.cos(4 * t),
]  # fmt: skip


def wavelength(kv):
    return 12.2642596588 / np.sqrt(1e3 * kv * (1 + 0.978475598e-6 * 1e3 * kv))


def picture(rotation, shift_xy, matrix, kv, cs_mm, contrast, u, v, angle, phase, odd, even):
    """Spectrum of an image of four points at `K`: projection, CTF with aberrations, shift."""
    q = K @ np.asarray(matrix).T
    k, theta = np.hypot(*q.T), np.arctan2(q[:, 1], q[:, 0])
    lam = wavelength(kv)
    defocus = 0.5 * (u + v) + 0.5 * (u - v) * np.cos(2 * (theta - angle))
    chi = -np.pi * lam * defocus * k**2 + 0.5 * np.pi * cs_mm * 1e7 * lam**3 * k**4 - phase - np.arcsin(contrast)
    in_volume = (rotation @ np.c_[q, np.zeros(len(q))].T).T
    projection = np.exp(-2j * np.pi * in_volume @ POINTS.T) @ WEIGHTS
    return projection * -np.sin(chi + even(k, theta)) * np.exp(1j * odd(k, theta)) * np.exp(-2j * np.pi * K @ shift_xy)


def picture_of_cs(row):
    """As cryoSPARC's fields say it."""
    names = row.dtype.names
    kv, lam = float(row["ctf/accel_kv"]), wavelength(float(row["ctf/accel_kv"]))

    def get(name, n):
        return row[f"ctf/{name}"].astype(float) if f"ctf/{name}" in names else np.zeros(n)

    s, t, f, a = get("shift_A", 2), get("tilt_A", 2), get("trefoil_A", 2), get("tetra_A", 4)

    def odd(k, theta):
        x, y = k * np.cos(theta), k * np.sin(theta)
        third = k**2 * (t[0] * x + t[1] * y) + k**3 * (f[0] * np.cos(3 * theta) + f[1] * np.sin(3 * theta))
        return -2 * np.pi * (s[0] * x + s[1] * y) - 2 * np.pi * lam**2 * third

    def even(k, theta):
        waves = [np.cos(2 * theta), np.sin(2 * theta), np.cos(4 * theta), np.sin(4 * theta)]
        return 2 * np.pi * lam**3 * k**4 * sum(c * w for c, w in zip(a, waves, strict=True))

    rotation = np.eye(3)
    shift = np.zeros(2)
    if "alignments3D/pose" in names:
        rotation = Rotation.from_rotvec(row["alignments3D/pose"].astype(float)).as_matrix()
    if "alignments3D/shift" in names:
        shift = -row["alignments3D/shift"].astype(float) * float(row["alignments3D/psize_A"])
    return picture(
        rotation, shift, np.eye(2) + get("anisomag", 4).reshape(2, 2), kv,
        *(float(row[f"ctf/{n}"]) for n in ("cs_mm", "amp_contrast", "df1_A", "df2_A", "df_angle_rad")),
        float(row["ctf/phase_shift_rad"]), odd, even,
    )  # fmt: skip


def pictures_of_star(path, rows):
    """As RELION's columns say it, from the text of the file."""
    star = read_star(path)
    table = next(b for b in star.values() if isinstance(b, StarTable) and "rlnImageName" in b)
    optics = star["optics"]
    groups = {int(n): i for i, n in enumerate(optics.integers("rlnOpticsGroup"))}

    def column(label, default=0.0):
        return table.numbers(label) if label in table else np.full(len(table), default)

    def of_group(label, default=0.0):
        return optics.numbers(label) if label in optics else np.full(len(optics), default)

    angles = np.stack([column(f"rlnAngle{a}") for a in ("Rot", "Tilt", "Psi")], axis=-1)
    out = []
    for i in rows:
        g = groups[int(table.integers("rlnOpticsGroup")[i])]
        lists = {}
        for label in ("rlnOddZernike", "rlnEvenZernike"):
            text = str(optics.text(label)[g]).strip("[]") if label in optics else ""
            lists[label] = [float(x) for x in text.split(",")] if text else []
        matrix = [[of_group(f"rlnMagMat{r}{c}", float(r == c))[g] for c in (0, 1)] for r in (0, 1)]
        kv, cs_mm = of_group("rlnVoltage")[g], of_group("rlnSphericalAberration")[g]
        tilt = np.array([of_group(f"rlnBeamTilt{axis}")[g] for axis in "XY"])

        def odd(k, theta, z=lists["rlnOddZernike"], tilt=tilt, kv=kv, cs_mm=cs_mm):
            along = tilt[0] * np.cos(theta) + tilt[1] * np.sin(theta)
            coma = -2 * np.pi * cs_mm * 1e7 * wavelength(kv) ** 2 * 1e-3 * k**3 * along
            return coma + sum(c * f(k, theta) for c, f in zip(z, ODD, strict=False))

        def even(k, theta, z=lists["rlnEvenZernike"]):
            return sum((c * f(k, theta) for c, f in zip(z, EVEN, strict=False)), np.zeros_like(k))

        rotation = Rotation.from_euler("ZYZ", angles[i], degrees=True).as_matrix()
        shift = -np.array([column("rlnOriginXAngst")[i], column("rlnOriginYAngst")[i]])
        out.append(
            picture(
                rotation,
                shift,
                matrix,
                kv,
                cs_mm,
                of_group("rlnAmplitudeContrast")[g],
                column("rlnDefocusU")[i],
                column("rlnDefocusV")[i],
                np.deg2rad(column("rlnDefocusAngle")[i]),
                np.deg2rad(column("rlnPhaseShift")[i]),
                odd,
                even,
            )  # fmt: skip
        )
    return out


def cs_variant(rng):
    """A table of cryoSPARC with some of its fields and aberrations of all kinds."""
    n = int(rng.integers(1, 9))
    fields = [
        ("uid", "<u8"), ("blob/path", "S60"), ("blob/idx", "<u4"), ("blob/shape", "<u4", (2,)), ("blob/psize_A", "<f4"),
        ("blob/sign", "<f4"), ("ctf/type", "S9"), ("ctf/exp_group_id", "<u4"), ("ctf/accel_kv", "<f4"),
        ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"),
        ("ctf/df_angle_rad", "<f4"), ("ctf/phase_shift_rad", "<f4"), ("ctf/scale", "<f4"), ("ctf/scale_const", "<f4"),
        ("ctf/bfactor", "<f4"), ("alignments3D/split", "<u4"), ("alignments3D/shift", "<f4", (2,)),
        ("alignments3D/pose", "<f4", (3,)), ("alignments3D/psize_A", "<f4"), ("alignments3D/class", "<u4"),
        ("alignments3D/alpha", "<f4"), ("alignments3D/error", "<f4"), ("location/micrograph_path", "S60"),
        ("location/micrograph_shape", "<u4", (2,)), ("location/micrograph_uid", "<u8"),
        ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4"), ("pick_stats/ncc_score", "<f4"),
    ]  # fmt: skip
    more = [("ctf/shift_A", "<f4", (2,)), ("ctf/tilt_A", "<f4", (2,)), ("ctf/trefoil_A", "<f4", (2,)),
            ("ctf/tetra_A", "<f4", (4,)), ("ctf/anisomag", "<f4", (4,))]  # fmt: skip
    fields += [field for field in more if rng.random() < 0.8]
    table = np.zeros(n, fields)
    table["uid"] = rng.integers(0, 2**63, n, dtype=np.uint64)
    table["blob/path"] = [f"J{i % 2}/stack {i % 3}.mrcs".encode() for i in range(n)]
    table["blob/idx"], table["blob/shape"], table["blob/psize_A"] = rng.integers(0, 99, n), 96, 1.24
    table["blob/sign"], table["ctf/type"], table["ctf/scale"] = -1, b"imported", 1
    table["ctf/exp_group_id"] = 3 + 4 * (np.arange(n) % 2)
    table["ctf/accel_kv"] = [200, 300][int(rng.integers(2))]
    table["ctf/cs_mm"], table["ctf/amp_contrast"] = [2.7, 1.4][int(rng.integers(2))], 0.1
    for name in ("ctf/df1_A", "ctf/df2_A"):
        table[name] = rng.uniform(5e3, 2.5e4, n)
    table["ctf/df_angle_rad"], table["ctf/bfactor"] = rng.uniform(-1.5, 1.5, n), rng.uniform(0, 60, n)
    table["ctf/phase_shift_rad"] = rng.uniform(0, 2, n) if rng.random() < 0.5 else 0
    for i in range(2):
        rows = np.arange(n) % 2 == i
        for name, spread in (
            ("shift_A", 1.0),
            ("tilt_A", 3e3),
            ("trefoil_A", 2e3),
            ("tetra_A", 2e5),
            ("anisomag", 0.01),
        ):
            if f"ctf/{name}" in table.dtype.names:
                table[f"ctf/{name}"][rows] = rng.normal(0, spread, table[f"ctf/{name}"].shape[1])
    table["alignments3D/split"] = np.arange(n) % 2 if n > 1 else 0
    table["alignments3D/shift"] = rng.normal(0, 4, (n, 2))
    table["alignments3D/pose"] = Rotation.random(n, random_state=int(rng.integers(1 << 30))).as_rotvec()
    table["alignments3D/psize_A"] = [1.24, 2.48][int(rng.integers(2))]
    table["alignments3D/class"] = rng.integers(0, 4, n)
    for name in ("alignments3D/alpha", "alignments3D/error", "pick_stats/ncc_score"):
        table[name] = rng.normal(size=n)
    table["location/micrograph_path"] = [f"J1/m {i % 3}.mrc".encode() for i in range(n)]
    table["location/micrograph_uid"] = rng.integers(0, 2**63, n, dtype=np.uint64)
    table["location/micrograph_shape"] = (4000, 5760)
    for name in ("location/center_x_frac", "location/center_y_frac"):
        table[name] = rng.uniform(size=n)
    return table


def relion_variant(rng):
    """Particles with aberrations up to fourth order in RELION's words."""
    n = int(rng.integers(1, 9))
    groups = tuple(
        Optics(
            name=f"opticsGroup{g + 1}", pixel_size=1.1 + 0.3 * g, voltage_kv=[200.0, 300.0][g],
            cs_mm=[1.4, 2.7][g], box=96,
            beam_tilt_mrad=tuple(rng.normal(0, 0.3, 2).tolist()),
            odd_zernike=tuple((rng.normal(size=6) * [2, 2, 20, 10, 10, 20]).tolist()) if rng.random() < 0.7 else (),
            even_zernike=tuple((rng.normal(size=9) * [0.1, 5, 5, 5, 60, 40, 40, 40, 60]).tolist())
            if rng.random() < 0.7 else (),
            magnification=((1.01, 0.002), (-0.003, 0.99)) if rng.random() < 0.6 else ((1.0, 0.0), (0.0, 1.0)),
            original_pixel_size=0.55 + 0.15 * g, extra={"rlnMyOptics": 7 + g},
        )
        for g in range(2)
    )  # fmt: skip
    if n == 1:
        groups = groups[:1]
    return ParticleSet(
        image_path=np.array([f"E/s {i % 2}.mrcs" for i in range(n)], dtype=object), image_index=np.arange(n),
        micrograph=np.array([f"M/m {i % 2}.mrc" for i in range(n)], dtype=object),
        position_px=np.round(rng.uniform(0, 4000, (n, 2)), 3), defocus_u=np.round(rng.uniform(5e3, 2.5e4, n), 6),
        defocus_v=np.round(rng.uniform(5e3, 2.5e4, n), 6),
        defocus_angle=np.deg2rad(np.round(rng.uniform(-90, 90, n), 5)),
        phase_shift=np.deg2rad(np.round(rng.uniform(0, 90, n), 5)), ctf_bfactor=np.round(rng.uniform(0, 9, n), 6),
        rotation=Rotation.random(n, random_state=int(rng.integers(1 << 30))).as_matrix().reshape(n, 3, 3),
        shift=np.round(rng.normal(0, 5, (n, 2)), 6), half=1 + np.arange(n) % 2, class_number=rng.integers(1, 5, n),
        log_likelihood=np.round(rng.normal(0, 1e5, n), 6), optics=groups, optics_index=np.arange(n) % len(groups),
        extra={"rlnUnknown": rng.normal(size=n), "rlnText": np.array([f"t {i}" for i in range(n)], dtype=object)},
    )  # fmt: skip


def sets_equal(a, b):
    """All columns to the bit, poses to 1e-8 (files hold 7 decimals of a degree), optics as they were."""
    first, second = a.columns(), b.columns()
    second = {k: v for k, v in second.items() if k in first or k != "cryosparcUid"}
    if first.keys() != second.keys() or a.optics != b.optics:
        return [f"columns {first.keys() ^ second.keys()}" if first.keys() != second.keys() else "optics"]
    wrong = []
    for name, values in first.items():
        if name in ("rotation", "defocus_angle", "phase_shift"):
            if np.abs(np.asarray(values) - second[name]).max() > 2e-8:
                wrong.append(name)
        elif np.asarray(values).tolist() != np.asarray(second[name]).tolist():
            wrong.append(name)
    return wrong


def tables_differ(a, b):
    """Fields of cryoSPARC that are not as they were; angles that went through degrees may differ in the last bit.

    Poses are compared as rotations: a vector longer than half a turn has a shorter one that says the same.
    """
    wrong = [name for name in a.dtype.names if name not in b.dtype.names]
    for name in set(a.dtype.names) - set(wrong):
        if name == "alignments3D/pose":
            first, second = (Rotation.from_rotvec(table[name].astype(float)) for table in (a, b))
            if (first.inv() * second).magnitude().max() > 1e-6:
                wrong.append(name)
        elif a[name].dtype.kind == "f":
            loose = name.startswith(("ctf/", "alignments3D/shift", "location/"))
            if not np.allclose(a[name], b[name], rtol=3e-7 if loose else 0, atol=5e-7 if loose else 0):
                wrong.append(name)
        elif not np.array_equal(a[name], b[name]):
            wrong.append(name)
    return wrong


def error_of(pairs):
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


@pytest.mark.capability("RTP-2")
def test_nothing_is_lost_between_cryosparc_and_relion_and_pictures_stay(tmp_path, shared_data, measure):
    rng = np.random.default_rng(12)
    n_cases, failed, worst, n_pictures = 0, [], 0.0, 0
    sources = [("cs", f"variant {i}", cs_variant(rng)) for i in range(100)]
    real = sorted(shared_data.rglob("*.cs"))
    sources += [("cs", path.name, read_cs_table(path)) for path in real]
    for _, name, table in sources:
        with (tmp_path / "a.cs").open("wb") as file:
            np.save(file, table)
        write_particles(read_cs_particles(tmp_path / "a.cs"), tmp_path / "a.star")
        write_cs_particles(read_particles(tmp_path / "a.star"), tmp_path / "b.cs")
        back = read_cs_table(tmp_path / "b.cs")
        rows = np.linspace(0, len(table) - 1, min(len(table), 40)).astype(int)
        error = error_of(
            zip([picture_of_cs(table[i]) for i in rows], pictures_of_star(tmp_path / "a.star", rows), strict=True)
        )
        worst, n_pictures, n_cases = max(worst, error), n_pictures + len(rows), n_cases + 1
        if error > 1e-3 or (wrong := tables_differ(table, back)):
            failed.append((name, error, wrong if error <= 1e-3 else ""))
    stars = []
    for i in range(100):
        write_particles(relion_variant(rng), tmp_path / f"v{i}.star")
        stars.append((f"variant {i}", tmp_path / f"v{i}.star"))
    for path in sorted(shared_data.rglob("*.star")):
        labels = {label for b in read_star(path).values() if isinstance(b, StarTable) for label in b.labels}
        if {"rlnImageName", "rlnVoltage", "rlnDefocusU"} <= labels:
            stars.append((path.name, path))
    n_real = len(stars) - 100 + len(real)
    for name, path in stars:
        first = read_particles(path)
        write_particles(first, tmp_path / "first.star")  # in the form of RELION 3.1, whatever it was
        write_cs_particles(first, tmp_path / "c.cs")
        wrong = sets_equal(first, read_cs_particles(tmp_path / "c.cs"))
        rows = np.linspace(0, len(first) - 1, min(len(first), 40)).astype(int)
        table = read_cs_table(tmp_path / "c.cs")
        error = error_of(
            zip(pictures_of_star(tmp_path / "first.star", rows), [picture_of_cs(table[i]) for i in rows], strict=True)
        )
        worst, n_pictures, n_cases = max(worst, error), n_pictures + len(rows), n_cases + 1
        if error > 1e-3 or wrong:
            failed.append((name, error, wrong))
    note = f"{n_real} real tables, 200 variants; {n_pictures} re-projections, largest difference {worst:.1e}"
    measure(n_cases - len(failed), unit="tables", threshold=f"all of {n_cases}", note=note)
    assert not failed and n_real >= 8, failed[:8]


def test_what_cryosparc_changed_is_taken_from_its_fields(tmp_path):
    particles = relion_variant(np.random.default_rng(3))
    while len(particles) < 4:
        particles = relion_variant(np.random.default_rng(len(particles) + 50))
    write_cs_particles(particles, tmp_path / "a.cs")
    table = read_cs_table(tmp_path / "a.cs")
    table["alignments3D/shift"][1] = (1.0, -2.0)
    table["location/micrograph_path"][0] = b"other.mrc"
    with (tmp_path / "b.cs").open("wb") as file:
        np.save(file, table)
    read = read_cs_particles(tmp_path / "b.cs")
    size = particles.per_row("pixel_size")
    np.testing.assert_allclose(read.shift[1], [2 * size[1], -size[1]], rtol=1e-6)
    np.testing.assert_array_equal(read.shift[[0, 2, 3]], particles.shift[[0, 2, 3]])
    assert read.optics == particles.optics and read.micrograph[0] == "other.mrc"
    table["ctf/df1_A"] += 100  # refined: CTF and optics are those of cryoSPARC now
    with (tmp_path / "c.cs").open("wb") as file:
        np.save(file, table)
    refined = read_cs_particles(tmp_path / "c.cs")
    np.testing.assert_allclose(refined.defocus_u, table["ctf/df1_A"], rtol=1e-6)
    write_particles(refined, tmp_path / "c.star")
    rows = range(len(particles))
    assert (
        error_of(zip([picture_of_cs(row) for row in table], pictures_of_star(tmp_path / "c.star", rows), strict=True))
        < 1e-3
    )


def test_the_command_converts_to_cryosparc(tmp_path):
    write_particles(relion_variant(np.random.default_rng(1)), tmp_path / "p.star")
    done = run_stage("convert", {"files": tmp_path / "p.star"}, {"to": "cs"}, out=tmp_path / "out")
    assert read_cs_particles(done.folder / "particles.cs").optics[0].name == "opticsGroup1"

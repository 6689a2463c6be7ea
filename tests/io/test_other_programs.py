"""Files of cisTEM, EMAN, crYOLO, Topaz, CTFFIND and MotionCor: round trips, unknown columns, refusals."""

import gemmi
import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import Optics, ParticleSet, PickSet
from cryoloom.geometry import random_rotations
from cryoloom.io.cistem import read_cistem, write_cistem
from cryoloom.io.coordinates import read_coordinates, write_box, write_cbox, write_topaz
from cryoloom.io.ctffind import CtffindFile, read_ctffind, write_ctffind
from cryoloom.io.motioncor import FrameShifts, read_motioncor_log, write_motioncor_log
from cryoloom.io.records import read_micrographs, read_particles
from cryoloom.project.runner import run_stage

CISTEM = """# Written by cisTEM Version 2.0 on 2024-01-02 03:04:05

data_

loop_
_cisTEMPositionInStack #1
_cisTEMAnglePsi #2
_cisTEMAngleTheta #3
_cisTEMAnglePhi #4
_cisTEMXShift #5
_cisTEMYShift #6
_cisTEMDefocus1 #7
_cisTEMDefocus2 #8
_cisTEMDefocusAngle #9
_cisTEMPhaseShift #10
_cisTEMOccupancy #11
_cisTEMPixelSize #12
_cisTEMMicroscopeVoltagekV #13
_cisTEMMicroscopeCsMM #14
_cisTEMAmplitudeContrast #15
_cisTEMBeamTiltX #16
_cisTEMBeamTiltY #17
_cisTEMStackFilename #18
_cisTEMAssignedSubset #19
#   POS     PSI   THETA     PHI       SHX       SHY      DF1      DF2  ANGAST  PSHIFT
       1   10.25   45.50  -60.75      1.50     -2.25  12345.0  12000.0   33.30  0.0000  100.00  1.0600  300.00  2.700  0.0700  0.000  0.000  '/data/my stack.mrc'  1
       2   80.00   90.00   20.00      0.00      3.00  12345.0  12000.0   33.30  1.5708  100.00  1.0600  300.00  2.700  0.0700  0.100 -0.200  '/data/my stack.mrc'  2
"""  # noqa: E501

CTFFIND = """# Output from CTFFind version 4.1.14, run on 2023-05-06 07:08:09
# Input file: mics/May 08.mrc ; Number of micrographs: 1
# Pixel size: 1.060 Angstroms ; acceleration voltage: 300.0 keV ; spherical aberration: 2.70 mm ; amplitude contrast: 0.07
# Box size: 512 pixels ; min. res.: 30.0 Angstroms ; max. res.: 5.0 Angstroms ; min. def.: 5000.0 um; max. def. 50000.0 um
# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of astigmatism; #5 - additional phase shift [radians]; #6 - cross correlation; #7 - spacing (in Angstroms) up to which CTF rings were fit successfully
1.000000 17395.253906 17095.082031 -27.364227 0.523599 0.146931 3.812345
"""  # noqa: E501

OLD_LOG = """Full-frame alignment shift
...... Frame (  1) shift:     0.00     0.00
...... Frame (  2) shift:    -1.25     3.50
...... Frame (  3) shift:    -2.00     4.75

Patch based alignment
"""
NEW_LOG = """# full frame alignment
# Frame     x Shift     y Shift
      1      0.00        0.00
      2     -1.25        3.50
      3     -2.00        4.75
"""


def particle_variant(rng, i):
    n, groups = int(rng.integers(1, 9)), int(rng.integers(1, 3))
    fields = {
        "micrograph": np.array([f"m {k % 2}.mrc" for k in range(n)], dtype=object),
        "defocus_u": rng.uniform(5e3, 3e4, n), "defocus_v": rng.uniform(5e3, 3e4, n),
        "defocus_angle": np.deg2rad(np.round(rng.uniform(-90, 90, n), 4)), "phase_shift": rng.uniform(0, 3, n),
        "rotation": random_rotations(n, torch.Generator().manual_seed(i)).numpy(), "shift": rng.normal(0, 4, (n, 2)),
        "pick_score": rng.normal(size=n), "class_number": rng.integers(0, 50, n),
    }  # fmt: skip
    kept = {name: values for name, values in fields.items() if rng.random() < 0.7}
    if n > 1 and rng.random() < 0.5:
        kept["half"] = 1 + np.arange(n) % 2
    optics = tuple(
        Optics(name=f"opticsGroup{g + 1}", pixel_size=1.0 + 0.25 * g, beam_tilt_mrad=(0.1 * g, -0.2 * g))
        for g in range(groups)
    )
    index = np.arange(n) % groups
    if n < groups:
        optics = optics[:n]
    extra = {"cisTEMSigma": rng.uniform(1, 9, n), "cisTEMUnknown": rng.integers(0, 9, n)} if rng.random() < 0.6 else {}
    if rng.random() < 0.3:
        extra["cisTEMNote"] = np.array([f"a b{k}" for k in range(n)], dtype=object)
    return ParticleSet(image_path=np.full(n, "my stack.mrc", dtype=object), image_index=np.arange(n), optics=optics,
                       optics_index=index, extra=extra, **kept)  # fmt: skip


def pick_variant(rng, kind):
    n = int(rng.integers(1, 12))
    position = np.round(rng.uniform(0, 4000, (n, 2)) * 4) / 4
    score = rng.normal(size=n) if kind != "box" and rng.random() < 0.6 else None
    extra = {}
    if kind in ("box", "cbox"):
        extra = {
            "boxWidth": rng.integers(10, 300, n).astype(float),
            "boxHeight": rng.integers(10, 300, n).astype(float),
        }
    if kind == "cbox" and rng.random() < 0.7:
        extra |= {"cboxEstWidth": np.array([f"{v:.2f}" for v in rng.uniform(5, 99, n)], dtype=object),
                  "cboxUnknown": np.array([f"u{v}" for v in rng.integers(0, 9, n)], dtype=object)}  # fmt: skip
    if kind == "topaz" and rng.random() < 0.5:
        extra = {"topaz_diameter": np.array([str(v) for v in rng.integers(5, 99, n)], dtype=object)}
    return PickSet(position_px=position, micrograph=np.full(n, "mic_1", dtype=object), score=score, extra=extra)


def equal_sets(a, b):
    if getattr(a, "optics", None) != getattr(b, "optics", None):
        return False
    first, second = a.columns(), b.columns()
    if first.keys() != second.keys():
        return False
    for name, values in first.items():
        if name == "rotation":
            if np.abs(np.asarray(values) - second[name]).max() > 1e-8:
                return False
        elif np.asarray(values).tolist() != np.asarray(second[name]).tolist():
            return False
    return True


def trip_cistem(rng, i, folder):
    write_cistem(particle_variant(rng, i), folder / "a.star")
    first = read_cistem(folder / "a.star")
    write_cistem(first, folder / "b.star")
    block = gemmi.cif.read(str(folder / "b.star"))[0]  # another reader finds the same numbers
    assert [int(v) - 1 for v in block.find_loop("_cisTEMPositionInStack")] == first.image_index.tolist()
    return first, read_cistem(folder / "b.star")


def trip_picks(kind):
    def trip(rng, i, folder):
        picks = pick_variant(rng, kind)
        if kind == "topaz":
            scale = float(rng.integers(1, 5))
            write_topaz(picks, folder / "t.txt", scale=scale)
            first = read_coordinates(folder / "t.txt", scale=scale)
            write_topaz(first, folder / "u.txt", scale=scale)
            return (picks, first), (first, read_coordinates(folder / "u.txt", scale=scale))
        write = write_box if kind == "box" else write_cbox
        first = read_coordinates(write(picks, folder / "one")[0])
        second = read_coordinates(write(first, folder / "two")[0])
        known = first.replace(extra={k: v for k, v in first.extra.items() if k in picks.extra})
        return (picks, first), (known, second.replace(extra={k: second.extra[k] for k in known.extra}))

    return trip


def trip_ctffind(rng, i, folder):
    n = int(rng.integers(1, 4))
    head = CTFFIND.rpartition("\n1.0")[0].replace("version 4.1.14", ["version 4.1.5", "version 5.0"][i % 2])
    more = int(rng.integers(0, 4))
    rows = []
    for k in range(n):
        numbers = [*rng.uniform(5e3, 4e4, 2), rng.uniform(-90, 90), *rng.uniform(0, 1, 2)]
        words = [f"{k + 1}.000000", *(f"{v:.6f}" for v in numbers)]
        words.append("inf" if rng.random() < 0.2 else f"{rng.uniform(2, 9):.6f}")
        rows.append(" ".join([*words, *(f"{v:.3f}" for v in rng.normal(size=more))]))
    (folder / "a.txt").write_text("\n".join([head, *rows]) + "\n")
    first = read_ctffind(folder / "a.txt")
    write_ctffind(first, folder / "b.txt")
    second = read_ctffind(folder / "b.txt")
    assert first.comments == second.comments and len(first.micrographs.extra) == more
    return first.micrographs, second.micrographs


def trip_motioncor(rng, i, folder):
    n = int(rng.integers(1, 60))
    shifts = FrameShifts(np.round(rng.normal(0, 5, (n, 2)), 2), int(rng.integers(0, 3)), ["1.5", "1.6"][i % 2])
    write_motioncor_log(shifts, folder / "a.log")
    first = read_motioncor_log(folder / "a.log")
    write_motioncor_log(first, folder / "b.log")
    second = read_motioncor_log(folder / "b.log")
    pairs = [PickSet(position_px=s.trajectory_px, micrograph=np.full(n, f"{s.first_frame} {s.layout}", dtype=object))
             for s in (shifts, first, second)]  # fmt: skip
    return (pairs[0], pairs[1]), (pairs[1], pairs[2])


FORMATS = {
    "cisTEM": trip_cistem, "EMAN box": trip_picks("box"), "cbox": trip_picks("cbox"), "Topaz": trip_picks("topaz"),
    "CTFFIND": trip_ctffind, "MotionCor": trip_motioncor,
}  # fmt: skip


@pytest.mark.capability("RTP-3")
def test_files_of_other_programs_survive_the_round_trip(tmp_path, measure):
    rng = np.random.default_rng(30)
    good, total, failed = 0, 0, []
    for name, trip in FORMATS.items():
        for i in range(40):
            folder = tmp_path / name / str(i)
            folder.mkdir(parents=True)
            result = trip(rng, i, folder)
            pairs = [result] if not isinstance(result[0], tuple) else result
            total += 1
            if name in ("cbox", "EMAN box", "Topaz"):
                given, read = pairs[0]
                same = np.abs(given.position_px - read.position_px).max() < 1e-8 and all(
                    np.asarray(given.extra[k]).tolist() == np.asarray(read.extra[k]).tolist() for k in given.extra
                )
                pairs = pairs[1:] if same else [(given, read)]
            if all(equal_sets(a, b) for a, b in pairs):
                good += 1
            else:
                failed.append(f"{name} {i}")
    note = f"{', '.join(FORMATS)}; 40 variants each"
    measure(good, unit="files", threshold=f"all of {total} (at least 200)", note=note)
    assert not failed and total >= 200, failed[:5]


def test_a_table_of_cistem_means_what_its_columns_say(tmp_path):
    (tmp_path / "p.star").write_text(CISTEM)
    particles = read_cistem(tmp_path / "p.star")
    assert particles.image_path[0] == "/data/my stack.mrc" and particles.image_index.tolist() == [0, 1]
    assert particles.shift.tolist() == [[-2.25, 1.5], [3.0, 0.0]] and particles.half.tolist() == [1, 2]
    assert particles.phase_shift[1] == 1.5708 and [g.beam_tilt_mrad for g in particles.optics] == [(0, 0), (0.1, -0.2)]
    assert particles.extra["cisTEMOccupancy"].tolist() == [100, 100]
    done = run_stage("convert", {"files": tmp_path / "p.star"}, {}, out=tmp_path / "out")
    star = read_particles(done.outputs["particles"])
    text = (done.folder / "particles.star").read_text()
    assert "rlnAngleRot" in text and "-60.75" in text
    # RELION's origins move the image back, cisTEM's shifts say where it is
    np.testing.assert_allclose(star.shift, particles.shift)
    back = run_stage("convert", {"files": done.outputs["particles"]}, {"to": "cistem"}, out=tmp_path / "back")
    again = read_cistem(back.folder / "particles_cistem.star")
    np.testing.assert_allclose(again.rotation, particles.rotation, atol=1e-8)
    (tmp_path / "bare.star").write_text(CISTEM.replace("_cisTEMStackFilename", "_cisTEMSomethingElse"))
    with pytest.raises(InputError, match="name the stack"):
        read_cistem(tmp_path / "bare.star")
    assert read_cistem(tmp_path / "bare.star", stack="s.mrc").image_path.tolist() == ["s.mrc"] * 2


def test_results_of_ctffind_are_read_in_their_units(tmp_path):
    (tmp_path / "a.txt").write_text(CTFFIND)
    (tmp_path / "b.txt").write_text(CTFFIND.replace("May 08", "May 09").replace("17395", "21395"))
    found = read_ctffind(tmp_path / "a.txt").micrographs
    assert found.path.tolist() == ["mics/May 08.mrc"] and found.optics[0].pixel_size == 1.06
    assert found.phase_shift[0] == 0.523599 and np.rad2deg(found.defocus_angle[0]) == pytest.approx(-27.364227)
    done = run_stage("convert", {"files": [tmp_path / "a.txt", tmp_path / "b.txt"]}, {}, out=tmp_path / "out")
    star = read_micrographs(done.outputs["micrographs"])
    assert star.defocus_u.tolist() == [17395.253906, 21395.253906] and len(star.optics) == 1
    text = (done.folder / "micrographs.star").read_text()
    assert "30.0000" in text  # the phase shift of RELION is in degrees
    back = run_stage("convert", {"files": done.outputs["micrographs"]}, {"to": "ctffind"}, out=tmp_path / "back")
    again = read_ctffind(back.folder / "micrographs_ctf.txt").micrographs
    np.testing.assert_allclose(again.defocus_u, star.defocus_u)
    write_ctffind(CtffindFile(found), tmp_path / "c.txt")
    assert read_ctffind(tmp_path / "c.txt").micrographs.optics == found.optics


def test_both_layouts_of_motioncor_say_the_same(tmp_path):
    (tmp_path / "old.log").write_text(OLD_LOG)
    (tmp_path / "new.log").write_text(NEW_LOG)
    old, new = read_motioncor_log(tmp_path / "old.log"), read_motioncor_log(tmp_path / "new.log")
    assert old.layout == "1.5" and new.layout == "1.6" and old.first_frame == new.first_frame == 1
    assert old.trajectory_px.tolist() == new.trajectory_px.tolist() == [[0, 0], [-3.5, 1.25], [-4.75, 2.0]]


@pytest.mark.parametrize("text, why", [
    ("nothing of use\n", "not known"), (NEW_LOG.replace("-1.25", "-9999.0"), "not observed"),
    ("\n".join(NEW_LOG.splitlines()[:3] + NEW_LOG.splitlines()[4:]), "missing"),
    (OLD_LOG.replace("3.50", "nan"), "not observed"),
    (OLD_LOG.replace("3.50", "x"), "two shifts"),
])  # fmt: skip
def test_logs_without_sense_are_refused(tmp_path, text, why):
    (tmp_path / "a.log").write_text(text)
    with pytest.raises(InputError, match=why):
        read_motioncor_log(tmp_path / "a.log")


@pytest.mark.parametrize("text, why", [
    (CTFFIND.replace("0.146931 3.812345", ""), "at least 7"), (CTFFIND.replace("17395.253906", "nan"), "failed"),
    (CTFFIND.replace("17395.253906", "x"), "numbers"), (CTFFIND.replace("CTFFind", "other"), "no comment"),
    ("\n".join(CTFFIND.splitlines()[:5]) + "\n", "no row"),
])  # fmt: skip
def test_failed_fits_are_refused(tmp_path, text, why):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(InputError, match=why):
        read_ctffind(tmp_path / "a.txt")

"""RELION's Bayesian polishing reads what `motion` writes, and goes on from our trajectories."""

import json
import shutil
import subprocess

import numpy as np
import pytest

from cryoloom.io.mrc import read_mrc, write_mrc
from cryoloom.io.star import read_star, write_star
from cryoloom.motion.field import MotionField
from cryoloom.project.runner import run_stage

BOX, PIXEL = 128, 1.5


def write_references(folder, sim):
    """The true map as both halves, a sphere around it, and what RELION wants to know of them."""
    whole = read_mrc(sim / "truth_map.mrc")[0]
    low = [(n - BOX) // 2 for n in whole.shape]
    cut = whole[tuple(slice(max(a, 0), max(a, 0) + BOX) for a in low)]
    add = [(BOX - n) // 2 for n in cut.shape]
    volume = np.pad(cut, [(a, BOX - n - a) for a, n in zip(add, cut.shape, strict=True)])
    for half in ("half1", "half2"):
        write_mrc(folder / f"{half}.mrc", volume.astype(np.float32), PIXEL, kind="volume")
    axes = np.arange(BOX) - BOX // 2
    radius = np.sqrt((axes[:, None, None] ** 2 + axes[:, None] ** 2 + axes**2).astype(float))
    write_mrc(folder / "mask.mrc", np.clip((0.42 * BOX - radius) / 6, 0, 1).astype(np.float32), PIXEL, kind="volume")
    k = np.arange(BOX // 2 + 1) / (BOX * PIXEL)
    fsc = np.clip(1.2 - 8 * k, 0.01, 1)
    blocks = {
        "general": {
            "rlnFinalResolution": 8.0, "rlnUnfilteredMapHalf1": str(folder / "half1.mrc"),
            "rlnUnfilteredMapHalf2": str(folder / "half2.mrc"), "rlnMaskName": str(folder / "mask.mrc"),
            "rlnRandomiseFrom": 20.0,
        },
        "fsc": {
            "rlnSpectralIndex": np.arange(len(k)), "rlnResolution": k, "rlnAngstromResolution": 1 / np.maximum(k, 1e-3),
            "rlnFourierShellCorrelationCorrected": fsc, "rlnFourierShellCorrelationParticleMaskFraction": fsc,
            "rlnFourierShellCorrelationUnmaskedMaps": fsc, "rlnFourierShellCorrelationMaskedMaps": fsc,
            "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": np.zeros(len(k)),
        },
    }  # fmt: skip
    write_star(folder / "post.star", blocks)


def write_particles(folder, sim, micrograph):
    """The true particles that do not stand at the edge; their places, pixels yx."""
    star = read_star(sim / "truth.star")
    table = star["particles"]
    place = np.stack([table.numbers("rlnCoordinateY"), table.numbers("rlnCoordinateX")], -1)
    inside = ((place > BOX / 2) & (place < 768 - BOX / 2)).all(1)
    n = int(inside.sum())
    labels = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    write_star(folder / "particles.star", {
        "optics": {
            "rlnOpticsGroupName": ["one"], "rlnOpticsGroup": [1], "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1], "rlnImagePixelSize": [PIXEL],
            "rlnImageSize": [BOX], "rlnImageDimensionality": [2], "rlnMicrographOriginalPixelSize": [PIXEL],
        },
        "particles": {
            "rlnCoordinateX": place[inside, 1], "rlnCoordinateY": place[inside, 0],
            "rlnImageName": [f"{i + 1:06d}@particles.mrcs" for i in range(n)], "rlnMicrographName": [micrograph] * n,
            "rlnOpticsGroup": [1] * n, "rlnRandomSubset": [1 + i % 2 for i in range(n)],
            "rlnOriginXAngst": [0.0] * n, "rlnOriginYAngst": [0.0] * n,
        } | {label: table.numbers(label)[inside] for label in labels},
    })  # fmt: skip
    return place[inside]


@pytest.mark.slow
def test_relion_polishing_starts_from_our_trajectories(tmp_path):
    program = shutil.which("relion_motion_refine")
    if program is None:
        pytest.skip("RELION is not installed")
    sim = tmp_path / "sim"
    settings = {
        "movies": 1, "width": 768, "height": 768, "frames": 12, "pixel_size": PIXEL, "mass": 400.0,
        "dose_per_frame": 3.0, "damage": False, "contamination": 0.0, "carbon": 0.0, "drift": 60.0, "mtf": False,
    }  # fmt: skip
    made = run_stage("simulate movies", {}, settings, out=sim, seed=3)
    done = run_stage("motion", {"movies": made["movies"]}, {}, out=tmp_path / "motion")
    place = write_particles(tmp_path, sim, str(tmp_path / "motion" / "micrographs" / "movie_0001.mrc"))
    write_references(tmp_path, sim)
    subprocess.run(
        [program, "--i", "particles.star", "--f", "post.star", "--corr_mic", str(done["micrographs"]), "--o", "polish/",
         "--min_p", "1", "--s_vel", "1", "--s_div", "5000", "--s_acc", "2", "--j", "1"],
        check=True, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    tracks = read_star(next((tmp_path / "polish").rglob("movie_0001_tracks.star")))
    found = np.stack([
        np.stack([tracks[str(i)].numbers("rlnOriginYAngst"), tracks[str(i)].numbers("rlnOriginXAngst")], -1)
        for i in range(len(place))
    ]) / PIXEL  # fmt: skip
    record = json.loads((sim / "truth" / "movie_0001.json").read_text())
    true = MotionField(np.asarray(record["motion_modes"]) / PIXEL, (768, 768), 3).at(place)
    found, true = (tracks - tracks.mean(1, keepdims=True) for tracks in (found, true))
    assert len(place) >= 5
    assert np.sqrt(np.mean((found - true) ** 2)) < 0.3 * np.sqrt(np.mean(true**2))

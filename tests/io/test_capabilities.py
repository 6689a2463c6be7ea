"""Demonstrations of rows of the capability table that belong to file formats."""

import numpy as np
import pytest

from cryoloom.io.records import read_particles, write_particles
from cryoloom.io.star import StarTable, read_star, write_star

VERSIONS = {"3.0": None, "3.1": 30001, "4": 30001, "5": 50001}
OPTICS = ["rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
          "rlnImagePixelSize", "rlnImageSize", "rlnImageDimensionality"]  # fmt: skip
MORE_OPTICS = {
    "rlnMicrographOriginalPixelSize": "0.750000", "rlnMicrographPixelSize": "1.500000", "rlnMtfFileName": "mtf.star",
    "rlnBeamTiltX": "0.125000", "rlnBeamTiltY": "-0.250000", "rlnOddZernike": "[0.1,0.2,-0.3]",
    "rlnEvenZernike": "[1.5,2.5]", "rlnMagMat00": "1.01", "rlnMagMat01": "0.002", "rlnMagMat10": "-0.003",
    "rlnMagMat11": "0.99", "rlnCtfDataAreCtfPremultiplied": "0", "rlnMyOpticsColumn": "7", "rlnMyText": "\"two words\"",
}  # fmt: skip
PARTICLES = [
    "rlnCoordinateX", "rlnCoordinateY", "rlnMicrographName", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle",
    "rlnPhaseShift", "rlnCtfBfactor", "rlnCtfScalefactor", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi",
    "rlnClassNumber", "rlnNormCorrection", "rlnRandomSubset", "rlnLogLikeliContribution",
    "rlnMaxValueProbDistribution", "rlnNrOfSignificantSamples", "rlnOriginXAngst", "rlnOriginYAngst",
    "rlnGroupNumber", "rlnGroupName", "rlnHelicalTubeID", "rlnAutopickFigureOfMerit", "rlnUnknownText",
    "rlnUnknownNumber", "rlnUnknownVector",
]  # fmt: skip


def variant(rng):
    """A particle table of some version, with some columns, in some order, with some spacing."""
    version = list(VERSIONS)[int(rng.integers(4))]
    n, groups = int(rng.integers(1, 12)), int(rng.integers(1, 4))
    labels = [label for label in PARTICLES if rng.random() < 0.7]
    if not {"rlnAngleRot", "rlnAngleTilt"} <= set(labels):
        labels = [label for label in labels if label not in ("rlnAngleRot", "rlnAngleTilt")]
    for pair in (("rlnCoordinateX", "rlnCoordinateY"), ("rlnOriginXAngst", "rlnOriginYAngst")):
        if len(set(pair) & set(labels)) == 1:
            labels = [label for label in labels if label not in pair]
    rng.shuffle(labels)
    texts = {
        "rlnMicrographName": lambda i: f'"mic {i // 3}.mrc"' if rng.random() < 0.3 else f"job/mic_{i // 3}.mrc",
        "rlnGroupName": lambda i: f"group_{i % 3}",
        "rlnUnknownText": lambda i: ["007", "a#b", "x", '"y z"'][int(rng.integers(4))],
        "rlnUnknownVector": lambda i: "[1,2,3]",
        "rlnClassNumber": lambda i: str(int(rng.integers(1, 9))),
        "rlnRandomSubset": lambda i: str(1 + i % 2),
        "rlnNrOfSignificantSamples": lambda i: str(int(rng.integers(1, 900))),
        "rlnGroupNumber": lambda i: str(1 + i % 3),
        "rlnHelicalTubeID": lambda i: str(int(rng.integers(5))),
        "rlnAngleTilt": lambda i: f"{rng.uniform(0.5, 179.5):.6f}",
        "rlnAngleRot": lambda i: f"{rng.uniform(-179.9, 180):.6f}",
        "rlnAnglePsi": lambda i: f"{rng.uniform(-179.9, 180):.6f}",
    }
    rows = []
    for i in range(n):
        row = [texts[label](i) if label in texts else f"{rng.normal(0, 1000):.6f}" for label in labels]
        rows.append([f"{i + 1:06d}@stacks/s.mrcs", *row])
    labels = ["rlnImageName", *labels]
    if version == "3.0":
        old = {"rlnOriginXAngst": "rlnOriginX", "rlnOriginYAngst": "rlnOriginY"}
        labels = [old.get(label, label) for label in labels]
        labels += ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnMagnification",
                   "rlnDetectorPixelSize"]  # fmt: skip
        for i, row in enumerate(rows):
            row += ["300.0", "2.7", "0.1", f"{10000 * (1 + i % groups)}.0", "2.0"]
    else:
        labels.append("rlnOpticsGroup")
        for i, row in enumerate(rows):
            row.append(str(1 + i % groups))
    gap = [" ", "   ", "\t", "  \t "][int(rng.integers(4))]
    text = ""
    if VERSIONS[version]:
        text += f"\n# version {VERSIONS[version]}\n"
    if version != "3.0":
        more = [label for label in MORE_OPTICS if rng.random() < 0.5]
        magnification = [label for label in MORE_OPTICS if label.startswith("rlnMagMat")]
        if set(more) & set(magnification):
            more = [label for label in more if label not in magnification] + magnification
        optics = [
            [str(g + 1), f"opticsGroup{g + 1}", "300.000000", "2.700000", "0.100000", f"{1 + g}.500000", "64", "2"]
            + [MORE_OPTICS[label] for label in more]
            for g in range(groups)
        ]
        text += table("optics", OPTICS + more, optics, gap, rng)
        text += f"\n# version {VERSIONS[version]}\n"
    name = ["", "images", "particles"][int(rng.integers(3))] if version == "3.0" else "particles"
    text += table(name, labels, rows, gap, rng)
    if rng.random() < 0.3:
        text += "\ndata_extra\n\n_rlnSomething   5\n_rlnName 'a b'\n"
    return version, text


def table(name, labels, rows, gap, rng):
    numbered = rng.random() < 0.7
    lines = [f"_{label}" + (f" #{i}" if numbered else "") for i, label in enumerate(labels, 1)]
    body = [gap.join(row) + (" " if rng.random() < 0.2 else "") for row in rows]
    return f"\ndata_{name}\n\nloop_\n" + "\n".join(lines + body) + "\n" + ("\n" if rng.random() < 0.9 else "")


def raw_equal(a, b):
    if list(a) != list(b) or a.version != b.version:
        return False
    return all(
        a[name].frame.equals(b[name].frame) if isinstance(a[name], StarTable) else a[name] == b[name] for name in a
    )


def sets_equal(a, b):
    """Known fields to the bit; matrices from angles to 1e-8 (the file holds 7 decimals of a degree)."""
    if a.columns().keys() != b.columns().keys() or a.optics != b.optics:
        return False
    for name, column in a.columns().items():
        other = b.columns()[name]
        if name == "rotation":
            if np.abs(other - column).max() > 1e-8:
                return False
        elif np.asarray(column).tolist() != np.asarray(other).tolist():
            return False
    return True


@pytest.mark.capability("RTP-1")
def test_relion_tables_of_all_versions_survive_the_round_trip(tmp_path, shared_data, measure):
    rng = np.random.default_rng(20)
    variants = [variant(rng) for _ in range(200)]
    assert {version for version, _ in variants} == set(VERSIONS)
    cases = [(f"variant {i}, version {version}", text.encode()) for i, (version, text) in enumerate(variants)]
    cases += [(path.name, path.read_bytes()) for path in sorted(shared_data.rglob("*.star"))]
    failed, n_real = [], len(cases) - 200
    for name, content in cases:
        (tmp_path / "a.star").write_bytes(content)
        star = read_star(tmp_path / "a.star")
        write_star(tmp_path / "b.star", star, version=star.version)
        if not raw_equal(star, read_star(tmp_path / "b.star")):
            failed.append(name + " (text)")
        labels = {label for block in star.values() if isinstance(block, StarTable) for label in block.labels}
        if not {"rlnImageName", "rlnVoltage"} <= labels:
            continue
        first = read_particles(tmp_path / "a.star")
        write_particles(first, tmp_path / "c.star")
        second = read_particles(tmp_path / "c.star")
        write_particles(second, tmp_path / "d.star")
        if not sets_equal(second, read_particles(tmp_path / "d.star")) or not sets_equal(first, second):
            failed.append(name)
        lost = {label for label in labels if label.startswith("rlnUnknown") and label not in second.extra}
        lost |= {label for label in labels if label.startswith("rlnMy") and label not in second.optics[0].extra}
        if lost:
            failed.append(f"{name}: lost {lost}")
    measure(
        len(cases) - len(failed), unit="tables", threshold=f"all of {len(cases)}", note=f"{n_real} real, 200 variants"
    )
    assert n_real >= 20 and not failed, failed[:10]

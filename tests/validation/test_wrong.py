"""A wrong reference or a wrong symmetry is never passed over in silence; noise refined with a reference is false."""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from cryoloom.data import VolumeMap
from cryoloom.scoring.maps import score_map
from cryoloom.validation.half_map_checks import check_half_maps
from cryoloom.validation.items import Report
from cryoloom.validation.model_checks import KEYS as MODEL_KEYS
from cryoloom.validation.particle_checks import check_particles
from cryoloom.validation.settings import ValidateSettings

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun
from refinement_bed import ball, refine
from validation_bed import InMemory, make_bed, specimen_of

CASES = [
    *(
        ("symmetry", group, shape, seed)
        for seed, shape in ((0, "globule"), (1, "fork"))
        for group in ("C2", "C3", "D2", "D3")
    ),
    *(
        ("reference", kind, shape, seed)
        for seed, shape in ((0, "globule"), (1, "fork"))
        for kind in ("ball", "other", "dust")
    ),
    ("right", "C1", "globule", 0),
    ("right", "C1", "fork", 1),
    ("right", "D2", "rod", 0),
    ("right", "C3", "tripod", 1),
]


def report_of(bed, refined, symmetry):
    """Report on a refinement: half maps and particles, as the stage asks them."""
    with tempfile.TemporaryDirectory() as folder:
        run, report = MemoryRun(Path(folder)), Report()
        settings = ValidateSettings(symmetry=symmetry, particles_used=500)
        half1, half2 = refined.halves
        maps = check_half_maps(half1, half2, bed.volume.pixel_size, None, symmetry, run, report)
        check_particles(maps, refined.particles, InMemory(bed.images), None, settings, run, report)
        report.skip(MODEL_KEYS, "No atomic model was given.")
        return maps, json.loads(report.to_json())


def run_case(kind: str, what: str, shape: str, seed: int) -> dict:
    bed = make_bed(500, seed=seed, snr=0.2, shape=shape, symmetry=what if kind == "right" else "C1")
    truth, symmetry, reference = bed.volume, "C1", bed.volume.data
    if kind in ("symmetry", "right"):
        symmetry = what
    elif what == "ball":
        reference = ball(bed)
    elif what == "other":
        reference = specimen_of("fork" if shape == "globule" else "globule", "C1", 250.0, 5, 44, 4.4).truth(0).data
    elif what == "dust":
        reference = torch.randn(44, 44, 44, generator=torch.Generator().manual_seed(seed)).numpy() * ball(bed)
    refined = refine(bed, reference, symmetry)
    maps, report = report_of(bed, refined, symmetry)
    mean = VolumeMap(maps.mean.numpy(), truth.pixel_size)
    true_resolution = score_map(mean, truth).resolution
    reported = maps.found.resolution
    wrong = kind == "symmetry" or true_resolution > 1.5 * reported or true_resolution > 30.0
    explained = next(item["value"] for item in report["items"] if item["key"] == "explained")
    failed = [item["key"] for item in report["items"] if item["status"] == "failed"]
    return {
        "case": f"{kind} {what} {shape} {seed}", "wrong": bool(wrong), "verdict": report["verdict"], "failed": failed,
        "reported": round(reported, 2), "true": round(true_resolution, 2), "explained": explained,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.capability("NUL-2")
def test_no_wrong_reference_or_symmetry_is_passed_over(measure, evidence):
    i, n = evidence.shard
    done = {c["case"] for c in evidence.cases()}
    for case in CASES[i - 1 :: n]:
        if " ".join(map(str, case)) not in done:
            evidence.append(seed=case[3], outcome="", **run_case(*case))
    cases = evidence.cases()
    silent = [c["case"] for c in cases if c["wrong"] and c["verdict"] == "found"]
    right = [c for c in cases if c["case"].startswith("right")]
    note = (
        f"{len(cases)} refinements, {sum(c['wrong'] for c in cases)} of them wrong; "
        f"{sum(c['verdict'] == 'found' for c in right)} of {len(right)} right ones found"
    )
    measure(len(silent), "silent cases", "0", note=note)
    assert len(cases) >= len(CASES) and not silent
    assert all(c["verdict"] == "found" for c in right)
    assert sum(c["wrong"] for c in cases) >= 8


@pytest.mark.slow
def test_noise_refined_with_a_reference_is_called_false():
    for seed in range(3):
        bed = make_bed(200, seed=seed, snr=0.0)
        refined = refine(bed, bed.volume.data, iterations=4, lowpass=40.0)
        _, report = report_of(bed, refined, "C1")
        assert report["verdict"] == "not found", report["reasons"]

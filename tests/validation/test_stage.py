"""The stage as a user runs it: every item is answered, true maps pass, noise and planted faults are named."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.geometry import axis_angle_to_matrix
from cryoloom.io.mrc import write_mrc
from cryoloom.maps import apply_bfactor, lowpass, soft_mask_from_map, spherical_mask
from cryoloom.validation.items import CATALOGUE, GRAVE, STATUSES, Report
from cryoloom.validation.posed import reconstruct
from cryoloom.validation.settings import ValidateSettings
from cryoloom.validation.stage import validate_map

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun
from phantoms import half_maps, noise_for, protein_like
from validation_bed import make_bed

PIXEL = 2.2


def planted(resolution: float, seed: int = 0, box: int = 64):
    signal = apply_bfactor(protein_like(box, PIXEL, 38.0, seed), PIXEL, 150.0)
    mask = soft_mask_from_map(lowpass(signal, PIXEL, 15.0), PIXEL)
    return half_maps(signal, noise_for(signal, mask, PIXEL, resolution), seed)


def validate(folder, half1, half2, mask=None, pixel_size=PIXEL, **settings):
    run = MemoryRun(folder)
    maps = [None if m is None else VolumeMap(np.asarray(m, np.float32), pixel_size) for m in (half1, half2, mask)]
    results = validate_map(*maps, None, None, None, ValidateSettings(**settings), run)
    report = json.loads((folder / "validation.json").read_text())
    return results, run, report, {item["key"]: item for item in report["items"]}


def check_complete(report):
    """Every item of the catalogue once, with a status, a sentence, and a number or a reason."""
    assert [item["key"] for item in report["items"]] == list(CATALOGUE)
    for item in report["items"]:
        assert item["status"] in STATUSES and item["said"].strip().endswith((".", "!")), item
        assert item["title"] == CATALOGUE[item["key"]]
        if item["status"] == "not applicable":
            assert item["value"] is None and len(item["said"]) > 15
    assert report["verdict"] in ("found", "doubtful", "not found") and report["reasons"]


@pytest.fixture(scope="module")
def true_map(tmp_path_factory):
    halves = planted(7.5)
    return halves, validate(tmp_path_factory.mktemp("true"), *halves)


def test_a_true_map_is_found_and_its_halves_pass(true_map):
    _, (results, run, report, items) = true_map
    check_complete(report)
    assert report["verdict"] == "found" and run.summary["verdict"] == "found"
    assert items["resolution"]["value"] == pytest.approx(7.5, rel=0.1)
    assert items["hand"]["status"] == "doubtful" and {"map_this_hand", "map_other_hand"} <= set(results)
    flipped = results["map_this_hand"].data[::-1]
    np.testing.assert_allclose(results["map_other_hand"].data[1:], flipped[:-1], atol=1e-6)
    for key in ("mask_density", "shared_noise", "curve", "local", "directions", "contrast"):
        assert items[key]["status"] == "passed", items[key]
    assert {figure.name for figure in run.figures} >= {"items", "fsc"}


def test_a_cutting_mask_shared_noise_and_inverted_contrast_are_named(true_map, tmp_path):
    halves, _ = true_map
    *_, items = validate(tmp_path, *halves, mask=spherical_mask(64, 10.0, 4.0))
    assert items["mask_density"]["status"] == "failed"
    common = 0.7 * float(halves[0].std()) * torch.randn(halves[0].shape, generator=torch.Generator().manual_seed(9))
    _, _, report, items = validate(tmp_path, *(half + common for half in halves))
    assert items["shared_noise"]["status"] == "failed" or items["curve"]["status"] != "passed"
    assert report["verdict"] == "doubtful"


def test_an_item_is_answered_once_and_none_is_forgotten():
    report = Report()
    report.add("hand", "passed", "It is right.")
    with pytest.raises(ValueError, match="before"):
        report.add("hand", "passed", "It is right.")
    with pytest.raises(ValueError, match="without an answer"):
        report.items()
    with pytest.raises(ValueError, match="no item"):
        report.add("colour", "passed", "It is blue.")
    report.skip(tuple(CATALOGUE), "Nothing was given.")
    assert len(report.items()) == len(CATALOGUE) and set(GRAVE) <= set(CATALOGUE)


def test_maps_that_are_no_halves_are_refused(tmp_path):
    volume = torch.randn(16, 16, 16)
    with pytest.raises(InputError, match="same map"):
        validate(tmp_path, volume, volume)


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """Particles on disk with true poses, the half maps they give, and a second exposure at another tilt."""
    bed = make_bed(600, seed=3, snr=0.15)
    folder = tmp_path_factory.mktemp("particles")
    write_mrc(folder / "stack.mrcs", bed.images, bed.volume.pixel_size, kind="stack")
    particles = bed.truth.replace(image_path=np.array([str(folder / "stack.mrcs")] * len(bed.images)))
    posed = bed.posed()
    halves = [reconstruct(posed, posed.of_half(h), ThreadExecutor(1)) for h in (1, 2)]
    stage = axis_angle_to_matrix(torch.tensor([0.0, np.deg2rad(20.0), 0.0], dtype=torch.float64)).numpy()
    tilted = particles.replace(rotation=particles.rotation @ stage.T)
    return bed, particles, halves, tilted


@pytest.mark.slow
@pytest.mark.capability("VAL-6")
def test_every_item_is_filled_or_said_not_to_apply(true_map, refined, tmp_path, measure):
    check_complete(true_map[1][2])
    bed, particles, halves, tilted = refined
    maps = [VolumeMap(half.numpy(), bed.volume.pixel_size) for half in halves]
    for name, extra in (("halves", (None, None)), ("particles", (particles, None)), ("all", (particles, tilted))):
        (tmp_path / name).mkdir()
        run = MemoryRun(tmp_path / name)
        validate_map(*maps, None, *extra, None, ValidateSettings(particles_used=600, random_phases=name == "all"), run)
        report = json.loads((tmp_path / name / "validation.json").read_text())
        check_complete(report)
    items = {item["key"]: item for item in report["items"]}
    filled = sum(item["status"] != "not applicable" for item in items.values())
    note = f"{filled} of {len(CATALOGUE)} items filled with particles and tilt pairs, the others name what is missing"
    measure(100.0, "% of the items filled or not applicable", "100", note=note)
    for key in (
        "held_out",
        "explained",
        "random_phases",
        "decoys",
        "alignability",
        "reslog",
        "tilt_pairs",
        "half_sets",
    ):
        assert items[key]["status"] == "passed", items[key]
    assert items["tilt_pairs"]["detail"]["tilt_deg"] == pytest.approx(20.0, abs=0.1)

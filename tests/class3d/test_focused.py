"""HET-2: a part of 28 kDa that half of the particles of 530 kDa have, told by what lies inside a mask."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from cryoloom.data import VolumeMap
from cryoloom.io.map_file import write_map
from cryoloom.io.records import read_particles, write_particles
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.project.runner import run_stage
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

BOX, PIXEL_SIZE, N, SNR = 128, 1.9, 3000, 0.05


def _auc(score: np.ndarray, member: np.ndarray) -> float:
    """Probability that a member scores above one that is none; names of classes mean nothing, so at least 0.5."""
    rank, n = rankdata(score), int(member.sum())
    area = (rank[member].sum() - n * (n + 1) / 2) / (n * (len(member) - n))
    return float(max(area, 1 - area))


def _sorted(particles, mask, truth, out) -> tuple[float, dict]:
    """AUC of the memberships in two classes, told apart inside the mask at the poses that are given."""
    job = run_stage(
        "class3d", {"particles": particles, "reference": None, "mask": mask}, {"classes": 2, "alignment": False},
        out=out,
    )  # fmt: skip
    found = read_particles(job["particles"])
    return _auc(found.extra["cryoloomClassProbability001"].astype(float), truth.class_number == 1), job.summary


@pytest.mark.slow
@pytest.mark.capability("HET-2")
def test_a_small_part_is_told_inside_a_mask_on_whole_and_on_subtracted_images(tmp_path, measure):
    atoms = phantom("globule", "C1", mass_kda=530.0, seed=4)
    part = atoms.only_chains(["G"])
    assert part.mass_kda < 30.0 and atoms.mass_kda > 500.0
    states = [(potential_map(a, BOX, PIXEL_SIZE),) for a in (atoms, atoms.without_chains(["G"]))]
    specimen = Specimen(tuple(states), diameter=atoms.diameter, weights=(0.5, 0.5))
    truth = simulate_particles(specimen, tmp_path / "images", ParticleRecipe(n=N, snr=SNR, junk=0.0), seed=4)
    write_particles(observed(truth), tmp_path / "particles.star")
    write_map(specimen.truth(1), tmp_path / "without.mrc")
    density = torch.from_numpy(np.ascontiguousarray(potential_map(part, BOX, PIXEL_SIZE).data))
    mask = soft_mask_from_map(density, PIXEL_SIZE, lowpass_resolution=15.0, extend=8.0)
    write_map(VolumeMap(mask.numpy(), PIXEL_SIZE), tmp_path / "mask.mrc")
    whole = run_stage(
        "refine", {"particles": tmp_path / "particles.star", "reference": tmp_path / "without.mrc"},
        {"initial_lowpass": 40.0}, out=tmp_path / "whole",
    )  # fmt: skip
    inside, on_whole = _sorted(whole["particles"], tmp_path / "mask.mrc", truth, tmp_path / "focused")
    cut = run_stage(
        "subtract",
        {"particles": whole["particles"], "half1": whole["half1"], "half2": whole["half2"]}
        | {"mask": tmp_path / "mask.mrc"},
        {},
        out=tmp_path / "cut",
    )
    subtracted, on_cut = _sorted(cut["particles"], cut["mask"], truth, tmp_path / "subtracted")
    true = float(np.mean(truth.class_number == 1))
    for name, area, summary in (("whole images", inside, on_whole), ("subtracted images", subtracted, on_cut)):
        share = sorted(abs(true - p) for p in summary["populations"])[0]
        measure(
            round(area, 3), "AUC", ">= 0.9",
            note=f"{part.mass_kda:.0f} kDa on {atoms.mass_kda:.0f} kDa, {N} particles, SNR {SNR}, {name}; population "
            f"{100 * share:.1f} points off; {summary['verdict']}; {summary['cpu_seconds']:.0f} CPU s",
        )  # fmt: skip
    assert inside >= 0.9
    assert subtracted >= 0.9
    assert on_whole["verdict"] == "found" and on_cut["verdict"] == "found"

"""The hand is called right or not at all, and both hands are written out when it is not sure."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.data import VolumeMap
from cryoloom.maps import lowpass, soft_mask_from_map
from cryoloom.maps.superpose import mirror_z
from cryoloom.simulate.potential import potential_map
from cryoloom.simulate.structure import read_atoms
from cryoloom.validation.hand import call_hand
from cryoloom.validation.helix import helix_atoms
from cryoloom.validation.settings import ValidateSettings
from cryoloom.validation.stage import validate_map

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun


def test_the_ideal_helix_is_right_handed_with_the_rise_and_turn_of_an_alpha_helix():
    alpha = helix_atoms(12)[1::5]
    angle = np.rad2deg(np.diff(np.unwrap(np.arctan2(alpha[:, 1], alpha[:, 0]))))
    np.testing.assert_allclose(angle, 100, atol=2)
    np.testing.assert_allclose(np.diff(alpha[:, 2]), 1.5, atol=0.1)
    np.testing.assert_allclose(np.hypot(alpha[:, 0], alpha[:, 1]), 2.3, atol=0.1)


def adenylate_kinase(real_models: Path):
    atoms = read_atoms(real_models / "1ake.cif", bfactor=40.0)
    return atoms.only_chains([atoms.chain[0]]).centred()


def halves_of(volume, pixel_size, mask, resolution, noise, seed):
    """Two half maps that agree to about a resolution: noise as strong as the signal beyond it."""
    generator = torch.Generator().manual_seed(seed)
    low = lowpass(volume, pixel_size, resolution)
    sigma = noise * float(low[mask > 0.5].std())
    return [low + sigma * torch.randn(low.shape, generator=generator) for _ in range(2)]


STRUCTURES = {"1ake.cif": (1.3, 64), "3o21.cif": (1.6, 96), "3SN6.cif": (1.6, 128), "5a1a.pdb": (1.6, 128)}
CASES = [
    (name, resolution, mirrored)
    for name in STRUCTURES
    for resolution, mirrored in ((3.4, False), (3.4, True), (4.2, False), (5.4, True), (6.3, False), (9.0, True))
]


def called(models: Path, name: str, resolution: float, mirrored: bool) -> dict:
    """What is said of the hand of one noisy map."""
    pixel_size, box = STRUCTURES[name]
    atoms = adenylate_kinase(models) if name == "1ake.cif" else read_atoms(models / name, bfactor=40.0)
    volume = torch.from_numpy(potential_map(atoms, box, pixel_size).data)
    mask = soft_mask_from_map(volume, pixel_size)
    halves = halves_of(volume, pixel_size, mask, resolution, 1.0, seed=round(10 * resolution))
    noisy = lowpass(sum(halves) / 2, pixel_size, resolution)
    seen, outline = (mirror_z(noisy), mirror_z(mask)) if mirrored else (noisy, mask)
    call = call_hand(seen, pixel_size, outline, resolution)
    return {"case": f"{name} {resolution} {mirrored}", "call": call.call, "value": round(call.t, 2)}


@pytest.mark.slow
@pytest.mark.capability("VAL-8")
def test_the_hand_is_right_or_unsure_with_both_hands_exported(shared_data, tmp_path, measure, evidence):
    i, n = evidence.shard
    done = {c["case"] for c in evidence.cases()}
    for name, resolution, mirrored in CASES[i - 1 :: n]:
        if f"{name} {resolution} {mirrored}" not in done:
            found = called(shared_data / "models", name, resolution, mirrored)
            right = "mirrored" if mirrored else "right"
            outcome = "right" if found["call"] == right else "unsure" if found["call"] == "unsure" else "wrong"
            evidence.append(seed=round(10 * resolution), outcome=outcome, **found)
    # An unsure call writes both hands: a map at 9 Å through the whole stage.
    volume = torch.from_numpy(potential_map(adenylate_kinase(shared_data / "models"), 64, 1.6).data)
    halves = halves_of(volume, 1.6, soft_mask_from_map(volume, 1.6), 9.0, 1.0, 5)
    results = validate_map(
        *(VolumeMap(h.numpy(), 1.6) for h in halves), None, None, None, None, ValidateSettings(), MemoryRun(tmp_path)
    )
    both = {"map_this_hand", "map_other_hand"} <= set(results)
    cases = evidence.cases()
    wrong = [c["case"] for c in cases if c["outcome"] == "wrong"]
    sure = sum(c["outcome"] == "right" for c in cases)
    note = f"{len(cases)} maps of 4 structures, 3.4 to 9 Å, both hands, noise; {sure} called, {len(wrong)} wrong"
    measure(100 * (1 - len(wrong) / max(len(cases), 1)), "% right or unsure", "100", note=note)
    assert len(cases) >= len(CASES) and not wrong and both and sure >= 6

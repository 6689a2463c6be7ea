"""A symmetry that the particles do not have is broken alike in both halves; a true one is not."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.geometry import symmetry_matrices
from cryoloom.maps.mask import spherical_mask
from cryoloom.validation.relaxed_symmetry import compare_relaxed_halves

sys.path.insert(0, str(Path(__file__).resolve().parent))
from validation_bed import make_bed


def relaxed(true: str, imposed: str, shape: str, seed: int):
    bed = make_bed(500, seed=seed, snr=0.15, shape=shape, symmetry=true)
    posed = bed.posed()
    operators = symmetry_matrices(imposed).numpy()
    pick = operators[np.random.default_rng(seed).integers(len(operators), size=len(posed.poses))]
    posed = replace(posed, poses=replace(posed.poses, rotation=pick @ posed.poses.rotation))
    mask = spherical_mask(44, 0.5 * bed.diameter / 4.4, 3.0)
    generator = torch.Generator().manual_seed(seed)
    return compare_relaxed_halves(posed, mask, ThreadExecutor(1), generator, symmetry=imposed, radius=9)


@pytest.mark.parametrize(
    "true, imposed, shape, broken",
    [
        ("C1", "C2", "globule", True),
        pytest.param("C1", "D2", "globule", True, marks=pytest.mark.slow),
        pytest.param("D2", "D2", "rod", False, marks=pytest.mark.slow),
        ("C2", "C2", "rod", False),
    ],
)
def test_only_a_false_symmetry_breaks(true, imposed, shape, broken):
    found = relaxed(true, imposed, shape, 1)
    assert found.broken == broken, found

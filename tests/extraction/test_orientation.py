"""FOR-2 and FOR-5: the sign of contrast, and flipped or swapped axes of coordinates, are seen in the micrographs."""

import numpy as np
import picking_bed
import pytest

from cryoloom.data import MicrographSet, Optics, PickSet
from cryoloom.extraction.orientation import SYMMETRIES, decide_symmetry, symmetry_name, transform_positions
from cryoloom.io.mrc import write_mrc
from cryoloom.project.runner import run_stage

# mass in kDa, axis ratios, particles per micrograph, SNR, defocus in Å, shape of the micrographs
CASES = (
    (70, (1, 1, 1), 60, 0.1, 12_000, (640, 600)),
    (150, (1, 1, 2), 40, 0.05, 20_000, (640, 640)),
    (465, (0.8, 1.2, 1.7), 20, 0.05, 9_000, (600, 720)),
)


def simulated(folder, case, seed):
    mass, axes, n, snr, defocus, shape = case
    beads = picking_bed.bead_cloud(mass, axes, seed)
    truth = [
        picking_bed.simulate(
            beads, shape=shape, n_particles=n, snr=snr, defocus=defocus, gradient=0.5, seed=10 * seed + i
        )
        for i in range(4)
    ]
    paths = np.asarray([str(folder / f"m{i}.mrc") for i in range(4)])
    return MicrographSet(path=paths, optics=(Optics(pixel_size=1.5),), optics_index=np.zeros(4, int)), truth


def extract(folder, micrographs, truth, symmetry, sign):
    """The stage on coordinates that one of the symmetries has displaced, and micrographs of either sign."""
    for path, one in zip(micrographs.path, truth, strict=True):
        write_mrc(path, sign * one.image, 1.5)
    swap, flip_y, flip_x = symmetry
    places = []
    for one in truth:  # the inverse of the symmetry: first flips, then the swap
        place = transform_positions(one.position_px, one.image.shape, (False, flip_y, flip_x))
        places.append(place[:, ::-1] if swap else place)
    picks = PickSet(
        position_px=np.concatenate(places),
        micrograph=np.repeat(micrographs.path, [len(p) for p in places]),
        diameter=truth[0].diameter,
    )
    return run_stage(
        "extract",
        {"micrographs": micrographs, "picks": picks},
        {"target_pixel_size": 6.0, "edge": "mirror"},
        out=folder,
        threads=1,
    ).summary


def gather(tmp_path, cases, symmetries):
    """How many of all jobs found the axes, how many the sign, and the number of jobs."""
    axes = signs = n = 0
    for seed, case in enumerate(cases):
        micrographs, truth = simulated(tmp_path, case, seed)
        for i, symmetry in enumerate(symmetries):
            sign = 1 if (i + seed) % 2 == 0 else -1
            summary = extract(tmp_path / f"{seed}_{i}", micrographs, truth, symmetry, sign)
            axes += summary["axes"] == symmetry_name(SYMMETRIES.index(symmetry))
            signs += summary["contrast_inverted"] == (sign > 0)
            n += 1
    return axes, signs, n


def test_wrong_axes_are_put_right_and_right_ones_left(tmp_path):
    axes, signs, n = gather(tmp_path, CASES[:1], (SYMMETRIES[0], SYMMETRIES[6]))
    assert axes == signs == n == 2


@pytest.mark.slow
@pytest.mark.capability("FOR-5")
@pytest.mark.capability("FOR-2")
def test_axes_and_sign_are_found_in_all_simulated_sets(tmp_path, measure):
    axes, signs, n = gather(tmp_path, CASES, SYMMETRIES)
    measure(100 * min(axes, signs) / n, "%", "== 100", note=f"axes in {axes}, sign in {signs} of {n} jobs")
    assert axes == signs == n


def test_coordinates_of_noise_stay_as_given():
    rng = np.random.default_rng(0)
    contrasts = [rng.normal(size=300) for _ in SYMMETRIES]
    assert decide_symmetry(contrasts, 300)[0] == 0
    contrasts[5] = contrasts[5] - 1.0
    assert decide_symmetry(contrasts, 300)[0] == 5
    contrasts[5] = contrasts[5][:200]  # a third of the places would lie outside
    assert decide_symmetry(contrasts, 300)[0] == 0

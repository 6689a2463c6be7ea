"""Phantoms are like proteins: as dense, as compact, and with structure factors of the same size."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from cryoloom.geometry import symmetry_matrices
from cryoloom.simulate.phantom import hinged_phantom, phantom
from cryoloom.simulate.potential import potential_map

# Root mean square structure factor per kDa^(1/2) and Å3 at 30, 20, 15, 12, 10, 8 and 7 Å of RNA polymerase II (1WCM),
# ferritin (1FHA), GroEL (1OEL) and beta-galactosidase (5A1A), made by `structure_factors` below; the smallest and the
# largest of the four.
RESOLUTIONS = [30, 20, 15, 12, 10, 8, 7]
LOWEST = np.array([47.9, 20.3, 21.5, 20.2, 19.7, 15.4, 12.5])
HIGHEST = np.array([67.3, 32.0, 24.1, 26.9, 22.0, 17.4, 15.2])


def structure_factors(atoms):
    pixel_size = 3.0
    box = int(2 * (atoms.diameter / 2 + 12) / pixel_size) // 2 * 2 + 2
    dft = np.fft.rfftn(potential_map(atoms, box, pixel_size).data)
    full, half = np.fft.fftfreq(box, pixel_size), np.fft.rfftfreq(box, pixel_size)
    k = np.sqrt(full[:, None, None] ** 2 + full[:, None] ** 2 + half**2)
    width = 0.75 / (box * pixel_size)
    return np.array(
        [np.sqrt((np.abs(dft[np.abs(k - 1 / r) < width]) ** 2).mean()) for r in RESOLUTIONS]
    ) * pixel_size**3 / np.sqrt(1.075 * atoms.mass_kda)  # fmt: skip


def envelope_density(atoms):
    """Da per Å3, hydrogens added, within the envelope of balls of 3.2 Å shrunk by 1.5 Å."""
    reach = int(np.abs(atoms.position).max()) + 6
    empty = np.ones((2 * reach + 1,) * 3, bool)
    empty[tuple(np.rint(atoms.position).astype(int).T + reach)] = False
    ball = distance_transform_edt(empty) <= 3.2
    return 1075 * atoms.mass_kda / (distance_transform_edt(ball) > 1.5).sum()


@pytest.mark.parametrize("shape", ["globule", "rod", "ring", "shell"])
def test_structure_factors_are_those_of_proteins(shape):
    ratio = structure_factors(phantom(shape, mass_kda=250)) / np.sqrt(LOWEST * HIGHEST)
    assert np.exp(np.abs(np.log(ratio)).mean()) < 1.25
    assert np.abs(np.log(ratio)).max() < np.log(2.0)  # near the zeros of a shell


@pytest.mark.parametrize("shape, symmetry", [("globule", None), ("rod", "C2"), ("tripod", "D3"), ("shell", "T")])
def test_density_and_size_are_those_of_proteins(shape, symmetry):
    atoms = phantom(shape, symmetry, mass_kda=150)
    assert atoms.mass_kda == pytest.approx(150, rel=0.02)
    assert 0.6 < envelope_density(atoms) < 0.82  # the four models: 0.73 to 0.76
    gyration = np.sqrt((atoms.position**2).sum(1).mean())
    ball = np.sqrt(3 / 5) * (3 * 1.21 * 1075 * 150 / (4 * np.pi)) ** (1 / 3)
    assert 1.0 < gyration / ball < 1.6  # proteins: 1.1 to 1.6


@pytest.mark.parametrize("shape, symmetry", [("globule", "C1"), ("shell", "O"), ("ring", "C7"), ("rod", "I1")])
def test_subunits_touch_and_do_not_clash(shape, symmetry):
    """All atoms hang together across 5 Å, and none come closer than atoms that are bonded."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    atoms = phantom(shape, symmetry, mass_kda=120 if symmetry != "I1" else 500)
    tree = cKDTree(atoms.position)
    n_parts, part = connected_components(tree.sparse_distance_matrix(tree, 5.0, output_type="coo_matrix"))
    assert np.bincount(part).max() > 0.98 * len(atoms)
    copies = len(symmetry_matrices(symmetry))
    own = np.arange(len(atoms)) // (len(atoms) // copies)
    pairs = tree.query_pairs(2.1, output_type="ndarray")
    assert (own[pairs[:, 0]] != own[pairs[:, 1]]).mean() < 0.01


def test_a_hinged_phantom_opens_about_its_hinge():
    body, arm = hinged_phantom(0.0)
    same, opened = hinged_phantom(0.5)
    np.testing.assert_array_equal(body.position, same.position)
    np.testing.assert_allclose(np.linalg.norm(opened.position, axis=1), np.linalg.norm(arm.position, axis=1))
    assert body.mass_kda + arm.mass_kda == pytest.approx(120, rel=0.02)

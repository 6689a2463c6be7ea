"""Potentials against the sum over atoms, and structures in their conventional frames."""

import numpy as np
import pytest
import torch

from cryoloom.geometry import random_rotations, symmetry_matrices
from cryoloom.simulate.atoms import Atoms
from cryoloom.simulate.frame import standard_frame, superpose_points
from cryoloom.simulate.phantom import SHAPES, phantom
from cryoloom.simulate.potential import ICE_DENSITY, potential_map, scattering_factor, solvent_envelope
from cryoloom.simulate.structure import read_atoms, read_symmetric


def some_atoms(n=40, reach=15.0):
    rng = np.random.default_rng(0)
    return Atoms(
        position=rng.uniform(-reach, reach, (n, 3)),
        element=rng.choice([6, 7, 8, 16], n),
        bfactor=rng.integers(5, 60, n).astype(float),
        occupancy=rng.uniform(0.5, 1, n),
        chain=np.full(n, "A"),
    )


@pytest.mark.parametrize("box", [32, 33])
def test_a_potential_has_the_transform_of_its_atoms(box):
    atoms, pixel_size = some_atoms(), 1.5
    data = potential_map(atoms, box, pixel_size, solvent=False).data
    dft = np.fft.fftn(np.fft.ifftshift(data.astype(np.float64)))
    rng = np.random.default_rng(1)
    index = rng.integers(-box // 2 + 4, box // 2 - 3, (300, 3))  # zyx
    k = index / (box * pixel_size)
    length = np.linalg.norm(k, axis=1)
    use = length < 0.84 * 0.5 / pixel_size
    factors = np.stack([scattering_factor(e, length, b) for e, b in zip(atoms.element, atoms.bfactor, strict=True)], 1)
    phases = np.exp(-2j * np.pi * k[:, ::-1] @ atoms.position.T)
    expected = (factors * atoms.occupancy * phases).sum(1) / pixel_size**3
    found = dft[tuple(index.T)]
    error = np.sqrt((np.abs(found - expected)[use] ** 2).mean() / (np.abs(expected)[use] ** 2).mean())
    assert error < 1e-4


def test_atoms_outside_of_the_box_are_refused():
    with pytest.raises(ValueError, match="too small"):
        potential_map(some_atoms(reach=40.0), 32, 1.5)


def test_the_solvent_envelope_fills_the_inside_of_a_protein():
    atoms = phantom("globule", mass_kda=60)
    envelope = solvent_envelope(atoms, 64, 2.0).numpy()
    assert 0 <= envelope.min() and envelope.max() < 1
    place = np.round(atoms.position / 2.0).astype(int)[:, ::-1] + 32
    assert envelope[tuple(place.T)].mean() > 0.75
    assert envelope[:3].max() < 1e-3


def test_ice_takes_away_about_half_of_the_contrast():
    atoms = phantom("globule", mass_kda=60)
    bare = potential_map(atoms, 64, 2.0, solvent=False).data.sum()
    wet = potential_map(atoms, 64, 2.0).data.sum()
    assert 0.25 < wet / bare < 0.7
    assert 0.08 < ICE_DENSITY < 0.11


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_phantoms_have_their_mass_symmetry_and_density(shape):
    atoms = phantom(shape, mass_kda=300)
    assert 240 < atoms.mass_kda < 360
    operators = symmetry_matrices(SHAPES[shape]).numpy()
    for operator in operators[1:3]:
        turned = atoms.moved(operator).position
        # every copied atom falls on an atom
        order = np.lexsort(np.round(turned, 3).T)
        other = np.lexsort(np.round(atoms.position, 3).T)
        np.testing.assert_allclose(np.sort(turned.sum(1)), np.sort(atoms.position.sum(1)), atol=1e-6)
        assert len(order) == len(other)
    assert np.linalg.norm(atoms.centre_of_mass) < 1.0 or len(operators) == 1
    assert atoms.diameter < 260


def test_another_seed_gives_another_phantom_of_the_same_kind():
    one, same, other = (phantom("globule", mass_kda=100, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.position, same.position)
    assert len(other) != len(one)


@pytest.mark.parametrize("symmetry", ["C2", "C5", "D2", "D3", "D7", "T", "O", "I1", "I3"])
def test_the_frame_of_a_turned_group_is_found(symmetry):
    operators = symmetry_matrices(symmetry).numpy()
    turn = random_rotations(1, torch.Generator().manual_seed(3))[0].numpy()
    order = np.random.default_rng(0).permutation(len(operators))
    q = standard_frame((turn @ operators @ turn.T)[order], symmetry)
    back = q @ turn @ operators @ turn.T @ q.T
    nearest = np.abs(back[:, None] - operators[None]).max((2, 3)).min(1)
    assert nearest.max() < 1e-6


def test_operators_of_another_group_are_refused():
    with pytest.raises(ValueError, match="differ"):
        standard_frame(symmetry_matrices("C4").numpy(), "D2")


def test_points_are_superposed():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(20, 3))
    turn = random_rotations(1, torch.Generator().manual_seed(1))[0].numpy()
    rotation, translation = superpose_points(a, a @ turn.T + [1, 2, 3])
    np.testing.assert_allclose(rotation, turn, atol=1e-12)
    np.testing.assert_allclose(translation, [1, 2, 3], atol=1e-12)


@pytest.mark.parametrize(
    ("name", "symmetry", "atoms_of_one"), [("1fha.pdb", "O", 1340), ("1oel.pdb", "D7", 3847), ("5a1a.pdb", "D2", 8230)]
)
def test_crystal_files_give_the_particle_on_conventional_axes(shared_data, name, symmetry, atoms_of_one):
    atoms = read_symmetric(shared_data / "models" / name, symmetry)
    operators = symmetry_matrices(symmetry).numpy()
    assert len(atoms) == atoms_of_one * len(operators)
    assert np.linalg.norm(atoms.centre_of_mass) < 0.01
    # the assembly as the file builds it is the same body: equal radii of gyration
    plain = read_atoms(shared_data / "models" / name)
    assert np.sqrt((plain.position**2).sum(1).mean()) == pytest.approx(
        np.sqrt((atoms.position**2).sum(1).mean()), rel=0.01
    )


def test_chains_keep_their_names_where_nothing_is_copied(shared_data):
    atoms = read_atoms(shared_data / "models" / "1WCM.pdb")
    assert set(atoms.chain.tolist()) == set("ABCDEFGHIJKL")
    assert len(atoms.without_chains(["D", "G"])) < len(atoms)

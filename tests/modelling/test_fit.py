"""Rigid fits of models to maps of another making, from random starts."""

import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.geometry import random_rotations
from cryoloom.io.map_file import write_map
from cryoloom.io.model_file import read_model
from cryoloom.maps import lowpass, soft_mask_from_map
from cryoloom.project.runner import run_stage
from cryoloom.simulate.potential import potential_map
from cryoloom.simulate.structure import read_atoms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from phantoms import half_maps, noise_for

RESOLUTION = 6.0


def noisy_map(path, box, pixel, seed):
    """Scattering potential in ice with noise that makes the FSC of two halves 1/7 at 6 Å, low-passed to that."""
    signal = torch.from_numpy(potential_map(read_atoms(path, assembly=None), box, pixel).data)
    mask = soft_mask_from_map(lowpass(signal, pixel, 12.0), pixel, lowpass_resolution=12.0)
    halves = half_maps(signal, noise_for(signal, mask, pixel, RESOLUTION), seed)
    return lowpass(0.5 * (halves[0] + halves[1]), pixel, RESOLUTION).numpy()


def model_of(source, tmp_path, chain=None):
    """The model alone, first conformer, in a file."""
    structure = gemmi.read_structure(str(source))
    structure.remove_alternative_conformations()
    structure.remove_hydrogens()
    structure.remove_waters()
    if chain:
        for name in [c.name for c in structure[0] if c.name != chain]:
            structure[0].remove_chain(name)
    structure.assemblies.clear()
    path = tmp_path / f"{Path(source).stem}.cif"
    structure.make_mmcif_document().write_file(str(path))
    return path


def scattered(path, seed, target):
    """The model turned and moved at random."""
    structure = gemmi.read_structure(str(path))
    rotation = random_rotations(1, torch.Generator().manual_seed(seed))[0].numpy()
    shift = np.random.default_rng(seed).uniform(-300, 300, 3)
    move = gemmi.Transform(gemmi.Mat33(rotation.tolist()), gemmi.Vec3(*shift.tolist()))
    structure[0].transform_pos_and_adp(move)
    structure.make_mmcif_document().write_file(str(target))


def rmsd_of_fit(source, chain, box, pixel, seed, tmp_path, origin=(17.0, -40.0, 5.0)):
    path = model_of(source, tmp_path, chain)
    truth = read_atoms(path, assembly=None)  # centred as the map is made
    write_map(VolumeMap(noisy_map(path, box, pixel, seed), pixel, origin), tmp_path / "map.mrc")
    scattered(path, seed, tmp_path / "start.cif")
    done = run_stage("fit", {"model": tmp_path / "start.cif", "map": tmp_path / "map.mrc"}, {}, out=tmp_path / "fit")
    fitted = read_model(done.folder / "fitted.cif").position
    expected = truth.position + np.array(origin) + (box // 2) * pixel
    return float(np.sqrt(((fitted - expected) ** 2).sum(1).mean())), done


@pytest.mark.capability("MOD-1")
def test_a_model_finds_its_place_from_a_random_start(shared_data, tmp_path, measure):
    rmsd, done = rmsd_of_fit(shared_data / "models" / "4ake.cif", "A", 48, 2.0, 1, tmp_path)
    measure(round(rmsd, 3), unit="Å", threshold="< 1", note="4AKE chain A, 24 kDa, map at 6 Å with noise")
    assert rmsd < 1.0 and done.summary["verdict"] == "found"


@pytest.mark.capability("MOD-1")
@pytest.mark.slow
@pytest.mark.parametrize("name, box, pixel", [("1WCM.pdb", 100, 2.0), ("3SN6.cif", 100, 2.0)])
def test_large_models_find_their_place(shared_data, tmp_path, measure, name, box, pixel):
    rmsd, done = rmsd_of_fit(shared_data / "models" / name, None, box, pixel, 5, tmp_path)
    measure(round(rmsd, 3), unit="Å", threshold="< 1", note=f"{name}, map at 6 Å with noise, random start")
    assert rmsd < 1.0 and done.summary["verdict"] == "found"


def test_a_model_that_is_not_in_the_map_is_doubted(shared_data, tmp_path):
    noise = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    write_map(VolumeMap(lowpass(torch.from_numpy(noise), 2.5, 7.0).numpy(), 2.5), tmp_path / "map.mrc")
    path = model_of(shared_data / "models" / "1ake.cif", tmp_path, "A")
    done = run_stage("fit", {"model": path, "map": tmp_path / "map.mrc"}, {"resolution": 8.0}, out=tmp_path / "fit")
    assert done.summary["verdict"] == "doubtful" and done.summary["warnings"]
    write_map(VolumeMap(noise[:8, :8, :8], 2.0), tmp_path / "small.mrc")
    with pytest.raises(InputError, match="width of the map"):
        run_stage("fit", {"model": path, "map": tmp_path / "small.mrc"}, {}, out=tmp_path / "no")

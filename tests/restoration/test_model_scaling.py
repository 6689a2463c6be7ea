"""Amplitudes after a model: nearer to the truth with the right one, nothing of a wrong one, phases all but kept."""

import sys
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.maps import highpass, lowpass
from cryoloom.maps.local_filter import measure_bands
from cryoloom.maps.model_scaling import scale_to_model, scale_to_protein
from cryoloom.maps.phases import phase_change_deg
from cryoloom.maps.windowed import WindowedHalves
from cryoloom.restoration.settings import RestoreSettings
from cryoloom.restoration.stage import restore_map

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_local import BOX, PIXEL, rscc, two_parts

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun
from phantoms import protein_like


def test_the_right_model_brings_the_map_nearer_to_the_truth_and_a_wrong_one_leaves_no_trace():
    truth, mask, halves = two_parts(3)
    pair = WindowedHalves(*halves, PIXEL, mask, 10.0)
    mean = 0.5 * (halves[0] + halves[1])
    bands = measure_bands(pair, resolution=4.0)
    inside = (mask > 0.9).numpy()

    def detail(volume):
        """What lies between 10 and 4 Å, where parts are blurred differently."""
        return highpass(lowpass(volume, PIXEL, 4.0), PIXEL, 10.0).numpy()

    target, plain = detail(truth), rscc(detail(mean), detail(truth), inside)
    scaled = scale_to_model(pair, bands, truth)
    assert rscc(detail(scaled), target, inside) > plain + 0.03
    assert phase_change_deg(mean * mask, scaled, PIXEL, 4.0) < 30

    lifted = scale_to_protein(pair, bands)
    assert rscc(detail(lifted), target, inside) > plain + 0.02
    assert phase_change_deg(mean * mask, lifted, PIXEL, 4.0) < 30

    other = protein_like(BOX, PIXEL, 30.0, seed=77)
    after = scale_to_model(pair, bands, other)
    assert rscc(detail(after), target, inside) > plain
    assert abs(rscc(detail(after), detail(other), inside)) < abs(rscc(detail(mean), detail(other), inside)) + 0.05


def test_a_model_beside_the_map_is_refused():
    _, mask, halves = two_parts(3)
    pair = WindowedHalves(*halves, PIXEL, mask, 10.0)
    with pytest.raises(ValueError, match="outside"):
        scale_to_model(pair, measure_bands(pair, resolution=4.0), torch.zeros(BOX, BOX, BOX))


def test_the_stage_takes_a_model_file(tmp_path):
    _, _, halves = two_parts(3)
    maps = [VolumeMap(h.numpy(), PIXEL) for h in halves]
    write_atoms(tmp_path / "model.pdb", 0.5 * BOX * PIXEL + 12.0 * np.random.default_rng(0).normal(size=(300, 3)))
    run = MemoryRun(tmp_path)
    found = restore_map(*maps, None, tmp_path / "model.pdb", RestoreSettings(), run)
    assert np.isfinite(found["map_local"].data).all() and "local_bfactor" not in found
    assert run.summary["amplitudes_of"] == "model" and run.summary["phase_change_deg"] < 90
    assert any("judge the model" in w for w in run.warnings)
    run = MemoryRun(tmp_path)
    found = restore_map(*maps, None, None, RestoreSettings(method="amplitude"), run)
    assert "local_bfactor" not in found and run.summary["amplitudes_of"] == "protein"
    write_atoms(tmp_path / "far.pdb", np.full((5, 3), 900.0))
    with pytest.raises(InputError, match="origin"):
        restore_map(*maps, None, tmp_path / "far.pdb", RestoreSettings(), run)


def write_atoms(path, positions):
    """A PDB file of alanine's alpha carbons at xyz Å."""
    chain = gemmi.Chain("A")
    for i, place in enumerate(positions):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(i + 1, " ")
        atom.name, atom.element, atom.pos, atom.b_iso = "CA", gemmi.Element("C"), gemmi.Position(*place), 20.0 + i % 40
        residue.add_atom(atom)
        chain.add_residue(residue)
    structure, model = gemmi.Structure(), gemmi.Model("1")
    model.add_chain(chain)
    structure.add_model(model)
    structure.write_pdb(str(path))

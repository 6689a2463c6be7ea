"""Map against model: the Q-score falls with resolution, and planted wrong side chains and registers are found."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cryoloom.data import VolumeMap
from cryoloom.data.model import AtomicModel
from cryoloom.io.model_file import read_model
from cryoloom.maps import lowpass
from cryoloom.maps.atoms import MapSampler, atom_density
from cryoloom.validation.qscore import q_scores
from cryoloom.validation.residues import score_residues
from cryoloom.validation.settings import ValidateSettings
from cryoloom.validation.stage import validate_map

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "maps"))
from memory_run import MemoryRun

PIXEL, BOX = 1.0, 80


def one_chain(path, name="A") -> AtomicModel:
    model = read_model(path)
    chain = model.chain == name
    protein = np.isin(model.residue, np.unique(model.residue[chain & (model.atom_name == "CA")]))
    return pick(model, chain & protein)


def pick(model: AtomicModel, rows: np.ndarray) -> AtomicModel:
    columns = {f: getattr(model, f)[rows] for f in AtomicModel.__dataclass_fields__}
    columns["residue"] = np.unique(columns["residue"], return_inverse=True)[1]
    centred = columns["position"] - columns["position"].mean(0) + BOX / 2 * PIXEL
    return AtomicModel(**(columns | {"position": centred}))


def noisy_map(model: AtomicModel, resolution: float, noise: float = 0.25, seed: int = 0) -> np.ndarray:
    density = atom_density(model.position, model.element, np.full(len(model), 30.0), (BOX,) * 3, PIXEL)
    generator = torch.Generator().manual_seed(seed)
    low = lowpass(density, PIXEL, resolution)
    grain = lowpass(torch.randn(low.shape, generator=generator), PIXEL, resolution)
    return (low + noise * low[density > 1].std() * grain / grain.std()).numpy()


def scores(model: AtomicModel, volume: np.ndarray):
    sampler = MapSampler(volume, PIXEL, (0.0, 0.0, 0.0))
    q = q_scores(model.position, sampler, float(volume.mean()), float(volume.std()))
    return q, score_residues(model, q)


def frame_of(model: AtomicModel, residue: int) -> tuple[np.ndarray, np.ndarray]:
    """Axes and place of N, CA, C of a residue."""
    at = {n: model.position[(model.residue == residue) & (model.atom_name == n)][0] for n in ("N", "CA", "C")}
    x = at["C"] - at["CA"]
    x /= np.linalg.norm(x)
    y = at["N"] - at["CA"] - x * ((at["N"] - at["CA"]) @ x)
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1), at["CA"]


def with_side_chains(model: AtomicModel, donors: dict[int, int]) -> AtomicModel:
    """The model with the side chains of some residues replaced by those of donors, laid on their own backbone."""
    parts = []
    for residue in range(model.n_residues):
        rows = model.residue == residue
        if residue not in donors:
            parts.append({f: getattr(model, f)[rows] for f in AtomicModel.__dataclass_fields__})
            continue
        donor = model.residue == donors[residue]
        axes, place = frame_of(model, residue)
        donor_axes, donor_place = frame_of(model, donors[residue])
        backbone = rows & np.isin(model.atom_name, ("N", "CA", "C", "O"))
        side = donor & ~np.isin(model.atom_name, ("N", "CA", "C", "O", "OXT"))
        part = {f: np.concatenate([getattr(model, f)[backbone], getattr(model, f)[side]])
                for f in AtomicModel.__dataclass_fields__}  # fmt: skip
        moved = (model.position[side] - donor_place) @ donor_axes @ axes.T + place
        part["position"] = np.concatenate([model.position[backbone], moved])
        part["residue"][:] = residue
        part["residue_name"][:] = model.residue_name[donor][0]
        part["number"][:] = model.number[rows][0]
        parts.append(part)
    return AtomicModel(**{f: np.concatenate([p[f] for p in parts]) for f in AtomicModel.__dataclass_fields__})


def test_the_density_of_an_atom_lies_where_the_atom_is():
    place = np.array([[10.3, 12.7, 8.1]])
    density = atom_density(place, np.array([6]), np.array([20.0]), (24, 24, 24), 1.0).numpy()
    z, y, x = np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij")
    centre = [(density * axis).sum() / density.sum() for axis in (x, y, z)]
    np.testing.assert_allclose(centre, place[0], atol=0.02)
    assert density.sum() == pytest.approx(6.0, rel=0.02)
    sampler = MapSampler(density, 1.0, (0.0, 0.0, 0.0))
    assert sampler(place)[0] >= density.max() * 0.99


@pytest.mark.slow
@pytest.mark.capability("VAL-9")
def test_wrong_side_chains_and_registers_are_found_and_q_falls_with_resolution(shared_data, measure):
    model = one_chain(shared_data / "models" / "1ake.cif")
    means = []
    for resolution in (2.2, 2.6, 3.0, 3.5, 4.0, 5.0, 6.0):
        means.append(float(np.nanmean(scores(model, noisy_map(model, resolution))[0])))
    assert (np.diff(means) < 0).all(), means

    rng = np.random.default_rng(3)
    names = model.residue_name[model.first_atom()]
    large = [r for r in range(model.n_residues) if names[r] in ("ARG", "LYS", "GLU", "GLN", "LEU", "ILE", "PHE", "TYR",
                                                                "HIS", "MET", "ASP", "ASN", "VAL", "THR")]  # fmt: skip
    volume = noisy_map(model, 2.8)
    clean = scores(model, volume)[1]
    false_alarms = float(clean.outlier.mean())
    found_side, n_side, found_stretch, n_stretch = 0, 0, 0, 0
    for _ in range(6):
        wrong = rng.choice(large, 8, replace=False)
        bulky = [r for r in large if names[r] in ("ARG", "LYS", "PHE", "TYR", "MET", "GLU", "GLN", "HIS")]
        donors = {int(r): int(rng.choice([d for d in bulky if names[d] != names[r]])) for r in wrong}
        found = scores(with_side_chains(model, donors), volume)[1]
        found_side += int(found.outlier[wrong].sum())
        n_side += len(wrong)
    for start in rng.choice(np.arange(8, model.n_residues - 30), 8, replace=False):
        # The sequence slips by one: residue i carries the side chain of its follower.
        stretch = np.arange(start, start + 16)
        donors = {int(r): int(r + 1) for r in stretch if names[r] != "GLY" or names[r + 1] != "GLY"}
        found = scores(with_side_chains(model, donors), volume)[1]
        found_stretch += int(found.outlier[stretch].mean() > 3 * max(false_alarms, 0.03))
        n_stretch += 1
    note = (
        f"mean Q {means[0]:.2f} to {means[-1]:.2f} from 2.2 to 6 Å; false alarms {100 * false_alarms:.1f} % of residues"
    )
    measure(round(100 * found_side / n_side, 1), "% of wrong side chains found", ">= 90", note=note)
    measure(round(100 * found_stretch / n_stretch, 1), "% of wrong registers found", "100", note="16 residues, 2.8 Å")
    assert found_side / n_side >= 0.9 and found_stretch == n_stretch and false_alarms <= 0.05


@pytest.fixture
def real_model(tmp_path):
    """A ball of carbon atoms as a PDB file, and two noisy half maps of it."""
    rng = np.random.default_rng(1)
    position = 40.0 + rng.normal(size=(900, 3)) * 9.0
    density = atom_density(position, np.full(900, 6), np.full(900, 60.0), (40, 40, 40), 2.0)
    density = lowpass(density, 2.0, 5.0)
    noise = torch.Generator().manual_seed(1)
    halves = [(density + 0.5 * density.std() * torch.randn(40, 40, 40, generator=noise)).numpy() for _ in range(2)]
    lines = [
        f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 60.00           C  "
        for i, (x, y, z) in enumerate(position)
    ]
    path = tmp_path / "model.pdb"
    path.write_text("\n".join([*lines, "END"]) + "\n")
    return path, halves


def test_the_stage_names_a_model_that_lies_elsewhere_and_passes_one_that_fits(real_model, tmp_path):
    path, halves = real_model
    found = {}
    for name, origin in (("fits", (0.0, 0.0, 0.0)), ("elsewhere", (25.0, 0.0, 0.0))):
        (tmp_path / name).mkdir()
        maps = [VolumeMap(half, 2.0, origin) for half in halves]
        validate_map(*maps, None, None, None, path, ValidateSettings(model_resolution=6.0), MemoryRun(tmp_path / name))
        report = json.loads((tmp_path / name / "validation.json").read_text())
        found[name] = {item["key"]: item["status"] for item in report["items"]}
    assert found["fits"]["model_fsc"] == "passed" and found["elsewhere"]["model_fsc"] == "failed"

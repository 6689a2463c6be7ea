"""Symmetry expansion: the same map without symmetry, and copies that keep their parent's half."""

import numpy as np
import pytest
import torch

from cryoloom.data import VolumeMap
from cryoloom.io.map_file import read_map
from cryoloom.io.records import read_particles
from cryoloom.maps.fsc import crossing_shell, fourier_shell_correlation
from cryoloom.maps.mask import spherical_mask
from cryoloom.project.runner import run_stage
from cryoloom.simulate.particles import ParticleRecipe, Specimen, simulate_particles
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map


@pytest.mark.capability("TOL-3")
@pytest.mark.parametrize("symmetry", ["D2", "C3"])
def test_the_expanded_set_gives_the_same_map_without_symmetry(symmetry, tmp_path, measure):
    box, pixel_size, n = 40, 4.4, 200
    atoms = phantom("rod", symmetry, mass_kda=250.0)
    volume: VolumeMap = potential_map(atoms, box, pixel_size)
    specimen = Specimen(((volume,),), symmetry=symmetry, diameter=atoms.diameter)
    truth = simulate_particles(specimen, tmp_path / "images", ParticleRecipe(n=n, snr=1.0, junk=0.0), seed=2)
    particles = truth.replace(half=np.random.default_rng(1).integers(1, 3, n), class_number=None, extra={})
    expanded = run_stage(
        "particles expand", inputs={"particles": particles}, settings={"symmetry": symmetry}, out=tmp_path / "expand"
    )
    copies = read_particles(expanded.outputs["particles"])
    g = {"D2": 4, "C3": 3}[symmetry]
    assert len(copies) == g * n
    parent = copies.extra["cryoloomParent"].astype(int) - 1
    np.testing.assert_array_equal(np.bincount(parent), g)
    np.testing.assert_array_equal(copies.half, particles.half[parent])
    np.testing.assert_array_equal(copies.image_index, particles.image_index[parent])
    whole = run_stage(
        "reconstruct", inputs={"particles": particles}, settings={"symmetry": symmetry}, out=tmp_path / "imposed"
    )
    alone = run_stage("reconstruct", inputs={"particles": copies}, settings={}, out=tmp_path / "expanded")
    worst, inside = 1.0, spherical_mask(box, 0.5 * atoms.diameter / pixel_size, 3.0)

    def load(result, name):
        return torch.from_numpy(np.array(read_map(result.outputs[name]).data)) * inside

    # Imposed symmetry interpolates sums, expansion inserts images: to 0.8 of Nyquist, as far as test sets reach, no
    # difference may show.
    halves = fourier_shell_correlation(load(whole, "half1"), load(whole, "half2"))
    last = min(int(crossing_shell(halves, 0.143)), int(0.4 * box))
    for name in ("half1", "half2", "map"):
        fsc = fourier_shell_correlation(load(whole, name), load(alone, name)).numpy()[1 : last + 1]
        worst = min(worst, float(fsc.min()))
    measure(
        round(worst, 5), unit="FSC", threshold="> 0.99 in every shell to the resolution",
        note=f"{symmetry}, {last} shells: lowest of map and halves; all copies in the half of their parent",
    )  # fmt: skip
    assert last > 5
    assert worst > 0.99


def test_a_set_without_halves_gets_them_by_parent(tmp_path):
    volume = potential_map(phantom("globule", "C1", mass_kda=100.0), 24, 6.0)
    truth = simulate_particles(volume, tmp_path / "images", ParticleRecipe(n=30, snr=0.3, junk=0.0), seed=2)
    result = run_stage(
        "particles expand", inputs={"particles": truth}, settings={"symmetry": "C4"}, out=tmp_path / "expand"
    )
    half = read_particles(result.outputs["particles"]).half.reshape(-1, 4)
    assert (half == half[:, :1]).all()
    assert set(half[:, 0]) == {1, 2}

"""Tools for maps and masks: round trips to rounding, places in space, axes found."""

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.geometry import random_rotations, symmetry_matrices
from cryoloom.io.map_file import read_map, write_map
from cryoloom.io.model_file import read_model
from cryoloom.maps import lowpass
from cryoloom.maps.rotate import transform_map
from cryoloom.maps.symmetry_axes import find_symmetry_frame
from cryoloom.project.runner import run_stage
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map


@pytest.fixture
def tool(tmp_path):
    count = iter(range(1000))

    def run(name, volumes, **settings):
        out = tmp_path / f"out{next(count)}"
        sets = volumes if isinstance(volumes, list) else [volumes]
        files = []
        for i, one in enumerate(sets):
            files.append(tmp_path / f"{out.name}_{i}.mrc")
            write_map(one, files[-1])
        inputs = {"maps": files} if name == "volume arithmetic" else {"map": files[0]}
        done = run_stage(name, inputs | settings.pop("inputs", {}), settings, out=out)
        return done, read_map(next(iter(done.outputs.values())))

    return run


def a_map(box=24, seed=0, pixel=2.0, resolution=9.0, origin=(3.0, -4.0, 5.0)):
    noise = torch.randn(box, box, box, generator=torch.Generator().manual_seed(seed))
    return VolumeMap(lowpass(noise, pixel, resolution).numpy(), pixel, origin)


def centre_of(volume):
    """Place of the centre voxel in Å, xyz."""
    return [o + (n // 2) * volume.pixel_size for o, n in zip(volume.origin, volume.data.shape[::-1], strict=True)]


def axis_of(operator):
    values, vectors = np.linalg.eigh(0.5 * (operator + operator.T))
    return vectors[:, np.argmax(values)], round(2 * np.pi / np.arccos(np.clip((np.trace(operator) - 1) / 2, -1, 1)), 3)


def axis_error_deg(total, symmetry):
    """Largest angle between a turned axis of the group and the nearest axis of its kind."""
    axes = [axis_of(op) for op in symmetry_matrices(symmetry).numpy()[1:]]
    worst = 0.0
    for axis, order in axes:
        turned = total @ axis
        same = [other for other, kind in axes if kind == order]
        worst = max(worst, min(np.arctan2(np.linalg.norm(np.cross(turned, b)), abs(turned @ b)) for b in same))
    return float(np.degrees(worst))


@pytest.mark.capability("TOL-2")
@pytest.mark.parametrize("box", [24, 25])
def test_round_trips_give_the_map_back(tool, measure, box):
    volume = a_map(box)
    scale = float(np.abs(volume.data).max())
    worst = {}

    def compare(name, there, back, expected=volume):
        worst[name] = float(np.abs(back.data - expected.data).max()) / scale
        assert centre_of(there) == pytest.approx(centre_of(volume)) and centre_of(back) == pytest.approx(
            centre_of(volume)
        )
        assert back.data.shape == volume.data.shape and back.pixel_size == pytest.approx(volume.pixel_size)

    for axis in "xyz":
        _, there = tool("volume flip", volume, axis=axis)
        assert np.abs(there.data - volume.data).max() > 0.1 * scale
        compare(f"flip {axis}", there, tool("volume flip", there, axis=axis)[1])
    _, there = tool("volume crop", volume, box=41)
    compare("pad and crop", there, tool("volume crop", there, box=box)[1])
    _, there = tool("volume resample", volume, pixel=2.0 * box / 40)
    assert there.data.shape == (40, 40, 40)
    compare("finer and back", there, tool("volume resample", there, pixel=2.0)[1])
    # down to 3 Å keeps all that a map of 9 Å holds
    coarse = 2.0 * box / (box - 6)
    _, there = tool("volume resample", volume, pixel=coarse)
    compare("coarser and back", there, tool("volume resample", there, pixel=2.0, box=box)[1])
    other = a_map(box, 1)
    _, there = tool("volume arithmetic", [volume, other], operation="add")
    compare("add, subtract", there, tool("volume arithmetic", [there, other], operation="subtract")[1])
    solid = VolumeMap(np.abs(other.data) + 1, 2.0, volume.origin)
    _, there = tool("volume arithmetic", [volume, solid], operation="multiply")
    compare("multiply, divide", there, tool("volume arithmetic", [there, solid], operation="divide")[1])
    _, there = tool("volume arithmetic", volume, operation="invert")
    compare("invert twice", there, tool("volume arithmetic", there, operation="invert")[1])
    name = max(worst, key=worst.get)
    measure(worst[name], unit="of the largest value", threshold="< 1e-5 (rounding)", note=f"box {box}, worst: {name}")
    assert worst[name] < 1e-5


PARTICLES = {"C3": "tripod", "D2": "ring", "D7": "ring", "O": "shell", "T": "shell", "I1": "shell"}


def turned_particle(symmetry, noise, seed=0, pixel=5.0, box=56):
    truth = potential_map(phantom(PARTICLES[symmetry], symmetry, mass_kda=300.0), box, pixel)
    rotation = random_rotations(1, torch.Generator().manual_seed(seed))[0]
    volume = transform_map(torch.from_numpy(truth.data), rotation, torch.tensor([1.3, -2.2, 0.7]))
    spread = noise * float(volume[volume > 0.2 * volume.max()].mean())
    return volume + spread * torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed + 1)), rotation


@pytest.mark.capability("TOL-2")
def test_axes_of_noisy_turned_particles_are_found(measure):
    errors = {}
    for i, symmetry in enumerate(("C3",)):
        volume, rotation = turned_particle(symmetry, 0.3, seed=i)
        frame = find_symmetry_frame(volume, 5.0, symmetry)
        errors[symmetry] = axis_error_deg(frame.rotation.numpy() @ rotation.numpy(), symmetry)
    measure(
        round(max(errors.values()), 3),
        unit="°",
        threshold="< 0.2",
        note=_listed(errors) + "; phantoms, noise 0.3 of their density per voxel",
    )
    assert max(errors.values()) < 0.2


@pytest.mark.capability("TOL-2")
@pytest.mark.slow
def test_axes_of_all_kinds_of_groups_are_found(measure):
    errors = {}
    for i, symmetry in enumerate(("D7", "T", "I1", "D2", "O")):
        volume, rotation = turned_particle(symmetry, 0.3, seed=10 + i)
        frame = find_symmetry_frame(volume, 5.0, symmetry)
        errors[symmetry] = axis_error_deg(frame.rotation.numpy() @ rotation.numpy(), symmetry)
    measure(
        round(max(errors.values()), 3),
        unit="°",
        threshold="< 0.2",
        note=_listed(errors) + "; phantoms, noise 0.3 of their density per voxel",
    )
    assert max(errors.values()) < 0.2


@pytest.mark.capability("TOL-2")
@pytest.mark.parametrize(
    "name, symmetry", [pytest.param("emd_1080_groel.mrc", "D7", marks=pytest.mark.slow), ("betagal_3.54A.mrc", "D2")]
)
def test_axes_of_real_maps_are_found(shared_data, tool, measure, name, symmetry):
    volume = read_map(shared_data / "maps" / name)
    rotation = random_rotations(1, torch.Generator().manual_seed(4))[0]
    turned = transform_map(torch.from_numpy(volume.data), rotation, torch.tensor([2.0, -1.5, 0.5]))
    done, back = tool("volume align", VolumeMap(turned.numpy(), volume.pixel_size), symmetry=symmetry)
    error = axis_error_deg(np.array(done.summary["rotation"]) @ rotation.numpy(), symmetry)
    measure(round(error, 3), unit="°", threshold="< 0.2", note=f"REAL {name}, {symmetry}, turned at random")
    assert error < 0.2
    for operator in symmetry_matrices(symmetry)[1:3]:
        again = transform_map(torch.from_numpy(back.data), operator).numpy()
        assert np.corrcoef(again.ravel(), back.data.ravel())[0, 1] > 0.99


def _listed(errors):
    return ", ".join(f"{name} {value:.3f}" for name, value in errors.items())


def test_flipping_keeps_the_centre_and_changes_the_hand(tool):
    point = np.zeros((8, 8, 8), np.float32)
    point[4, 4, 4], point[5, 6, 7] = 1, 2
    _, flipped = tool("volume flip", VolumeMap(point, 1.0))
    assert flipped.data[4, 4, 4] == 1 and flipped.data[3, 6, 7] == 2


def test_resampling_moves_no_density(tool):
    """A Gaussian stays where it is, whether the grids fit into one field or not."""
    c = (np.arange(48) - 24) * 2.0
    gauss = np.exp(-((c[:, None, None] - 9) ** 2 + (c[:, None] + 7) ** 2 + (c - 5) ** 2) / (2 * 6.0**2))
    for pixel in (3.0, 2.7182):
        _, out = tool("volume resample", VolumeMap(gauss.astype(np.float32), 2.0), pixel=pixel)
        n = out.data.shape[0]
        f = (np.arange(n) - n // 2) * pixel
        expected = np.exp(-((f[:, None, None] - 9) ** 2 + (f[:, None] + 7) ** 2 + (f - 5) ** 2) / (2 * 6.0**2))
        assert np.abs(out.data - expected).max() < 4e-3 and centre_of(out) == pytest.approx([48, 48, 48])


def test_cropping_about_the_mass_centres_it(tool):
    volume = np.zeros((40, 40, 40), np.float32)
    volume[8:18, 20:30, 22:32] = 1
    _, out = tool("volume crop", VolumeMap(volume, 3.0, (10, 20, 30)), box=20, centre="mass")
    assert out.data.sum() == pytest.approx(1000)
    where = np.argwhere(out.data > 0.5)
    assert np.abs(where.mean(0) - 10).max() <= 1
    # the first voxel of the density lies where it lay
    first = np.array(out.origin) + 3.0 * where.min(0)[::-1]
    assert first == pytest.approx(np.array([10, 20, 30]) + 3.0 * np.array([22, 20, 8]))


def test_a_mask_of_a_model_is_one_around_atoms_and_lies_where_they_are(shared_data, tool, tmp_path):
    path = shared_data / "models" / "1ake.cif"
    atoms = read_model(path)
    first = atoms.position[atoms.chain == "A"]
    origin = tuple(first.min(0) - 20)
    size = int(np.ceil((np.ptp(first, axis=0).max() + 40) / 2))
    empty = VolumeMap(np.zeros((size,) * 3, np.float32), 2.0, origin)
    done, mask = tool("mask model", empty, inputs={"model": path}, chains="A", radius=4.0, edge=6.0)
    nearest = np.round((first - origin) / 2).astype(int)[:, ::-1]
    assert mask.data[tuple(nearest.T)].min() > 0.999 and done.summary["n_atoms"] == len(first)
    c = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3)[::97]
    distance = np.linalg.norm((c[:, ::-1] * 2 + origin)[:, None] - first[None], axis=-1).min(1)
    assert (mask.data[tuple(c[distance > 10.01].T)] == 0).all() and (mask.data[tuple(c[distance < 3.99].T)] == 1).all()
    with pytest.raises(InputError, match="no chain"):
        tool("mask model", empty, inputs={"model": path}, chains="Q")
    with pytest.raises(InputError, match="outside of the map"):
        tool("mask model", VolumeMap(empty.data, 2.0, (1e4, 0, 0)), inputs={"model": path})


def test_what_cannot_be_done_is_refused(tool):
    volume = a_map()
    wrong = [("volume align", {}), ("volume resample", {}), ("volume crop", {}), ("volume filter", {})]
    wrong += [("volume arithmetic", {"operation": "add"}), ("volume crop", {"box": 8, "centre": "1,2"})]
    for name, settings in wrong:
        with pytest.raises(InputError):
            tool(name, volume, **settings)
    with pytest.raises(InputError, match="resample"):
        tool("volume arithmetic", [volume, a_map(26)], operation="add")
    with pytest.raises(InputError, match="cube"):
        tool("volume resample", VolumeMap(volume.data[:10], 2.0), pixel=3.0)

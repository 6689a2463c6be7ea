"""Regions of planted bodies in noise."""

import numpy as np
import pytest
import torch

from cryoloom.contract import InputError
from cryoloom.data import VolumeMap
from cryoloom.io.map_file import read_map, write_map
from cryoloom.maps import lowpass
from cryoloom.project.runner import run_stage
from cryoloom.segmentation.watershed import join_small, watershed

PIXEL = 2.5


def bodies(rng, box=56):
    """Touching ellipsoids of textured density in noise; the body of each voxel, and the map."""
    z, y, x = np.mgrid[:box, :box, :box].astype(float) * PIXEL
    centres = (
        box * PIXEL / 2 + np.array([[-21, -13, 0], [21, -13, 0], [0, 24, 0], [0, 0, 30.0]]) + rng.normal(0, 1.5, (4, 3))
    )
    shape = np.zeros((4, box, box, box))
    for i, centre in enumerate(centres):
        axes = rng.uniform(17, 21, 3)
        shape[i] = (
            1 - ((z - centre[0]) / axes[0]) ** 2 - ((y - centre[1]) / axes[1]) ** 2 - ((x - centre[2]) / axes[2]) ** 2
        )
    owner = np.where(shape.max(0) > 0, shape.argmax(0) + 1, 0)
    soft = np.clip(shape.max(0) * 1.5, 0, 1)  # density falls towards the surface, as that of domains does
    texture = lowpass(torch.from_numpy(rng.normal(size=owner.shape).astype(np.float32)), PIXEL, 8.0).numpy()
    density = soft * (1 + 0.15 * texture / texture.std())
    return owner, (density + rng.normal(0, 0.5, owner.shape)).astype(np.float32)


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.capability("SEG-1")
def test_planted_bodies_are_found_at_the_suggested_level(tmp_path, measure):
    masks, parts = [], []
    for seed in range(3):
        owner, volume = bodies(np.random.default_rng(seed))
        write_map(VolumeMap(volume, PIXEL), tmp_path / f"{seed}.mrc")
        done = run_stage("segment", {"map": tmp_path / f"{seed}.mrc"}, {}, out=tmp_path / f"out{seed}")
        labels = read_map(done.outputs["segments"]).data.astype(int)
        masks.append(overlap(read_map(done.outputs["mask"]).data > 0.5, owner > 0))
        assert done.summary["n_segments"] == 4, (seed, done.summary["volumes_A3"])
        for i in range(1, 5):
            name = np.bincount(labels[owner == i]).argmax()
            parts.append(overlap(labels == name, owner == i))
    worst = min(min(masks), min(parts))
    note = (
        f"mask {min(masks):.2f} to {max(masks):.2f}, regions {min(parts):.2f} to {max(parts):.2f}; noise 0.5 per voxel"
    )
    measure(round(worst, 3), unit="IoU", threshold=">= 0.8", note=note)
    assert worst >= 0.8


def test_the_watershed_runs_along_the_valley_and_shallow_ones_are_filled():
    x = np.arange(40)
    line = np.maximum(np.exp(-((x - 12) ** 2) / 30), 0.9 * np.exp(-((x - 27) ** 2) / 30))
    volume = np.ones((5, 5, 1)) * line
    apart = watershed(volume, 0.1, 0.2)
    assert set(np.unique(apart)) == {0, 1, 2} and apart[2, 2, 12] == 1 and apart[2, 2, 27] == 2
    valley = 12 + int(np.argmin(line[12:28]))
    assert (np.diff(apart[2, 2, 8:32]) != 0).sum() == 1 and abs(
        8 + int(np.argmax(np.diff(apart[2, 2, 8:32]) != 0)) - valley
    ) <= 1
    assert set(np.unique(watershed(volume, 0.1, 0.9))) == {0, 1}
    labels = np.zeros((4, 4, 8), np.int32)
    labels[:, :, :5], labels[:, :, 5:6], labels[0, 0, 7] = 1, 2, 3
    assert set(np.unique(join_small(labels, 20))) == {0, 1} and join_small(labels, 20)[0, 0, 5] == 1


def test_a_level_above_everything_is_refused(tmp_path):
    write_map(VolumeMap(bodies(np.random.default_rng(0), 40)[1], PIXEL), tmp_path / "m.mrc")
    with pytest.raises(InputError, match="lower --level"):
        run_stage("segment", {"map": tmp_path / "m.mrc"}, {"level": 50.0}, out=tmp_path / "out")

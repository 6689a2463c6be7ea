"""A refinement ends in the frame in which it began."""

import numpy as np
import torch

from cryoloom.fourier import dft_to_image, fourier_crop, shift_dft
from cryoloom.fourier.slices import extract_slices, prepare_volume
from cryoloom.geometry import axis_angle_to_matrix, pose_distance, random_rotations
from cryoloom.maps.rotate import transform_map
from cryoloom.refine.frames import frame_of_start, lay_in_frame


def _images(volume, rotation, shift_px):
    box = volume.shape[0]
    dft = extract_slices(prepare_volume(volume), torch.from_numpy(rotation), (box, box))
    return dft_to_image(shift_dft(dft, torch.from_numpy(shift_px).to(torch.float32), (box, box)), (box, box))


def test_poses_of_a_map_that_drifted_are_brought_back(small_set):
    data = small_set()
    volume = torch.from_numpy(data.volume.data.copy())
    pixel_size, box = data.volume.pixel_size, data.volume.data.shape[0]
    rotation = random_rotations(6, torch.Generator().manual_seed(1)).numpy()
    shift_px = np.random.default_rng(0).normal(0, 2, (6, 2))
    turn = axis_angle_to_matrix(torch.tensor([0.02, -0.015, 0.03], dtype=torch.float64))
    moved = torch.tensor([0.4, -0.5, 0.3], dtype=torch.float64)  # pixels, zyx
    drifted = transform_map(volume, turn, moved)
    # the same images seen as views of the drifted map
    seen = turn.numpy() @ rotation
    seen_shift = shift_px - (seen.transpose(0, 2, 1)[:, :2] @ moved.flip(0).numpy())[:, ::-1]
    one, other = _images(volume, rotation, shift_px), _images(drifted, seen, seen_shift)
    assert float((one - other).norm() / one.norm()) < 0.05

    origin = fourier_crop(volume, (16, 16, 16))
    frames = frame_of_start([drifted, drifted], origin, box * pixel_size, 30.0, "C1")
    lay_in_frame(frames, box / 16, seen, seen_shift)
    angle = pose_distance(torch.from_numpy(seen), torch.from_numpy(rotation)).numpy()
    assert np.rad2deg(angle).max() < 0.4  # of 2.2
    assert np.abs(seen_shift - shift_px).max() < 0.12  # of 0.7


def test_axes_of_a_point_group_stay_and_another_particle_gives_no_frame(small_set):
    volume = torch.from_numpy(small_set().volume.data.copy())
    turn = axis_angle_to_matrix(torch.tensor([0.02, -0.015, 0.03], dtype=torch.float64))
    drifted = transform_map(volume, turn, torch.zeros(3, dtype=torch.float64))
    origin = fourier_crop(volume, (16, 16, 16))
    about_z = frame_of_start([drifted], origin, 100.0, 30.0, "C3")
    assert about_z.turn[0] == about_z.turn[1] == 0.0 and about_z.turn[2] != 0.0
    assert not frame_of_start([drifted], origin, 100.0, 30.0, "D2").turn.any()
    noise = torch.randn(volume.shape, generator=torch.Generator().manual_seed(0))
    assert not frame_of_start([noise], origin, 100.0, 30.0, "C1").turn.any()

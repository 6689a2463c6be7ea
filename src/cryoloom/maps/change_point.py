"""The frequency at which a value falls below a limit for good, voxel by voxel, band after band; cubes on new grids."""

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import crop_dft, dft_to_image, image_to_dft


class CrossingTracker:
    """Frequency at which a value falls below a limit for good, voxel by voxel, band after band.

    It is the change point that best parts bands above the limit from bands below: where the sum of what values exceed
    the limit by, each cut at `reach`, is largest. A node of a coarse wave in a small window does not decide, nor does a
    lone peak of noise beyond.
    """

    def __init__(self, shape: tuple[int, ...], bands: np.ndarray, limit: float, reach: float = 0.3) -> None:
        self.bands, self.limit, self.reach = bands, limit, reach
        self.crossing = torch.full(shape, float(bands[0]))
        self.sum = torch.zeros(shape)
        self.largest = torch.zeros(shape)
        self.before: Tensor | None = None
        self.n_done = 0

    def add(self, value: Tensor) -> None:
        """Take the next band."""
        index = self.n_done
        excess = value - self.limit
        if self.before is not None:
            # The band before was the last one above so far: the crossing lies between it and this one.
            ends = (self.sum >= self.largest) & (excess < 0) & (self.before >= 0)
            share = (self.before / (self.before - excess).clamp_min(1e-6)).clamp(0, 1)
            place = self.bands[index - 1] + share * (self.bands[index] - self.bands[index - 1])
            self.crossing = torch.where(ends, place.float(), self.crossing)
        self.sum = self.sum + excess.clamp(-self.reach, self.reach)
        better = self.sum > self.largest
        self.crossing = torch.where(better, torch.full_like(self.crossing, float(self.bands[index])), self.crossing)
        self.largest = torch.maximum(self.largest, self.sum)
        self.before = excess
        self.n_done += 1

    def resolution(self) -> np.ndarray:
        """Å per voxel, after the last band."""
        return (1.0 / self.crossing).numpy().astype(np.float32)


def resample_cube(values: Tensor, box: int) -> Tensor:
    """Trilinear resampling of a cube to another size over the same field, the centre voxels on each other."""
    n = values.shape[0]
    if n == box:
        return values
    position = (torch.arange(box, dtype=torch.float32) - box // 2) * (n / box) + n // 2
    scaled = (position / (n - 1) * 2 - 1).clamp(-1, 1)
    z, y, x = torch.meshgrid(scaled, scaled, scaled, indexing="ij")
    sample = torch.nn.functional.grid_sample(
        values[None, None], torch.stack([x, y, z], dim=-1)[None], mode="bilinear", align_corners=True
    )
    return sample[0, 0]


def blur_cube(values: Tensor, gain: Tensor, size: int) -> Tensor:
    """Multiply the spectrum of a cube and resample it to `size`, up to a constant factor."""
    dft = crop_dft(image_to_dft(values, 3) * gain, tuple(values.shape), (size,) * 3)
    return dft_to_image(dft, (size,) * 3)

"""The points of an image's half plane, sorted so that a resolution limit is a prefix.

Every sum of the engine runs over these points. Each stands for itself and its Friedel mate, hence the
factor 2 in `likelihood_weights`; the origin is left out (the mean of an image says nothing of its pose).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PlanePoints:
    """Half plane of a square image within the last full shell.

    Attributes
    ----------
    box
        Side of the image in pixels.
    radius
        Last shell, `(box - 2) // 2`.
    kx, ky
        Frequencies in Fourier pixels, `(k,)` float32, sorted by shell, then by angle.
    shell
        Shell of each point, `(k,)` int32.
    place
        Index into the flattened half spectrum `box * (box // 2 + 1)`, `(k,)` int64.
    ends
        `ends[s]` points lie in shells up to and including `s`, `(radius + 1,)` int64.
    """

    box: int
    radius: int
    kx: np.ndarray
    ky: np.ndarray
    shell: np.ndarray
    place: np.ndarray
    ends: np.ndarray

    def count(self, radius: float) -> int:
        """Number of points in shells up to `radius`."""
        return int(self.ends[int(np.clip(radius, 0, self.radius))])

    def points(self, radius: float) -> Tensor:
        """Points xy within `radius`, `(k, 2)` float32."""
        n = self.count(radius)
        return torch.from_numpy(np.stack([self.kx[:n], self.ky[:n]], axis=1))


def plane_points(box: int) -> PlanePoints:
    """Points of images with `box` pixels on a side."""
    radius = (box - 2) // 2
    ky = np.rint(np.fft.fftfreq(box) * box).astype(np.int64)
    kx = np.arange(box // 2 + 1)
    y, x = np.meshgrid(ky, kx, indexing="ij")
    shell = np.rint(np.hypot(x, y)).astype(np.int32)
    # On the column kx = 0 a point and its mate are both present: keep one. Radii are those of shells, so the
    # largest distance from the origin may exceed the radius by half a pixel: keep within the radius itself.
    keep = (np.hypot(x, y) <= radius) & ((x > 0) | (y > 0))
    place = np.flatnonzero(keep.reshape(-1))
    x, y, shell = x.reshape(-1)[place], y.reshape(-1)[place], shell.reshape(-1)[place]
    order = np.lexsort((np.arctan2(y, x), shell))
    place, x, y, shell = place[order], x[order], y[order], shell[order]
    ends = np.searchsorted(shell, np.arange(radius + 1), side="right")
    return PlanePoints(
        box=box,
        radius=radius,
        kx=np.ascontiguousarray(x, np.float32),
        ky=np.ascontiguousarray(y, np.float32),
        shell=np.ascontiguousarray(shell),
        place=place.astype(np.int64),
        ends=ends.astype(np.int64),
    )

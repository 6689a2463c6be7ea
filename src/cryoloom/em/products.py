"""Products of every image with slices of several volumes at its own pose: all that a fixed-pose E-step needs.

With the pose known, the likelihood of an image X against any combination `V = Σ a_j V_j` of given volumes is

    L(a) = bᵀ a - ½ aᵀ G a,    b_j = Σ_k Re conj(C V_j) X exp(+2πi k·t) / σ²,    G_jl = Σ_k C² Re conj(V_j) V_l / σ²

so classes, principal volumes and grey scales are judged from `b` and `G` alone. Sums run over the full plane.
"""

from collections.abc import Sequence

import numpy as np
import torch

from cryoloom.contract import Executor
from cryoloom.em.images import ImageChunk, ImageSource
from cryoloom.em.noise import NoiseModel
from cryoloom.em.points import PlanePoints
from cryoloom.fourier.slices import PaddedSpectrum, extract_points, reach


def centring_phases(points: PlanePoints, n_points: int, shift_px: np.ndarray) -> torch.Tensor:
    """`exp(+2πi k·t)` that brings images with shifts `(m, 2)` yx pixels to the centre, `(m, n_points)` complex64."""
    turn = 2.0 * np.pi / points.box
    kx, ky = torch.from_numpy(points.kx[:n_points]), torch.from_numpy(points.ky[:n_points])
    t = torch.from_numpy(shift_px.astype(np.float32)) * turn
    phase = t[:, 1:] * kx + t[:, :1] * ky
    return torch.polar(torch.ones_like(phase), phase)


def weighted_images(
    source: ImageSource, chunk: ImageChunk, shift_px: np.ndarray, root_weights: np.ndarray, n_points: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred images over the noise's root `(m, k)` complex64, and CTF over the same `(m, k)` float32."""
    root = torch.from_numpy(root_weights[chunk.group, :n_points])
    data = torch.from_numpy(chunk.data)
    images = torch.complex(data[:, 0, :n_points], data[:, 1, :n_points])
    images = images * centring_phases(source.points, n_points, shift_px) * root
    return images, torch.from_numpy(chunk.ctf[:, :n_points]) * root


def slice_products(
    source: ImageSource,
    spectra: Sequence[Sequence[PaddedSpectrum]],
    fold: np.ndarray,
    rows: np.ndarray,
    rotation: np.ndarray,
    shift_px: np.ndarray,
    noise: NoiseModel,
    executor: Executor,
    *,
    radius: int,
) -> tuple[np.ndarray, np.ndarray]:
    """`b` and `G` of each row.

    Parameters
    ----------
    spectra
        `spectra[f]` are the q volumes that rows of fold `f` are held against.
    fold
        Fold of each row, `(m,)` int64.
    rows
        Rows of the particle set, ascending, `(m,)`.
    rotation, shift_px
        Pose of each row, `(m, 3, 3)` and `(m, 2)` yx pixels.
    radius
        Last shell that counts.

    Returns
    -------
    cross, gram
        `(m, q)` and `(m, q, q)` float64.
    """
    radius = min(radius, reach(spectra))
    n_points = source.points.count(radius)
    points = source.points.points(radius)
    root = np.sqrt(noise.point_weights(source.points, 2.0))
    copies = source.place.copies(spectra)

    def work(some: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = np.searchsorted(rows, some)
        images, ctf = weighted_images(source, source.chunk(some), shift_px[at], root, n_points)
        q = len(spectra[0])
        cross, gram = np.empty((len(some), q)), np.empty((len(some), q, q))
        for f, volumes in enumerate(copies[source.lane(some)]):
            mine = np.flatnonzero(fold[at] == f)
            if not len(mine):
                continue
            device, precision = volumes[0].values.device, volumes[0].values.dtype
            rotations, here = torch.from_numpy(rotation[at[mine]]), points.to(device)
            slices = torch.stack([extract_points(v, rotations, here) for v in volumes], dim=1)  # (m, q, k)
            model = torch.view_as_real(slices * ctf[mine, None].to(device)).flatten(2)
            seen = torch.view_as_real(images[mine].to(device, precision)).flatten(1)
            cross[mine] = torch.bmm(model, seen[:, :, None])[..., 0].double().cpu().numpy()
            gram[mine] = torch.bmm(model, model.mT).double().cpu().numpy()
        return cross, gram

    parts = list(executor.map(work, source.chunk_rows(rows)))
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

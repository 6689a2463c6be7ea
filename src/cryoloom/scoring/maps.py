"""Maps against the true map: the true resolution, in whatever frame and hand the map is."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.data import VolumeMap
from cryoloom.fourier.exact import exact_spectrum, sample_spectrum
from cryoloom.fourier.transform import dft_to_image, frequency_grid
from cryoloom.maps import fourier_shell_correlation, resolution_at, soft_mask_from_map
from cryoloom.maps.superpose import Superposition, superpose


@dataclass(frozen=True)
class MapScore:
    """How well a map agrees with the truth.

    Attributes
    ----------
    frequency, fsc
        FSC with the truth in its soft mask after superposition, 1/Å, `(n,)`.
    resolution
        True resolution: 0.5 crossing in Å.
    auc
        Mean of the FSC over the voxels up to Nyquist.
    mirrored
        True if the map is the mirror image.
    hand_margin
        Correlation with this hand minus that with the other one (0 if one hand was tried).
    superposition
        How the map was laid on the truth, or None if it was compared as it is.
    aligned
        The map on the grid of the truth.
    """

    frequency: np.ndarray
    fsc: np.ndarray
    resolution: float
    auc: float
    mirrored: bool
    hand_margin: float
    superposition: Superposition | None
    aligned: VolumeMap

    def summary(self) -> dict[str, float | bool]:
        """The figures a report shows."""
        return {
            "true_resolution": round(self.resolution, 3),
            "fsc_auc": round(self.auc, 4),
            "mirrored": self.mirrored,
            "hand_margin": round(self.hand_margin, 4),
        }


def truth_mask(truth: VolumeMap) -> Tensor:
    """The soft mask of a true map, `(d, h, w)`."""
    return soft_mask_from_map(torch.from_numpy(np.ascontiguousarray(truth.data, np.float32)), truth.pixel_size)


def true_resolution(volume: VolumeMap, truth: VolumeMap, mask: Tensor | np.ndarray | None = None) -> float:
    """Resolution in Å at which the FSC of a map and the truth falls below 0.5, maps in one frame and on one grid.

    `mask` is by default the soft mask of the truth.
    """
    return resolution_at(fsc_to_truth(volume, truth, mask), 0.5, truth.data.shape[0], truth.pixel_size)


def fsc_to_truth(volume: VolumeMap, truth: VolumeMap, mask: Tensor | np.ndarray | None = None) -> Tensor:
    """FSC of a map and the truth on one grid, both masked, `(box // 2 + 1,)` float64."""
    if volume.data.shape != truth.data.shape or abs(volume.pixel_size / truth.pixel_size - 1) > 1e-3:
        raise ValueError(
            f"volume: expected {truth.data.shape} at {truth.pixel_size} Å, "
            f"got {volume.data.shape} at {volume.pixel_size} Å"
        )
    chosen = truth_mask(truth) if mask is None else torch.as_tensor(mask, dtype=torch.float32)
    a, b = (torch.from_numpy(np.ascontiguousarray(m.data, np.float32)) * chosen for m in (volume, truth))
    return fourier_shell_correlation(a, b)


def score_map(
    volume: VolumeMap,
    truth: VolumeMap,
    mask: Tensor | np.ndarray | None = None,
    *,
    hands: bool = True,
    superposed: bool = False,
) -> MapScore:
    """Superpose a map on the truth (either hand) and compare it.

    Parameters
    ----------
    volume, truth
        Maps; boxes and pixel sizes may differ.
    mask
        On the grid of the truth; by default the soft mask of the truth.
    hands
        Try the mirror image too.
    superposed
        The map lies on the truth already; it is compared as it is.
    """
    chosen = truth_mask(truth) if mask is None else torch.as_tensor(mask, dtype=torch.float32)
    found, margin, aligned = None, 0.0, resample_like(volume, truth)
    if not superposed:
        moving = torch.from_numpy(aligned.data)
        found = superpose(
            torch.from_numpy(np.ascontiguousarray(truth.data, np.float32)),
            moving,
            truth.pixel_size,
            resolution=max(4.0, 2.5 * max(volume.pixel_size, truth.pixel_size)),
            either_hand=hands,
        )
        margin = found.correlation - found.correlation_other_hand if hands else 0.0
        aligned = VolumeMap(found.apply(moving).numpy(), truth.pixel_size)
    fsc = fsc_to_truth(aligned, truth, chosen)
    box = truth.data.shape[0]
    weights = np.arange(len(fsc)) ** 2.0
    return MapScore(
        frequency=np.arange(len(fsc)) / (box * truth.pixel_size),
        fsc=fsc.numpy(),
        resolution=resolution_at(fsc, 0.5, box, truth.pixel_size),
        auc=float((fsc.numpy() * weights).sum() / weights.sum()),
        mirrored=found is not None and found.mirrored,
        hand_margin=margin,
        superposition=found,
        aligned=aligned,
    )


def resample_like(volume: VolumeMap, like: VolumeMap) -> VolumeMap:
    """A map on the grid of another one, centre on centre; exact up to the coarser Nyquist frequency."""
    n, pixel_size = like.data.shape[0], like.pixel_size
    if volume.data.shape == like.data.shape and abs(volume.pixel_size / pixel_size - 1) < 1e-4:
        return VolumeMap(np.ascontiguousarray(volume.data, np.float32), pixel_size)
    spectrum = exact_spectrum(torch.from_numpy(np.ascontiguousarray(volume.data, np.float32)))
    k = frequency_grid((n, n, n), pixel_size, dtype=torch.float64).flip(-1)  # xyz, 1/Å
    values = sample_spectrum(spectrum, k * (volume.data.shape[0] * volume.pixel_size))
    scale = (volume.pixel_size / pixel_size) ** 3
    return VolumeMap(dft_to_image(values * scale, (n, n, n)).numpy(), pixel_size)

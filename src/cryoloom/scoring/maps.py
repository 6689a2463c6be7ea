"""Maps against the true map: the true resolution, in whatever frame and hand the map is."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.data import VolumeMap
from cryoloom.maps import fourier_shell_correlation, resolution_at, soft_mask_from_map
from cryoloom.scoring.superpose import Placement, place_map, superpose


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
    placement
        How the map lies on the truth.
    aligned
        The map on the grid of the truth.
    """

    frequency: np.ndarray
    fsc: np.ndarray
    resolution: float
    auc: float
    mirrored: bool
    hand_margin: float
    placement: Placement | None
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
            f"volume: expected {truth.data.shape} at {truth.pixel_size} Å, got {volume.data.shape} at {volume.pixel_size} Å"
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
    placement, margin, aligned = None, 0.0, volume
    if not superposed:
        size = _extent(chosen, truth.pixel_size)
        found = [superpose(volume, truth, hands=False, size=size)]
        if hands:
            found.append(_mirrored(volume, truth, size))
        found.sort(key=lambda p: -p.correlation)
        placement = found[0]
        margin = placement.correlation - found[1].correlation if hands else 0.0
        aligned = place_map(volume, placement, truth)
    fsc = fsc_to_truth(aligned, truth, chosen)
    box = truth.data.shape[0]
    weights = np.arange(len(fsc)) ** 2.0
    return MapScore(
        frequency=np.arange(len(fsc)) / (box * truth.pixel_size),
        fsc=fsc.numpy(),
        resolution=resolution_at(fsc, 0.5, box, truth.pixel_size),
        auc=float((fsc.numpy() * weights).sum() / weights.sum()),
        mirrored=placement is not None and placement.mirrored,
        hand_margin=margin,
        placement=placement,
        aligned=aligned,
    )


def _mirrored(volume: VolumeMap, truth: VolumeMap, size: float) -> Placement:
    from dataclasses import replace

    from cryoloom.scoring.superpose import mirror_map

    return replace(superpose(mirror_map(volume), truth, hands=False, size=size), mirrored=True)


def _extent(mask: Tensor, pixel_size: float) -> float:
    """Largest extent of a mask along the axes, Å."""
    inside = np.argwhere(mask.numpy() > 0.5)
    return float((np.ptp(inside, axis=0).max() + 1) * pixel_size) if len(inside) else 100.0

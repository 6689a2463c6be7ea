"""What can be wrong with a mask or a pair of half maps, found by looking, said in one sentence each."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.maps.corrected import CorrectedFsc
from cryoloom.maps.filter import lowpass
from cryoloom.maps.fsc import crossing_shell


@dataclass(frozen=True)
class MaskCheck:
    """How well a mask fits the density.

    Attributes
    ----------
    cut_fraction
        Fraction of the density (in the body found in the low-passed map) that lies where the mask is below 1/2.
    outside_correlation
        Correlation of the low-passed halves outside the mask, where there should be solvent only.
    outside_significance
        The same in standard deviations of chance.
    soft_fraction
        Voxels of the edge (mask between 0.1 and 0.9) over those above 1/2.
    box_fraction
        Part of the box where the mask is above 1/2.
    """

    cut_fraction: float
    outside_correlation: float
    outside_significance: float
    soft_fraction: float
    box_fraction: float


def check_mask(
    half1: Tensor, half2: Tensor, mask: Tensor, found_mask: Tensor, pixel_size: float, resolution: float
) -> MaskCheck:
    """Compare a mask with the density of the halves `(d, h, w)` and with a mask found in them."""
    smooth_to = max(10.0, 2 * resolution)
    low1, low2 = lowpass(half1, pixel_size, smooth_to), lowpass(half2, pixel_size, smooth_to)
    mean = 0.5 * (low1 + low2)
    outside_all = (mask < 0.05) & (found_mask < 0.05)
    solvent = mean[outside_all].mean() if bool(outside_all.any()) else mean.new_tensor(0.0)
    inside = found_mask > 0.999
    excess = torch.where(inside, (mean - solvent).clamp_min(0), torch.zeros_like(mean))
    total = float(excess.sum())
    cut = float(excess[mask < 0.5].sum()) / total if total > 0 else 0.0
    outside = mask < 0.05
    correlation = significance = 0.0
    if int(outside.sum()) > 100:
        a, b = low1[outside] - low1[outside].mean(), low2[outside] - low2[outside].mean()
        norm = float((a.norm() * b.norm()).clamp_min(1e-30))
        correlation = float((a * b).sum()) / norm
        # Independent values of a low-passed volume: about (2 pixel / resolution)³ of its voxels.
        n = max(float(outside.sum()) * min(1.0, (2 * pixel_size / smooth_to) ** 3), 4.0)
        significance = float(np.arctanh(np.clip(correlation, -0.999, 0.999)) * np.sqrt(n - 3))
    core = float((mask > 0.5).sum())
    soft = float(((mask > 0.1) & (mask < 0.9)).sum())
    return MaskCheck(
        cut_fraction=cut,
        outside_correlation=correlation,
        outside_significance=significance,
        soft_fraction=soft / max(core, 1.0),
        box_fraction=core / mask.numel(),
    )


def mask_warnings(check: MaskCheck, curves: CorrectedFsc, threshold: float) -> list[str]:
    """Sentences about the mask, the gravest first."""
    found = []
    if check.cut_fraction > 0.02:
        found.append(
            f"The mask cuts density: {100 * check.cut_fraction:.0f} % of the density of the map lies outside it. "
            "Use a wider mask, or leave it out to have one made."
        )
    plain, corrected = crossing_shell(curves.masked, threshold), crossing_shell(curves.corrected, threshold)
    if plain > 1.05 * corrected and plain - corrected > 1.0:
        found.append(
            f"The mask is too tight: it alone would improve the resolution by {100 * (plain / corrected - 1):.0f} %. "
            "The reported value is corrected for this; do not quote the uncorrected one."
        )
    else:
        at = min(round(corrected), len(curves.phase_randomised) - 1)
        if at >= curves.correct_shell and curves.phase_randomised[at] > 0.1:
            found.append(
                f"The mask brings in a correlation of {curves.phase_randomised[at]:.2f} at the resolution limit; a "
                "softer or wider mask would bring in less."
            )
    if check.soft_fraction < 0.02:
        found.append("The mask has a hard edge, which makes the FSC look better than it is; give it a soft one.")
    if check.box_fraction > 0.6:
        found.append("The mask fills most of the box, so it takes hardly any noise away.")
    return found


def curve_warnings(curves: CorrectedFsc, crossing: float, bounded: bool, box: int, pixel_size: float) -> list[str]:
    """Sentences about the shape of the FSC."""
    found = []
    n = len(curves.corrected)
    if not bounded:
        found.append(
            f"The FSC does not fall to the threshold before the sampling limit of {2 * pixel_size:.2f} Å: the map may "
            "be better than the pixel size can show. Use a finer pixel."
        )
    beyond = np.arange(n) > crossing + max(3, 0.25 * crossing)
    beyond[-1] = False
    if beyond.sum() >= 4:
        weight = curves.effective_counts[beyond]
        mean = float(np.average(curves.corrected[beyond], weights=weight))
        sigma = float(np.sqrt(weight @ curves.covariance[np.ix_(beyond, beyond)] @ weight) / weight.sum())
        if mean > 0.03 and mean > 5 * sigma:
            found.append(
                f"The FSC does not fall to zero beyond the resolution (mean {mean:.3f}): the half maps share noise. "
                "Look for duplicate particles, a mask or filter applied to both, or particles that changed halves."
            )
    low = curves.corrected[2 : max(3, round(0.3 * crossing)) + 1]
    # A shell near the centre holds few independent values: its dip must be more than their chance.
    chance = np.sqrt(np.diag(curves.covariance))[2 : 2 + len(low)] * (1 - np.clip(low, 0, 1) ** 2)
    certain = low + 2.5 * chance
    if len(low) and float(certain.min()) < 0.8 and crossing > 8:
        shell = 2 + int(np.argmin(certain))
        found.append(
            f"The FSC dips to {low[shell - 2]:.2f} at {box * pixel_size / shell:.0f} Å, far below the resolution: "
            "the halves differ in their overall shape."
        )
    return found

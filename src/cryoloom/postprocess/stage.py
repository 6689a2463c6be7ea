"""Stage `postprocess`: two half maps in; mask, FSC, resolution with interval and a sharpened map out."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Run, stage
from cryoloom.data import FscCurve, VolumeMap
from cryoloom.data.half_maps import check_half_maps
from cryoloom.geometry import symmetry_matrices
from cryoloom.io.fsc_xml import write_fsc_xml
from cryoloom.maps.checks import check_mask, curve_warnings, mask_warnings
from cryoloom.maps.corrected import CorrectedFsc, corrected_fsc
from cryoloom.maps.detail import DetailCurve, sharpen_by_detail
from cryoloom.maps.fsc import crossing_shell, fourier_shell_correlation
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.mask import MaskFromMap, find_mask
from cryoloom.maps.phases import phase_change_deg
from cryoloom.maps.sharpen import estimate_bfactor, sharpen_map
from cryoloom.maps.spectrum import GuinierFit, shell_frequencies
from cryoloom.postprocess.figures import PROTEIN_SHARE, show_results
from cryoloom.postprocess.oversharpening import oversharpened
from cryoloom.postprocess.settings import POSTPROCESS, PostprocessSettings

WORST_RESOLUTION = 20.0
"""Å; halves that agree no further than this do not show a structure."""

GRAVE = (
    "The mask cuts",
    "The FSC does not fall to zero",
    "The FSC dips",
    "The map is over-sharpened",
    "The half maps are over-sharpened",
)
"""Beginnings of the warnings that make a map doubtful."""

ENCLOSED = 0.2
"""Share of the protein inside the surface by which detail is measured."""

PROTEIN_VOLUME = 1.21
"""Å3 per Da."""


@stage(POSTPROCESS)
def postprocess_map(
    half1: VolumeMap, half2: VolumeMap, mask: VolumeMap | None, settings: PostprocessSettings, run: Run
) -> dict[str, Any]:
    """Measure the resolution of two half maps, correct it for the mask, and sharpen their mean."""
    check_half_maps(half1, half2, mask)
    box, pixel_size = max(half1.data.shape), half1.pixel_size
    device = torch.device(run.device)
    a, b = (torch.from_numpy(np.array(half.data, dtype=np.float32)).to(device) for half in (half1, half2))
    mean = 0.5 * (a + b)

    found = _find_mask(a, b, mean, pixel_size, settings)
    body = found.mask if mask is None else torch.from_numpy(np.array(mask.data, dtype=np.float32)).to(device)
    curves = corrected_fsc(a, b, body, randomise_below=settings.randomise_below)
    n_copies = len(symmetry_matrices(settings.symmetry))
    covariance = curves.covariance * n_copies
    crossing = locate_crossing(curves.corrected, covariance, settings.fsc_threshold)
    n = len(curves.corrected)
    frequency = shell_frequencies(half1.data.shape, pixel_size)
    resolution = box * pixel_size / crossing.shell
    worst, best = (box * pixel_size / shell for shell in crossing.interval(n))

    fit = _fit_bfactor(a, b, pixel_size, body, resolution, curves, n_copies, settings)
    weights = _weight_curve(curves.corrected, crossing.shell)
    detail = _measure_detail(mean, pixel_size, body, weights, resolution, found)
    bfactor, method = _choose_bfactor(settings, fit, detail)
    sharpened = sharpen_map(mean, pixel_size, bfactor=bfactor, fsc=weights, resolution=settings.lowpass or resolution)
    check = check_mask(a, b, body, found.mask, pixel_size, resolution)
    warnings = mask_warnings(check, curves, settings.fsc_threshold)
    warnings += curve_warnings(curves, crossing.shell, crossing.bounded, box, pixel_size)
    if method == "none":
        warnings.append(
            f"The map was not sharpened: at {resolution:.1f} Å there is no room for a Guinier fit; --sharpening detail "
            "or --bfactor does without one."
        )
    too_sharp = oversharpened(bfactor, fit, detail)
    if too_sharp:
        warnings.append(too_sharp)
    for sentence in warnings:
        run.warn(sentence)

    verdict, reasons = _judge(resolution, (best, worst), warnings)
    run.summarise(
        verdict=verdict,
        reasons=reasons,
        n_in=2,
        n_out=1,
        resolution=round(resolution, 3),
        resolution_interval=[round(best, 3), round(worst, 3)],
        resolution_half=round(box * pixel_size / max(crossing_shell(curves.corrected, 0.5), 1e-6), 3),
        resolution_first_crossing=round(box * pixel_size / max(crossing.first, 1e-6), 3),
        resolution_unmasked=round(
            box * pixel_size / max(crossing_shell(curves.unmasked, settings.fsc_threshold), 1e-6), 3
        ),
        resolution_masked_uncorrected=round(
            box * pixel_size / max(crossing_shell(curves.masked, settings.fsc_threshold), 1e-6), 3
        ),
        symmetry=settings.symmetry,
        pixel_size=pixel_size,
        randomised_from=round(float(1 / frequency[curves.randomise_shell]), 3),
        bfactor=round(bfactor, 2),
        bfactor_interval=None
        if fit is None
        else [round(fit.bfactor - 1.96 * fit.standard_error, 2), round(fit.bfactor + 1.96 * fit.standard_error, 2)],
        bfactor_from=method,
        bfactor_by_detail=None if detail is None else round(detail.best, 1),
        oversharpened=too_sharp is not None,
        phase_change_deg=round(
            phase_change_deg(mean, sharpened, pixel_size, max(resolution, settings.lowpass or resolution)), 3
        ),
        mask="found" if mask is None else "given",
        mask_volume_A3=round(float(body.sum()) * pixel_size**3, 1),
        mask_cut_fraction=round(check.cut_fraction, 4),
        molecular_mass_estimate_kda=round(PROTEIN_SHARE * found.volume / PROTEIN_VOLUME / 1000, 0),
    )
    curve = FscCurve(
        frequency=frequency,
        corrected=curves.corrected,
        unmasked=curves.unmasked,
        masked=curves.masked,
        phase_randomised=curves.phase_randomised,
        n_independent=0.5 / np.diag(covariance),
        randomise_from=float(frequency[curves.randomise_shell]),
    )
    write_fsc_xml(run.folder / "fsc.xml", frequency[1:], curves.corrected[1:])
    result = sharpened.cpu().numpy()
    show_results(
        run, curves, covariance, crossing, frequency, settings, fit, detail, result, body.cpu().numpy(), half1, found
    )
    return {
        "map_sharpened": VolumeMap(result, pixel_size, half1.origin),
        "mask": VolumeMap(body.cpu().numpy(), pixel_size, half1.origin),
        "fsc": curve,
    }


def _find_mask(a: Tensor, b: Tensor, mean: Tensor, pixel_size: float, settings: PostprocessSettings) -> MaskFromMap:
    """Mask from the mean of the halves, low-passed to where they surely agree."""
    if settings.mask_lowpass is not None:
        smooth_to = settings.mask_lowpass
    else:
        shell = crossing_shell(fourier_shell_correlation(a, b), 0.5)
        smooth_to = min(max(15.0, 1.2 * max(a.shape) * pixel_size / max(shell, 1.0)), max(a.shape) * pixel_size / 4)
    return find_mask(
        mean,
        pixel_size,
        lowpass_resolution=smooth_to,
        threshold=settings.mask_threshold,
        extend=settings.mask_extend,
        edge=settings.mask_edge,
    )


def _fit_bfactor(
    a: Tensor,
    b: Tensor,
    pixel_size: float,
    mask: Tensor,
    resolution: float,
    curves: CorrectedFsc,
    n_copies: int,
    settings: PostprocessSettings,
) -> GuinierFit | None:
    """Guinier fit up to the resolution, or None where the range is too short to tell a slope."""
    if resolution > 0.8 * settings.fit_low:
        return None
    try:
        return estimate_bfactor(
            a,
            b,
            pixel_size,
            mask,
            resolution=max(resolution, 2 * pixel_size),
            low_resolution=settings.fit_low,
            effective_counts=curves.effective_counts / n_copies,
        )
    except ValueError:
        return None


def _measure_detail(
    mean: Tensor, pixel_size: float, mask: Tensor, weights: np.ndarray, resolution: float, found: MaskFromMap
) -> DetailCurve | None:
    """Surface of the map against sharpening; None for a map without a structure or a mask without room."""
    if resolution > WORST_RESOLUTION:
        return None
    try:
        return sharpen_by_detail(
            mean.cpu(), pixel_size, mask.cpu(), fsc=weights, resolution=resolution,
            enclosed=ENCLOSED * PROTEIN_SHARE * found.volume,
        )  # fmt: skip
    except ValueError:
        return None


def _choose_bfactor(
    settings: PostprocessSettings, fit: GuinierFit | None, detail: DetailCurve | None
) -> tuple[float, str]:
    """B-factor to take out, and whence it is: `given`, `guinier`, `detail` or `none`."""
    if settings.bfactor is not None:
        return settings.bfactor, "given"
    if settings.sharpening == "detail" and detail is not None:
        return detail.best, "detail"
    return (fit.bfactor, "guinier") if fit is not None else (0.0, "none")


def _weight_curve(fsc: np.ndarray, crossing: float) -> np.ndarray:
    """FSC for weighting: smoothed, and 0 from where it first touches 0 beyond the crossing."""
    smooth = np.convolve(np.pad(fsc, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    smooth[: max(1, min(3, math.floor(crossing)))] = fsc[: max(1, min(3, math.floor(crossing)))]
    gone = np.flatnonzero((smooth <= 0) & (np.arange(len(fsc)) > crossing))
    if len(gone):
        smooth[gone[0] :] = 0
    return np.clip(smooth, 0, 1)


def _judge(resolution: float, interval: tuple[float, float], warnings: list[str]) -> tuple[str, list[str]]:
    """Verdict and its reasons, in plain words."""
    best, worst = interval
    said = (
        f"The half maps agree to {resolution:.2f} Å (95 % interval {best:.2f} to {worst:.2f} Å, FSC corrected for "
        "the mask)."
    )
    if resolution > WORST_RESOLUTION:
        return "not found", [
            said,
            f"Halves that agree no better than {WORST_RESOLUTION:.0f} Å do not show a structure.",
        ]
    grave = [w for w in warnings if w.startswith(GRAVE)]
    if grave:
        return "doubtful", [said, *grave]
    return "found", [said]

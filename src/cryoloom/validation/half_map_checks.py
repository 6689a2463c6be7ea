"""What two half maps alone can answer: resolution, mask, shape of the FSC, local and directional resolution, hand."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Run
from cryoloom.geometry import symmetry_matrices
from cryoloom.maps.checks import check_mask, curve_warnings, mask_warnings
from cryoloom.maps.corrected import flatten_amplitudes
from cryoloom.maps.directional import DirectionalFsc, directional_fsc
from cryoloom.maps.freedom import fsc_noise_covariance
from cryoloom.maps.fsc import crossing_shell, fourier_shell_correlation
from cryoloom.maps.global_resolution import GlobalResolution, measure_global_resolution, resolution_behind
from cryoloom.maps.interval import locate_crossing
from cryoloom.maps.local_resolution import LocalResolution, default_window, measure_local_resolution
from cryoloom.maps.log_bands import choose_bands
from cryoloom.maps.mask import MaskFromMap
from cryoloom.maps.permutation import PermutedFsc, permuted_fsc
from cryoloom.maps.permuted_interval import permuted_interval
from cryoloom.maps.single_map import estimate_single_map
from cryoloom.maps.standard_mask import standard_mask
from cryoloom.maps.windowed import WindowedHalves
from cryoloom.validation.hand import HandCall, call_hand
from cryoloom.validation.items import Report, number
from cryoloom.validation.statistics import WILSON_LIMIT, WilsonPlot, map_statistics, wilson_plot

WORST = 20.0
"""Å; halves that agree no further than this do not show a structure."""


@dataclass(frozen=True)
class HalfMaps:
    """Two half maps and what was measured of them.

    Attributes
    ----------
    half1, half2
        `(n, n, n)` float32.
    pixel_size
        Å.
    found
        Resolution, behind the standard mask.
    permuted
        Significance of the FSC behind that mask, by permutation.
    local, cones, hand, wilson
        Where they could be measured, else None.
    """

    half1: Tensor
    half2: Tensor
    pixel_size: float
    found: GlobalResolution
    permuted: PermutedFsc
    local: LocalResolution | None
    cones: DirectionalFsc | None
    hand: HandCall
    wilson: WilsonPlot | None

    @property
    def mean(self) -> Tensor:
        """Mean of the halves."""
        return 0.5 * (self.half1 + self.half2)

    @property
    def mask(self) -> Tensor:
        """The standard mask."""
        return self.found.mask.mask


def check_half_maps(
    half1: Tensor, half2: Tensor, pixel_size: float, given_mask: Tensor | None, symmetry: str, run: Run, report: Report
) -> HalfMaps:
    """Answer all items that need nothing but the half maps."""
    n_copies = len(symmetry_matrices(symmetry))
    found = measure_global_resolution(half1, half2, pixel_size, given_mask=given_mask, n_copies=n_copies)
    permuted = permuted_fsc(
        half1 * found.mask.mask,
        half2 * found.mask.mask,
        run.generator("permutation"),
        effective_counts=1.0 / np.diag(found.covariance),
    )
    drawn = permuted_interval(
        found.curves.corrected,
        found.covariance,
        permuted,
        found.crossing,
        np.random.default_rng(run.generator("permuted interval").initial_seed() % 2**63),
    )
    _answer_resolution(found, permuted, drawn, half1.shape[0] * pixel_size, report)
    _answer_mask(half1, half2, pixel_size, given_mask, found, n_copies, run, report)
    _answer_curve(found, pixel_size, half1.shape[0], report)
    resolved = found.resolution <= WORST
    local = cones = None
    if resolved:
        local = _answer_local(half1, half2, pixel_size, found, run, report)
        cones = _answer_directions(half1, half2, pixel_size, found, n_copies, report)
    report.skip(("local", "local_methods", "directions"), "The halves show no structure to look at in detail.")
    _answer_statistics(half1, half2, pixel_size, found, report)
    wilson = wilson_plot(half1, half2, found.mask.mask, pixel_size, found.resolution, np.diag(found.covariance))
    _answer_wilson(wilson, found.resolution, report)
    hand = _answer_hand(0.5 * (half1 + half2), found, pixel_size, report)
    _answer_single_map(0.5 * (half1 + half2), pixel_size, found, report)
    return HalfMaps(half1, half2, pixel_size, found, permuted, local, cones, hand, wilson)


def _answer_resolution(
    found: GlobalResolution, permuted: PermutedFsc, drawn: tuple[float, float], field: float, report: Report
) -> None:
    best, worst = found.interval
    said = (
        f"The half maps agree to {found.resolution:.2f} Å (95 % interval {best:.2f} to {worst:.2f} Å, FSC 0.143 behind "
        "a mask of standard width)."
    )
    if found.resolution > WORST:
        said += f" No better than {WORST:.0f} Å, that is no structure."
    report.add(
        "resolution",
        "failed" if found.resolution > WORST else "passed",
        said,
        value=number(found.resolution),
        unit="Å",
        interval=(round(best, 3), round(worst, 3)),
        limit=f"<= {WORST:.0f}",
        detail={
            "at_0.5": number(found.at_half),
            "at_half_bit": number(found.at_half_bit),
            "significant_to": number(field / max(permuted.shell, 1)),
            "interval_by_permutation": [number(field / shell) for shell in reversed(drawn)],
        },
    )


def _answer_mask(
    half1: Tensor,
    half2: Tensor,
    pixel_size: float,
    given: Tensor | None,
    found: GlobalResolution,
    n_copies: int,
    run: Run,
    report: Report,
) -> None:
    widths = {}
    volume = float((found.mask.mask**2).sum())
    flat1, flat2 = flatten_amplitudes(half1, half2)
    for name, extend, edge in (("narrow", 3.0, 8.0), ("wide", 12.0, 14.0)):
        mask = standard_mask(half1, half2, pixel_size, given, extend=extend, edge=edge).mask
        fsc = fourier_shell_correlation(flat1 * mask, flat2 * mask).numpy()
        fsc = _at_volume(fsc, float((mask**2).sum()) / volume)
        crossing = locate_crossing(fsc, fsc_noise_covariance(tuple(half1.shape), mask) * n_copies)
        widths[name] = number(half1.shape[0] * pixel_size / max(crossing.shell, 1e-3))
    del flat1, flat2
    values = [v for v in widths.values() if v]
    spread = max(values) / min(values) - 1 if values else 0.0
    report.add(
        "mask_width",
        "passed" if spread < 0.10 else "doubtful",
        f"Narrower and wider masks give {widths['narrow']} and {widths['wide']} Å, the solvent they let in taken off.",
        value=number(100 * spread, 1),
        unit="%",
        limit="< 10",
        detail=widths,
    )
    chosen = found.mask.mask if given is None else given
    behind = found
    if given is not None:
        as_given = MaskFromMap(given, found.mask.threshold, 0.0, 0.0, 0.0, 0.0, 0)
        behind = resolution_behind(half1, half2, pixel_size, as_given, n_copies=n_copies)
    check = check_mask(half1, half2, chosen, found.mask.mask, pixel_size, found.resolution)
    cut = check.cut_fraction > 0.02
    whose = "The mask" if given is None else "The given mask"
    report.add(
        "mask_density",
        "failed" if cut else "passed",
        f"{whose} cuts off {100 * check.cut_fraction:.1f} % of the density"
        + (": make it wider." if cut else ", which is nothing to speak of."),
        value=number(100 * check.cut_fraction, 2),
        unit="%",
        limit="<= 2",
    )
    others = [w for w in mask_warnings(check, behind.curves, 0.143) if not w.startswith("The mask cuts")]
    at = min(round(behind.crossing.shell), len(behind.curves.phase_randomised) - 1)
    report.add(
        "mask_correlation",
        "doubtful" if others else "passed",
        others[0] if others else "With random phases behind the mask nothing is left of the FSC at the resolution.",
        value=number(float(behind.curves.phase_randomised[at])),
        limit="<= 0.1",
        detail={"resolution_behind_given_mask": number(behind.resolution)} if given is not None else {},
    )


def _at_volume(fsc: np.ndarray, ratio: float) -> np.ndarray:
    """FSC if the mask had held `1 / ratio` of its volume, all of the density still in it.

    Noise fills a mask evenly, so the signal-to-noise ratio of every shell grows by `ratio`.
    """
    clipped = np.clip(fsc, -0.9, 0.9999)
    ssnr = ratio * clipped / (1.0 - clipped)
    return ssnr / (1.0 + ssnr)


def _answer_curve(found: GlobalResolution, pixel_size: float, box: int, report: Report) -> None:
    warnings = curve_warnings(found.curves, found.crossing.shell, found.crossing.bounded, box, pixel_size)
    shared = [w for w in warnings if w.startswith("The FSC does not fall to zero")]
    report.add(
        "shared_noise",
        "failed" if shared else "passed",
        shared[0] if shared else "Beyond the resolution the FSC is zero within chance.",
    )
    rest = [w for w in warnings if w not in shared]
    dips = any(w.startswith("The FSC dips") for w in rest)
    report.add(
        "curve",
        "failed" if dips else "doubtful" if rest else "passed",
        rest[0] if rest else "The FSC falls once and smoothly.",
    )


def _answer_local(
    half1: Tensor, half2: Tensor, pixel_size: float, found: GlobalResolution, run: Run, report: Report
) -> LocalResolution:
    window = default_window(found.resolution, pixel_size)
    bands, _ = choose_bands(half1.shape[0], pixel_size, 30.0)
    with run.progress(2 * len(bands), "local resolution") as line:
        pair = WindowedHalves(half1, half2, pixel_size, found.mask.mask, window)
        local = measure_local_resolution(pair, step=line.advance)
    inside = found.mask.mask.numpy() > 0.5
    low, median, high = (float(q) for q in np.quantile(local.consensus[inside], [0.05, 0.5, 0.95]))
    uneven = high > 2.0 * median
    report.add(
        "local",
        "doubtful" if uneven else "passed",
        f"From {low:.1f} to {high:.1f} Å within the map, {median:.1f} Å in the middle of them"
        + (
            "; large parts are much worse than the rest: they move, or are not there in all particles."
            if uneven
            else "."
        ),
        value=number(median),
        unit="Å",
        detail={"5_to_95_percent": [round(low, 3), round(high, 3)], "window": round(window, 1)},
    )
    apart = float((local.disagreement()[inside] > np.log(1.2)).mean())
    report.add(
        "local_methods",
        "passed" if apart < 0.25 else "doubtful",
        f"FSC and significance differ by more than a fifth in {100 * apart:.0f} % of the map.",
        value=number(100 * apart, 1),
        unit="%",
        limit="< 25",
    )
    return local


def _answer_directions(
    half1: Tensor, half2: Tensor, pixel_size: float, found: GlobalResolution, n_copies: int, report: Report
) -> DirectionalFsc:
    mask = found.mask.mask
    cones = directional_fsc(
        half1 * mask, half2 * mask, pixel_size, dof_fraction=float((mask > 0.5).float().mean()) / n_copies
    )
    low, high = (float(q) for q in np.quantile(cones.resolution, [0.05, 0.95]))
    smeared = cones.worst_over_best < 0.5
    report.add(
        "directions",
        "failed" if smeared else "passed",
        f"From {low:.1f} to {high:.1f} Å along different directions"
        + (": the map is smeared along some of them." if smeared else "."),
        value=number(cones.worst_over_best),
        limit=">= 0.5",
        detail={"sphericity": number(cones.sphericity), "5_to_95_percent": [round(low, 3), round(high, 3)]},
    )
    return cones


def _answer_statistics(
    half1: Tensor, half2: Tensor, pixel_size: float, found: GlobalResolution, report: Report
) -> None:
    known = map_statistics(half1, half2, found.mask.mask, pixel_size, found.resolution)
    detail = {"flatness": number(known.flatness), "skewness": number(known.skewness)}
    if known.solvent_zero > 0.5:
        status, said = "doubtful", "The solvent of the half maps is empty: they were masked, so noise cannot be judged."
    elif known.contrast < 0:
        status, said = "failed", "The particle is darker than the solvent: the contrast is inverted."
    elif known.contrast < 1.0:
        status, said = "doubtful", "The particle hardly stands out from the solvent."
    else:
        status, said = "passed", f"The particle stands {known.contrast:.1f} standard deviations above the solvent."
    report.add("contrast", status, said, value=number(known.contrast, 2), unit="σ", limit=">= 1", detail=detail)


def _answer_wilson(wilson: WilsonPlot | None, resolution: float, report: Report) -> None:
    if wilson is None:
        report.skip(("wilson",), f"At {resolution:.1f} Å the spectrum is that of the shape alone.")
        return
    unlike = wilson.deviation > WILSON_LIMIT
    error = 1.96 * wilson.bfactor_error
    report.add(
        "wilson",
        "doubtful" if unlike else "passed",
        f"B-factor {wilson.bfactor:.0f} Å²; the rest of the spectrum "
        + ("is unlike that of a protein." if unlike else "is that of a protein."),
        value=number(wilson.deviation, 2),
        unit="σ",
        limit=f"<= {WILSON_LIMIT:.0f}",
        detail={
            "bfactor": number(wilson.bfactor, 1),
            "bfactor_interval": [round(wilson.bfactor - error, 1), round(wilson.bfactor + error, 1)],
        },
    )


def _answer_hand(mean: Tensor, found: GlobalResolution, pixel_size: float, report: Report) -> HandCall:
    hand = call_hand(mean, pixel_size, found.mask.mask, max(found.resolution, 2 * pixel_size))
    status = {"right": "passed", "mirrored": "failed", "unsure": "doubtful"}[hand.call]
    said = hand.reason if hand.call == "right" else f"{hand.reason} Both hands are written out."
    report.add(
        "hand",
        status,
        said,
        value=number(hand.t, 1),
        unit="t",
        limit=">= 5",
        detail={"call": hand.call, "places": hand.n_witnesses},
    )
    return hand


def _answer_single_map(mean: Tensor, pixel_size: float, found: GlobalResolution, report: Report) -> None:
    single = estimate_single_map(mean, pixel_size)
    if not np.isfinite(single.resolution):
        report.skip(("single_map",), single.reason)
        return
    ratio = single.resolution / found.resolution
    # Noise that the halves share, or that was filtered off, shows as a map that is worse than they say.
    said = f"From the noise of the solvent the mean map is good to {single.resolution:.2f} Å"
    worse = ratio > 1.3
    report.add(
        "single_map",
        "doubtful" if worse else "passed",
        said + (", much worse than the halves say." if worse else "."),
        value=number(single.resolution),
        unit="Å",
        limit="<= 1.3 times that of the halves",
    )


def low_shell(found: GlobalResolution, level: float) -> int:
    """Last shell before the corrected FSC falls below a level, at least 2."""
    return max(int(crossing_shell(found.curves.corrected, level)), 2)


def as_tensor(data: np.ndarray) -> Tensor:
    """float32 copy of a map's voxels."""
    return torch.from_numpy(np.array(data, dtype=np.float32))

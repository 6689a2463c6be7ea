"""Which micrographs are left out unasked, and what is doubtful about others."""

from typing import Any

from cryoloom.ctf_fit.settings import CtfSettings

MIN_GAIN = 30.0  # the best fit to spectra without rings stays below


def reason_to_exclude(result: dict[str, Any], worst_resolution: float) -> str:
    """Why a micrograph is not used, in a few words; empty if it is.

    Parameters
    ----------
    result
        Figures of one micrograph, as the stage stores them.
    worst_resolution
        Rings must reach this resolution, Å.
    """
    resolution = result["ctf_resolution"]
    if resolution is None or result["gain"] < MIN_GAIN:
        return (
            f"no Thon rings stand out of the noise (evidence {result['gain']:.0f}, at least {MIN_GAIN:.0f} expected): "
            "drift, thick ice, no ice, or not an image of the specimen"
        )
    if resolution > worst_resolution:
        return f"Thon rings end at {resolution:.1f} Å, and {worst_resolution:g} Å is asked for"
    return ""


def doubts(result: dict[str, Any], settings: CtfSettings) -> list[str]:
    """What a user should look at in a micrograph that is kept."""
    found = []
    mean = 0.5 * (result["defocus_u"] + result["defocus_v"])
    if not settings.defocus_min + 60 < mean < settings.defocus_max - 60:
        found.append(f"the defocus of {mean:.0f} Å lies at the edge of the search")
    astigmatism = result["defocus_u"] - result["defocus_v"]
    if astigmatism > 0.95 * settings.astigmatism_max:
        found.append(f"the astigmatism of {astigmatism:.0f} Å lies at the edge of the search")
    if result["defocus_error"] > 200:
        found.append(f"the defocus is known to {result['defocus_error']:.0f} Å only")
    if result["ice_ring"] is not None and result["ice_ring"] > 0.5:
        found.append(f"an ice ring at 3.7 Å, {result['ice_ring']:.1f} times the power beside it: crystalline ice")
    if result["anisotropy"] > 0.5:
        found.append(f"the spectrum is uneven by {result['anisotropy']:.1f} along one direction: drift or streaks")
    return found

"""Which micrographs are left out unasked, and what is doubtful about others."""

from typing import Any

from cryoloom.ctf_fit.settings import CtfSettings

# Of 178 images without rings (white and coloured noise, gradients, ice without a CTF) the best fit of the whole search
# passed 25 in 5, 28 in 3 and 30 in none; the tail falls by half every 2.5.
MIN_GAIN = 30.0
MAX_ERROR = 500.0  # Å; then rings at 6 Å may be off by a quarter of their distance
K_NEEDED = 1 / 10  # 1/Å; images whose rings surely end before are of no use


def reason_to_exclude(result: dict[str, Any], worst_resolution: float | None) -> str:
    """Why a micrograph is not used, in a few words; empty if it is.

    A fit is trusted when its evidence is beyond what noise gives anywhere in the search and the posterior of the
    defocus is narrow. How far the rings reach counts only where area and dose suffice to see their end, unless the
    user asks for a resolution.

    Parameters
    ----------
    result
        Figures of one micrograph, as the stage stores them.
    worst_resolution
        Rings must be seen to this resolution, Å; None for no such demand.
    """
    if result["gain"] < MIN_GAIN:
        return (
            f"no Thon rings stand out of the noise (evidence {result['gain']:.0f}, at least {MIN_GAIN:.0f} expected): "
            "drift, thick ice, no ice, or not an image of the specimen"
        )
    if result["defocus_error"] > MAX_ERROR:
        return f"the defocus is known to {result['defocus_error']:.0f} Å only, and {MAX_ERROR:.0f} Å is asked for"
    resolution = result["ctf_resolution"]
    if worst_resolution is None:
        return f"Thon rings end before {1 / K_NEEDED:.0f} Å: drift, thick ice or charging" if result["faded"] else ""
    if resolution is None or resolution > worst_resolution:
        end = "are too faint" if resolution is None else f"end at {resolution:.1f} Å"
        return f"Thon rings {end}, and {worst_resolution:g} Å is asked for"
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
    if result["ctf_resolution"] is None:
        found.append("single rings are too faint to say how far they reach")
    if result["half_difference"] is not None and abs(result["half_difference"]) > max(
        8 * result["defocus_error"], 300.0
    ):
        found.append(f"two halves of the micrograph differ by {abs(result['half_difference']):.0f} Å in defocus")
    if result["defocus_error"] > 200:
        found.append(f"the defocus is known to {result['defocus_error']:.0f} Å only")
    if result["ice_ring"] is not None and result["ice_ring"] > 0.5:
        found.append(f"an ice ring at 3.7 Å, {result['ice_ring']:.1f} times the power beside it: crystalline ice")
    if result["anisotropy"] > 0.5:
        found.append(f"the spectrum is uneven by {result['anisotropy']:.1f} along one direction: drift or streaks")
    return found

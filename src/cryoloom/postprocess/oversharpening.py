"""Whether more blur is taken out of a map than is in it: then noise and ripples look like side chains.

Two witnesses. The Guinier fit says with an interval how much blur the halves share; what is taken out beyond that lifts
the outer shells above those of a protein. Where there is no such fit, the surface of the sharpened map (`maps.detail`)
does: a map that is sharpened too far falls to pieces.

Of 16 made-up proteins at 3.5 to 4.4 Å none was called over-sharpened with its planted B-factor or 20 Å2 more, 14 with
40 and all 16 with 60 Å2 more; by the surface alone 0, 4, 8 and 12, and all 16 with 100 Å2 more.
"""

from cryoloom.maps.detail import DetailCurve
from cryoloom.maps.spectrum import GuinierFit

MARGIN = 20.0
"""Å2; less than this is not seen at any resolution of interest."""

COARSE = 60.0
"""Å2 by which the surface of a map misjudges its B-factor now and then."""


def oversharpened(bfactor: float, fit: GuinierFit | None, detail: DetailCurve | None) -> str | None:
    """A sentence that says so, or None.

    Parameters
    ----------
    bfactor
        Taken out of the map, Å2.
    fit
        Of the half maps; None where there is no room for one.
    detail
        Of their mean; None if unknown.
    """
    if fit is not None:
        error = 1.96 * fit.standard_error
        interval = f"{fit.bfactor - error:.0f} to {fit.bfactor + error:.0f} Å²"
        if fit.bfactor + error < -MARGIN:
            return (
                f"The half maps are over-sharpened as they come: their outer shells are stronger than a protein's "
                f"(B-factor {fit.bfactor:.0f}, 95 % interval {interval}); give half maps that were not sharpened."
            )
        if bfactor > fit.bfactor + error + MARGIN:
            return (
                f"The map is over-sharpened: a B-factor of {bfactor:.0f} Å² is taken out, the halves show "
                f"{fit.bfactor:.0f} (95 % interval {interval}). Noise will look like detail."
            )
    elif detail is not None and bfactor > detail.best + COARSE:
        return (
            f"The map is over-sharpened: with a B-factor of {bfactor:.0f} Å² taken out its surface falls to pieces; "
            f"detail without that is largest at {detail.best:.0f} Å²."
        )
    return None

"""Box and pixel size of particle images.

A box must hold the particle, enough background to normalise by, and what the defocus displaces over the edge of the
particle (`optics/delocalisation.py`). How fine the detail will be is not known beforehand, and the cost of all that
follows grows with the square of the box: the aim is what the pixels show well, and the box ends at two diameters.
"""

from dataclasses import dataclass

import numpy as np

from cryoloom.fourier import good_size
from cryoloom.optics.delocalisation import displacement, resolution_held

LEAST_EXTENT, MOST_EXTENT = 1.5, 2.0  # edge of a box that is found, in diameters
AIM_PX, FINEST_AIM = 2.5, 3.0  # detail aimed at: pixels, and Å


@dataclass(frozen=True)
class BoxPlan:
    """How boxes are cut and scaled.

    Attributes
    ----------
    cut
        Edge in pixels of the micrograph.
    box
        Edge in pixels of the particle image.
    pixel_size
        Å per pixel of the particle image: that of the micrograph times `cut / box`.
    """

    cut: int
    box: int
    pixel_size: float


def plan_box(
    pixel_size: float,
    diameter: float | None,
    *,
    box: int | None,
    target_pixel_size: float | None,
    spread: float = 0.0,
) -> BoxPlan:
    """Box and pixel size from what is given and, for the rest, from the diameter.

    Parameters
    ----------
    pixel_size
        Å per pixel of the micrographs.
    diameter
        Å.
    box
        Edge of the particle image in pixels, or None.
    target_pixel_size
        Å per pixel wanted, or None for that of the micrographs. It is met as closely as whole, even boxes allow.
    spread
        Å by which detail is displaced by defocus at the resolution that matters.

    Raises
    ------
    ValueError
        If neither a box nor a diameter is given.
    """
    wanted = max(pixel_size, target_pixel_size or pixel_size)
    if box is None:
        if diameter is None:
            raise ValueError("box or diameter: expected at least one of them, got neither")
        extent = min(max(LEAST_EXTENT * diameter, diameter + 2 * spread), MOST_EXTENT * diameter)
        box = good_size(round(extent / wanted + 0.49))
    if wanted < 1.001 * pixel_size:
        return BoxPlan(box, box, pixel_size)
    cut = 2 * round(box * wanted / pixel_size / 2)
    return BoxPlan(cut, box, pixel_size * cut / box)


def aimed_resolution(pixel_size: float) -> float:
    """Å of the finest detail that a box that is found shall hold."""
    return max(FINEST_AIM, AIM_PX * pixel_size)


def defocus_spread(defocus: float, voltage_kv: float, cs_mm: float, resolution: float) -> float:
    """Å by which detail up to `resolution` Å is displaced at most, at `defocus` Å."""
    return float(displacement(np.linspace(0, 1 / resolution, 1024), defocus, voltage_kv, cs_mm).max())


def box_remark(
    plan: BoxPlan, diameter: float, defocus: float, voltage_kv: float, cs_mm: float, finest: float | None = None
) -> tuple[float, str]:
    """Resolution that the box holds at `defocus` (Å), and in words what is lost; empty where nothing is.

    `finest` is the resolution in Å that is wanted, by default what the pixels allow.
    """
    wanted = "the pixels allow" if finest is None else "are aimed at"
    finest = 2 * plan.pixel_size if finest is None else finest
    extent = plan.box * plan.pixel_size
    held = resolution_held(extent, diameter, defocus, voltage_kv, cs_mm, finest)
    if held <= 1.005 * finest:
        return held, ""
    reach = defocus_spread(defocus, voltage_kv, cs_mm, finest)
    enough = good_size(round((diameter + 2 * reach) / plan.pixel_size + 0.49))
    return held, (
        f"the box of {extent:.0f} Å is too small for a particle of {diameter:.0f} Å at a defocus of {defocus:.0f} Å: "
        f"detail finer than {held:.2f} Å is displaced over its edge and fades, so {held - finest:.2f} Å are lost "
        f"against the {finest:.2f} Å that {wanted}; --box {enough} keeps them"
    )

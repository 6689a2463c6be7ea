"""Box and pixel size of particle images.

A box must hold the particle, enough background to normalise by, and what the defocus spreads: detail of
resolution d is displaced by `λ Δf / d` (Rosenthal, Henderson 2003, doi:10.1016/j.jmb.2003.07.013; Glaeser 2021).
"""

from dataclasses import dataclass

import numpy as np

from cryoloom.fourier import good_size
from cryoloom.optics.delocalisation import displacement, resolution_held


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
        extent = min(max(1.5 * diameter, diameter + 2 * spread), 1.8 * diameter)
        box = good_size(round(extent / wanted + 0.49))
    if wanted < 1.001 * pixel_size:
        return BoxPlan(box, box, pixel_size)
    cut = 2 * round(box * wanted / pixel_size / 2)
    return BoxPlan(cut, box, pixel_size * cut / box)


def defocus_spread(wavelength: float, defocus: float, resolution: float) -> float:
    """Å by which detail of `resolution` Å is displaced at `defocus` Å."""
    return wavelength * abs(defocus) / resolution


def box_remark(plan: BoxPlan, diameter: float, defocus: float, voltage_kv: float, cs_mm: float) -> tuple[float, str]:
    """Resolution that the box holds at `defocus` (Å), and in words what is lost; empty where nothing is."""
    finest = 2 * plan.pixel_size
    extent = plan.box * plan.pixel_size
    held = resolution_held(extent, diameter, defocus, voltage_kv, cs_mm, finest)
    if held <= 1.005 * finest:
        return held, ""
    reach = float(displacement(np.linspace(0, 1 / finest, 1024), defocus, voltage_kv, cs_mm).max())
    enough = good_size(round((diameter + 2 * reach) / plan.pixel_size + 0.49))
    return held, (
        f"the box of {extent:.0f} Å is too small for a particle of {diameter:.0f} Å at a defocus of {defocus:.0f} Å: "
        f"detail finer than {held:.2f} Å is displaced over its edge and fades, so {held - finest:.2f} Å are lost "
        f"against the {finest:.2f} Å that the pixels allow; --box {enough} keeps them"
    )

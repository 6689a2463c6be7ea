"""Optics of one group of images: what is the same for all of them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Optics:
    """One optics group.

    Attributes
    ----------
    name
        Unique within a set.
    pixel_size
        Å per pixel of the images of the set (movie frames, micrographs or particles).
    voltage_kv, cs_mm, amplitude_contrast
        Microscope; Cs in mm, contrast as a fraction.
    beam_tilt_mrad
        Beam tilt (x, y) in mrad.
    odd_zernike, even_zernike
        Coefficients as in RELION (`interfaces.md` 2.4), or empty.
    magnification
        2 x 2 matrix (xy) that takes the reference to the image in real space, row by row.
    original_pixel_size
        Å per pixel of what these images were made from, or None: of the frames for micrographs; for particles, of
        the micrographs, in whose pixels `position_px` counts.
    box
        Particle box in pixels, for particles.
    mtf_path
        MTF file of the detector, or None.
    hand
        +1 or -1: `defocus(z) = defocus + hand * z`.
    ctf_premultiplied, phase_flipped
        What was done to the images already.
    extra
        Columns of the file that this project does not know; they travel along untouched.
    """

    name: str = "opticsGroup1"
    pixel_size: float = 1.0
    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    original_pixel_size: float | None = None
    box: int | None = None
    mtf_path: str | None = None
    hand: int = 1
    ctf_premultiplied: bool = False
    phase_flipped: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.pixel_size > 0:
            raise ValueError(f"pixel_size: expected a positive number of Å, got {self.pixel_size}")
        if not self.voltage_kv > 0:
            raise ValueError(f"voltage_kv: expected a positive voltage in kV, got {self.voltage_kv}")
        if self.hand not in (1, -1):
            raise ValueError(f"hand: expected +1 or -1, got {self.hand}")

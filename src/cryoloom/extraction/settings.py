"""Settings of the stage `extract`."""

from typing import Literal

from pydantic import model_validator

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class ExtractSettings(Settings):
    """Particle images cut from micrographs, scaled, normalised and with bright particles."""

    diameter: float | None = setting(None, "Diameter of the particle; taken from the picks.", unit="Å", gt=0)
    box: int | None = setting(None, "Edge of the particle images; even.", unit="px", ge=8)
    bin: float | None = setting(None, "Factor by which pixels grow.", ge=1)
    target_pixel_size: float | None = setting(
        None, "Pixel size of the particle images, never finer than that of the micrographs.", unit="Å", gt=0
    )
    edge: Literal["mirror", "leave-out"] = setting(
        "mirror",
        "What to do with boxes that reach over the edge: complete the background by mirroring when the particle itself "
        "lies on the micrograph, or leave them out.",
    )
    contrast: Literal["auto", "dark", "bright"] = setting(
        "auto", "Whether particles are dark or bright on the micrographs; they are bright on the images."
    )
    axes: Literal["auto", "as-given"] = setting(
        "auto",
        "Whether picks of other programs may be flipped or have their axes swapped where the micrographs show it.",
        expert=True,
    )
    normalise: bool = setting(True, "Subtract a background plane and scale the background to deviation 1.")
    background_diameter: float | None = setting(
        None, "Circle outside which the image counts as background.", unit="Å", gt=0, expert=True
    )
    dust_sigma: float = setting(
        6.0, "Pixels that differ by more deviations from those around them are dust; 0 keeps them.", ge=0, expert=True
    )
    subpixel: bool = setting(True, "Put refined centres exactly on the centre pixel, by interpolation.", expert=True)
    float16: bool = setting(False, "Store half precision (RELION 4 and later read it); half the disk.")
    pixel_size: float | None = setting(None, "Pixel size, when bare image files are given.", unit="Å", gt=0)
    voltage_kv: float = setting(300.0, "Voltage, when bare image files are given.", unit="kV", gt=0)
    cs_mm: float = setting(2.7, "Spherical aberration, when bare image files are given.", unit="mm", ge=0)
    amplitude_contrast: float = setting(0.1, "Amplitude contrast, when bare image files are given.", ge=0, lt=1)

    @model_validator(mode="after")
    def _sound(self) -> "ExtractSettings":
        if self.box is not None and self.box % 2:
            raise ValueError(f"box: expected an even number of pixels, got {self.box}")
        if self.bin is not None and self.target_pixel_size is not None:
            raise ValueError("bin and target_pixel_size: give one of them, not both")
        return self


EXTRACT = StageDeclaration(
    name="extract",
    help="Cut particle images from micrographs, at picks or anew at refined centres.",
    settings=ExtractSettings,
    function="cryoloom.extraction.stage:extract_particles",
    inputs=(
        Input("micrographs", "micrographs", "Micrographs as written by `ctf`, `motion` or `import`."),
        Input("picks", "picks", "Picks as written by `pick`, or coordinates of other programs.", required=False),
        Input("particles", "particles", "Particles to cut out again at their refined centres.", required=False),
    ),
    writes={
        "particles": "the particles with their CTF, half set and pick score",
        "particles/<micrograph>.mrcs": "their images, one stack per micrograph",
    },
)

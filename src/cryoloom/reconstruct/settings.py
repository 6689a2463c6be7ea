"""Settings and declaration of the stage `reconstruct`."""

from cryoloom.contract import (
    Input,
    Settings,
    StageDeclaration,
    diameter_setting,
    noise_setting,
    setting,
    symmetry_setting,
)


class ReconstructSettings(Settings):
    """Reconstruction from particles with poses."""

    symmetry: str = symmetry_setting("imposed on the map")
    mask_diameter: float | None = diameter_setting("outside it the background is measured")
    by_class: bool = setting(False, "One map (and pair of halves) per class number instead of one for all.")
    resolution: float | None = setting(None, "Highest resolution that is inserted; Nyquist by default.", unit="Å", gt=0)
    noise: str = noise_setting()


RECONSTRUCT = StageDeclaration(
    name="reconstruct",
    help="Make a map and its two half maps from particles whose poses are known.",
    settings=ReconstructSettings,
    function="cryoloom.reconstruct.stage:reconstruct_map",
    inputs=(Input("particles", "particles", "Particles with poses; column `half` tells the halves apart."),),
    writes={
        "map": "map of all particles, weighted by its signal-to-noise ratio",
        "half1": "map of the first half, unfiltered",
        "half2": "map of the second half, unfiltered",
    },
    several_gpus=True,
)

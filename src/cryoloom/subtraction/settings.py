"""Settings and declaration of the stage `subtract`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class SubtractSettings(Settings):
    """Subtraction of what lies outside a mask from every image."""

    mask_diameter: float | None = setting(
        None, "Diameter of the circle around the whole particle; found in the maps by default.", unit="Å", gt=0
    )
    recentre: bool = setting(True, "Centre images and map on the middle of what is kept.")
    box: int | None = setting(
        None, "Side of the new images; by default 1.5 times the extent of what is kept.", unit="px", ge=16
    )


SUBTRACT = StageDeclaration(
    name="subtract",
    help="Subtract from each image the projection of all that lies outside a mask; centre it on what is kept.",
    settings=SubtractSettings,
    function="cryoloom.subtraction.stage:subtract_signal",
    inputs=(
        Input("particles", "particles", "Particles with poses and halves."),
        Input("half1", "map", "Unfiltered map of the first half, as `refine` writes it."),
        Input("half2", "map", "Unfiltered map of the second half."),
        Input("mask", "map", "What is kept: 1 inside, 0 outside, soft edge."),
    ),
    uses_gpu=False,
    writes={
        "particles": "particles with their new images, shifts and defoci; poses stay",
        "map": "what is kept, on the new centre: the reference of a local refinement",
        "mask": "the mask, on the new centre",
    },
)

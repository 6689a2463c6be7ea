"""Settings and declaration of the stage `validate`."""

from cryoloom.contract import Input, Settings, StageDeclaration, diameter_setting, setting, symmetry_setting


class ValidateSettings(Settings):
    """Every test of a pair of half maps, and of the particles and the model behind them where they are given."""

    symmetry: str = symmetry_setting("imposed on the half maps")
    mask_diameter: float | None = diameter_setting("found in the map by default")
    particles_used: int = setting(
        2000, "Most particles that are asked; they are spread over the set.", ge=50, le=1_000_000
    )
    random_phases: bool = setting(
        False,
        "Also refine again from images whose phases are random at the finest detail; takes several times as long.",
    )
    decoys: int = setting(2, "False maps that the particles are asked about.", ge=1, le=20, expert=True)
    model_resolution: float | None = setting(
        None, "Resolution at which the model is compared; that of the map by default.", unit="Å", gt=0, expert=True
    )


VALIDATE = StageDeclaration(
    name="validate",
    help="Ask in every known way whether a map is true, and write one report with a verdict.",
    settings=ValidateSettings,
    function="cryoloom.validation.stage:validate_map",
    inputs=(
        Input("half1", "map", "First half map, unfiltered and unmasked."),
        Input("half2", "map", "Second half map."),
        Input("mask", "map", "Mask in [0, 1] that says which density is meant.", required=False),
        Input("particles", "particles", "The particles with the poses that the map was made with.", required=False),
        Input(
            "tilted",
            "particles",
            "The same particles, in the same order, in a second exposure at another tilt, with poses.",
            required=False,
        ),
        Input("model", "model", "Atomic model that lies in the map.", required=False),
    ),
    uses_gpu=False,
    writes={
        "local_resolution": "local resolution in Å: what two methods read through their windows",
        "map_this_hand": "mean of the halves as given, where the hand is not sure",
        "map_other_hand": "its mirror image, where the hand is not sure or the map is mirrored",
        "validation": "all answers: validation.json",
    },
)

"""Settings and declaration of the stage `resolution`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting, symmetry_setting


class ResolutionSettings(Settings):
    """Local and directional resolution of a pair of half maps."""

    symmetry: str = symmetry_setting("imposed on the half maps")
    window: float | None = setting(
        None, "Standard deviation of the window around each voxel; 1.8 times the global resolution.", unit="Å", gt=0
    )
    threshold: float = setting(0.143, "Local FSC at which the resolution is read.", gt=0, lt=1, expert=True)
    significance: float = setting(
        0.95,
        "Level of significance of the second method, against the noise of the half maps.",
        gt=0.5,
        lt=1,
        expert=True,
    )
    cone_deg: float = setting(
        20.0, "Half angle of the cones of the directional FSC.", unit="°", gt=5, lt=60, expert=True
    )


RESOLUTION = StageDeclaration(
    name="resolution",
    help="Measure the resolution of two half maps in each place and along each direction.",
    settings=ResolutionSettings,
    function="cryoloom.resolution.stage:measure_resolution",
    inputs=(
        Input("half1", "map", "First half map, unfiltered and unmasked."),
        Input("half2", "map", "Second half map."),
        Input("mask", "map", "Soft mask in [0, 1]; made from the map by default.", required=False),
        Input("particles", "particles", "Particles with their poses, for the sampling of directions.", required=False),
    ),
    writes={
        "local_resolution": "local resolution in Å from the FSC in a window around each voxel",
        "local_significance": "local resolution in Å from the significance of the signal over the noise of the halves",
    },
)

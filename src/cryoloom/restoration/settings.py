"""Settings and declaration of the stage `restore`."""

from typing import Literal

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class RestoreSettings(Settings):
    """Local filtering and sharpening from two half maps."""

    window: float | None = setting(
        None, "Standard deviation of the window around each voxel; 2.5 times the global resolution.", unit="Å", gt=0
    )
    method: Literal["bfactor", "amplitude"] = setting(
        "bfactor",
        "Take a B-factor out of each place, or lift each band of each place to the amplitude of an average protein.",
    )
    sharpen: bool = setting(True, "Also restore amplitudes; else the map is only filtered.")
    fit_low: float = setting(10.0, "Local B-factors are fitted from this resolution on.", unit="Å", gt=0, expert=True)
    prior: float = setting(
        100.0,
        "Spread of local B-factors about that of the whole map, where data say little.",
        unit="Å²",
        gt=0,
        expert=True,
    )


RESTORE = StageDeclaration(
    name="restore",
    help="Filter and sharpen a map place by place, from what its two halves share there.",
    settings=RestoreSettings,
    function="cryoloom.restoration.stage:restore_map",
    inputs=(
        Input("half1", "map", "First half map, unfiltered and unmasked."),
        Input("half2", "map", "Second half map, from other particles."),
        Input("mask", "map", "Soft mask in [0, 1]; made from the map by default.", required=False),
        Input(
            "model",
            "model",
            "Atomic model that lies in the map; amplitudes are then scaled to its own.",
            required=False,
        ),
    ),
    writes={
        "map_local": "mean of the halves, filtered and sharpened locally; not for quantitative use of grey values",
        "local_bfactor": "B-factor in Å2 that was taken out at each place (method bfactor, without a model)",
    },
    uses_gpu=False,
)

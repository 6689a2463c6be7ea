"""Settings and declaration of the stage `postprocess`."""

from typing import Literal

from cryoloom.contract import Input, Settings, StageDeclaration, setting, symmetry_setting


class PostprocessSettings(Settings):
    """Mask, resolution and sharpening of a pair of half maps."""

    symmetry: str = symmetry_setting("imposed on the half maps (it lowers the number of independent values)")
    mask_lowpass: float | None = setting(
        None, "Low-pass of the map from which the mask is made; 15 Å, or more for a coarse map.", unit="Å", gt=0
    )
    mask_threshold: float | None = setting(None, "Grey level of that low-passed map at which the mask is cut.")
    mask_extend: float = setting(6.0, "Distance by which the mask is grown.", unit="Å", ge=0)
    mask_edge: float = setting(10.0, "Width of the soft edge of the mask.", unit="Å", gt=0)
    randomise_below: float = setting(
        0.8, "Phases are randomised from where the FSC without mask falls below this.", gt=0, lt=1, expert=True
    )
    fsc_threshold: float = setting(0.143, "FSC at which the resolution is read.", gt=0, lt=1, expert=True)
    sharpening: Literal["guinier", "detail"] = setting(
        "guinier",
        "How the B-factor is found: a Guinier fit to what the halves share, or the most detail in the fewest pieces.",
    )
    bfactor: float | None = setting(
        None, "B-factor of the map, taken out by sharpening (positive for a blurred map); found by default.", unit="Å²"
    )
    fit_low: float = setting(10.0, "The Guinier fit starts at this resolution.", unit="Å", gt=0, expert=True)
    lowpass: float | None = setting(None, "Low-pass of the sharpened map; its resolution by default.", unit="Å", gt=0)


POSTPROCESS = StageDeclaration(
    name="postprocess",
    help="Measure the resolution of two half maps, correct it for the mask, and sharpen their mean.",
    settings=PostprocessSettings,
    function="cryoloom.postprocess.stage:postprocess_map",
    inputs=(
        Input("half1", "map", "First half map, unfiltered and unmasked."),
        Input("half2", "map", "Second half map, from other particles."),
        Input("mask", "map", "Soft mask in [0, 1]; made from the map by default.", required=False),
    ),
    writes={
        "map_sharpened": "mean of the halves, sharpened, FSC-weighted and low-passed",
        "mask": "the mask behind which the resolution was measured",
        "fsc": "FSC curves; fsc.xml holds the corrected one as EMDB takes it",
    },
)

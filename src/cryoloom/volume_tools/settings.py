"""Settings and declarations of the tools for maps and masks."""

from typing import Literal

from cryoloom.contract import Input, Settings, StageDeclaration, setting

_MAP = Input("map", "map", "The map.")
_STAGE = "cryoloom.volume_tools.stage"


class FlipSettings(Settings):
    """Mirror image of a map: the other hand."""

    axis: Literal["x", "y", "z"] = setting("z", "Axis that is turned round; the centre voxel stays.")


class ResampleSettings(Settings):
    """Another pixel size."""

    pixel: float | None = setting(None, "Size of a voxel of the result; must be given.", unit="Å", gt=0)
    box: int | None = setting(None, "Voxels on a side; as many as fill the field of the map by default.", ge=8, le=4096)


class CropSettings(Settings):
    """Another box at the same pixel size."""

    box: int | None = setting(
        None, "Voxels on a side, must be given; a larger box than the map's is padded.", ge=2, le=4096
    )
    centre: str | None = setting(
        None, "Voxel that becomes the centre, as `x,y,z` from 0; that of the map by default, `mass` for the density's."
    )
    fill: float = setting(0.0, "Value of voxels that the map does not reach.")


class AlignSettings(Settings):
    """Symmetry axes of a map onto those of the convention."""

    symmetry: str = setting("C1", "Point group of the map: Cn, Dn, T, O, I (I1 to I4).")
    resolution: float | None = setting(
        None, "Finest detail that decides; 10 Å or three voxels by default.", unit="Å", gt=0
    )
    symmetrise: bool = setting(False, "Also average the result over the group.")


class FilterSettings(Settings):
    """Filters that act on amplitudes."""

    lowpass: float | None = setting(None, "Keep what is coarser than this.", unit="Å", gt=0)
    highpass: float | None = setting(None, "Keep what is finer than this.", unit="Å", gt=0)
    bfactor: float | None = setting(None, "Blur by this B-factor; a negative one sharpens.", unit="Å²")


class ArithmeticSettings(Settings):
    """What is done with maps, voxel by voxel."""

    operation: Literal[
        "add", "subtract", "multiply", "divide", "mean", "minimum", "maximum", "scale", "invert", "threshold", "clip"
    ] = setting(
        "add",
        "Of several maps: add, subtract (the first minus the others), multiply, divide, mean, minimum (of masks: "
        "what all hold), maximum (what any holds); of one: scale, invert (1 - map), threshold, clip to [0, 1].",
    )
    factor: float = setting(1.0, "Of scale: the map is multiplied by this.")
    offset: float = setting(0.0, "Of scale: this is added afterwards.")
    level: float = setting(0.5, "Of threshold: 1 above this, 0 elsewhere.")


class MaskMapSettings(Settings):
    """Soft mask from a map."""

    lowpass: float = setting(15.0, "The map is low-passed to this first.", unit="Å", gt=0)
    threshold: float | None = setting(None, "Grey level of the low-passed map; found in the data by default.")
    extend: float = setting(6.0, "Distance by which the body is grown.", unit="Å", ge=0)
    edge: float = setting(8.0, "Width of the soft edge.", unit="Å", ge=0)


class MaskModelSettings(Settings):
    """Soft mask from an atomic model."""

    radius: float = setting(5.0, "The mask is 1 within this distance of an atom.", unit="Å", gt=0)
    edge: float = setting(8.0, "Width of the soft edge outside that.", unit="Å", ge=0)
    chains: str | None = setting(None, "Chains that count, separated by commas; all by default.")
    assembly: bool = setting(False, "Build the biological assembly of the file.")


def _volume(verb: str, settings: type[Settings], function: str, text: str, *inputs: Input) -> StageDeclaration:
    return StageDeclaration(
        name=f"volume {verb}",
        help=text,
        settings=settings,
        function=f"{_STAGE}:{function}",
        inputs=inputs or (_MAP,),
        writes={"map": "the result"},
        uses_gpu=False,
    )


FLIP = _volume("flip", FlipSettings, "flip_map", "Mirror a map, which changes its hand.")
RESAMPLE = _volume("resample", ResampleSettings, "resample_volume", "Give a map another pixel size.")
CROP = _volume("crop", CropSettings, "crop_map", "Crop or pad a map to another box.")
ALIGN = _volume("align", AlignSettings, "align_map", "Bring the symmetry axes of a map onto those of the convention.")
FILTER = _volume("filter", FilterSettings, "filter_volume", "Low-pass, high-pass, blur or sharpen a map.")
ARITHMETIC = _volume(
    "arithmetic",
    ArithmeticSettings,
    "combine_maps",
    "Add, subtract, multiply, divide, invert or scale maps and masks.",
    Input("maps", "maps", "One map or several on one grid."),
)
MASK_MAP = StageDeclaration(
    name="mask map",
    help="Make a soft mask around the density of a map.",
    settings=MaskMapSettings,
    function=f"{_STAGE}:mask_from_map",
    inputs=(_MAP,),
    writes={"mask": "soft mask in [0, 1]"},
    uses_gpu=False,
)
MASK_MODEL = StageDeclaration(
    name="mask model",
    help="Make a soft mask around the atoms of a model that lies in a map.",
    settings=MaskModelSettings,
    function=f"{_STAGE}:mask_from_model",
    inputs=(Input("model", "model", "PDB or mmCIF file."), Input("map", "map", "Map on whose grid the mask lies.")),
    writes={"mask": "soft mask in [0, 1]"},
    uses_gpu=False,
)

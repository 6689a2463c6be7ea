"""Settings and declarations of the tools for maps and masks."""

from typing import Literal

from cryoloom.contract import Input, Settings, setting, symmetry_setting, tool

_STAGE = "cryoloom.volume_tools.stage"
_MAP = Input("map", "map", "The map.")


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

    symmetry: str = symmetry_setting("of the map")
    resolution: float | None = setting(
        None, "Finest detail that decides; 10 Å or 2.2 voxels by default.", unit="Å", gt=0
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


_RESULT = {"map": "the result"}
_MASK = {"mask": "soft mask in [0, 1]"}

FLIP = tool(
    "volume flip",
    FlipSettings,
    f"{_STAGE}:flip_map",
    "Mirror a map, which changes its hand.",
    _RESULT,
    _MAP,
)
RESAMPLE = tool(
    "volume resample",
    ResampleSettings,
    f"{_STAGE}:resample_volume",
    "Give a map another pixel size.",
    _RESULT,
    _MAP,
)
CROP = tool(
    "volume crop",
    CropSettings,
    f"{_STAGE}:crop_map",
    "Crop or pad a map to another box.",
    _RESULT,
    _MAP,
)
ALIGN = tool(
    "volume align",
    AlignSettings,
    f"{_STAGE}:align_map",
    "Bring the symmetry axes of a map onto those of the convention.",
    _RESULT,
    _MAP,
)
FILTER = tool(
    "volume filter",
    FilterSettings,
    f"{_STAGE}:filter_volume",
    "Low-pass, high-pass, blur or sharpen a map.",
    _RESULT,
    _MAP,
)
ARITHMETIC = tool(
    "volume arithmetic",
    ArithmeticSettings,
    f"{_STAGE}:combine_maps",
    "Add, subtract, multiply, divide, invert or scale maps and masks.",
    _RESULT,
    Input("maps", "maps", "One map or several on one grid."),
)
MASK_MAP = tool(
    "mask map",
    MaskMapSettings,
    f"{_STAGE}:mask_from_map",
    "Make a soft mask around the density of a map.",
    _MASK,
    _MAP,
)
MASK_MODEL = tool(
    "mask model",
    MaskModelSettings,
    f"{_STAGE}:mask_from_model",
    "Make a soft mask around the atoms of a model that lies in a map.",
    _MASK,
    Input("model", "model", "PDB or mmCIF file."),
    Input("map", "map", "Map on whose grid the mask lies."),
)

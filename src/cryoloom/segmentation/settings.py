"""Settings and declaration of the stage `segment`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class SegmentSettings(Settings):
    """Watershed of a map above a level."""

    level: float | None = setting(None, "Grey level of the low-passed map; suggested from the map by default.")
    lowpass: float | None = setting(
        None,
        "The map is low-passed to this first; by default as little as lets it stand out of its noise, 8 Å or more.",
        unit="Å",
        gt=0,
    )
    depth: float = setting(
        0.15, "Regions whose saddle lies less deep than this part of the density below the lower peak become one.",
        ge=0, lt=1,
    )  # fmt: skip
    smallest: float = setting(0.02, "Regions smaller than this part of the largest are joined or left out.", ge=0, lt=1)


SEGMENT = StageDeclaration(
    name="segment",
    help="Take a map apart into regions by watershed, with a mask and a suggested level.",
    settings=SegmentSettings,
    function="cryoloom.segmentation.stage:segment_map",
    inputs=(Input("map", "map", "The map, protein bright."),),
    writes={
        "segments": "number of the region of each voxel, by falling size; 0 outside",
        "mask": "1 inside of a region",
    },
    uses_gpu=False,
)

"""Settings of the stage `search-model`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting, symmetry_setting


class SearchModelSettings(Settings):
    """Every view of a model at every place of a micrograph, with a threshold that noise passes as often as is set."""

    false_picks: float = setting(1.0, "Picks that pure noise may give on each micrograph, on average.", gt=0)
    resolution: float | None = setting(
        None, "Finest detail that is used; all that the pixels hold if not given.", unit="Å", gt=0
    )
    angle_step_deg: float | None = setting(
        None,
        "Angle between neighbouring views; if not given, the rim of the particle moves by the resolution from one view "
        "to the next.",
        unit="°",
        gt=0,
        le=60,
    )
    symmetry: str = symmetry_setting("of the model about its centre; a higher one saves time")
    defocus_range: float = setting(
        0.0, "Defocus is searched this far above and below that of the micrograph.", unit="Å", ge=0
    )
    defocus_step: float = setting(200.0, "Step of the search for defocus.", unit="Å", gt=0)
    bfactor: float = setting(
        0.0, "B-factor added to that of the atoms or of the map: what the images lack.", unit="Å²", ge=0, expert=True
    )
    map_pixel_size: float | None = setting(
        None, "Pixel size of a map, in place of what its header says.", unit="Å", gt=0, expert=True
    )


SEARCH_MODEL = StageDeclaration(
    name="search-model",
    help="Find particles by an exhaustive search with an atomic model or a map, at a set rate of false picks.",
    settings=SearchModelSettings,
    function="cryoloom.picking.model_search.stage:search_model",
    inputs=(
        Input("micrographs", "micrographs", "Micrographs with their CTF, as written by `ctf`."),
        Input("model", "file", "Atomic model (PDB, mmCIF; its first biological assembly) or a map (.mrc)."),
    ),
    writes={
        "picks": "positions, scores in standard deviations of noise, and poses of all picks",
        "coordinates/<micrograph>.star": "the picks of each micrograph, as RELION writes them",
    },
)

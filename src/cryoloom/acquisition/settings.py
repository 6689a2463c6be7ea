"""Settings and declaration of the stage `optics-groups`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class OpticsGroupsSettings(Settings):
    """How beam shifts become groups."""

    groups: int | None = setting(
        None, "Number of groups (positions of the beam-shift pattern); found by default.", ge=1, le=5000
    )
    smallest: int = setting(1, "Groups with fewer exposures than this are joined to the nearest one.", ge=1)


OPTICS_GROUPS = StageDeclaration(
    name="optics-groups",
    help="Give movies, micrographs or particles optics groups by the beam shifts in EPU or SerialEM metadata.",
    settings=OpticsGroupsSettings,
    function="cryoloom.acquisition.stage:assign_optics_groups",
    inputs=(
        Input("table", "file", "STAR file of movies, micrographs or particles."),
        Input("metadata", "files", "EPU .xml files or SerialEM .mdoc files of the exposures."),
    ),
    writes={
        "movies": "the movies with their groups",
        "micrographs": "the micrographs with their groups",
        "particles": "the particles with their groups",
    },
    uses_gpu=False,
)

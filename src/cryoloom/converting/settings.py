"""Settings and declaration of the stage `convert`."""

from typing import Literal

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class ConvertSettings(Settings):
    """From which form to which."""

    to: Literal["star", "relion30", "cs", "cistem", "box", "cbox", "topaz", "ctffind"] = setting(
        "star",
        "Form of the result: `star` is RELION 3.1 and later; particles also `relion30`, `cs` (cryoSPARC) or `cistem`; "
        "coordinates `box` (EMAN), `cbox` (crYOLO), `cs` or `topaz`; micrographs with a CTF `ctffind`.",
    )
    scale: float | None = setting(
        None, "Factor from pixels of a coordinate file to pixels of the micrograph; Topaz needs it.", gt=0
    )
    box: int | None = setting(None, "Edge of the boxes that are written to `.box` and `.cbox` files.", unit="px", ge=2)


CONVERT = StageDeclaration(
    name="convert",
    help="Convert tables and coordinates of RELION, cryoSPARC, cisTEM, EMAN, crYOLO, Topaz and CTFFIND.",
    settings=ConvertSettings,
    function="cryoloom.converting.stage:convert_files",
    inputs=(
        Input("files", "files", "One table, or coordinate files of many micrographs."),
        Input("micrographs", "micrographs", "Micrographs that coordinate files belong to.", required=False),
    ),
    writes={
        "particles": "particles.star",
        "micrographs": "micrographs.star",
        "movies": "movies.star",
        "picks": "picks.star",
    },
)

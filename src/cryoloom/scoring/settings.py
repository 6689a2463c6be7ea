"""Settings and declaration of `score`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class ScoreSettings(Settings):
    """Comparison of a result with the truth of a simulation."""

    symmetry: str = setting("C1", "Point group of the particle; poses that it makes equal count as equal.")
    distance: float = setting(
        30.0, "Largest distance at which a pick counts as a true particle.", unit="Å", gt=0, le=2000
    )
    either_hand: bool = setting(True, "A mirrored map is compared after mirroring it back, and reported as mirrored.")
    superposed: bool = setting(False, "Maps lie on each other already; they are compared as they are.", expert=True)


SCORE = StageDeclaration(
    name="score",
    help="Compare any result with the truth: poses, shifts, defocus, motion, picks, classes, maps.",
    settings=ScoreSettings,
    function="cryoloom.scoring.stage:score_result",
    inputs=(
        Input("result", "file", "particles.star, micrographs.star, picks.star or a map."),
        Input(
            "truth",
            "file",
            "truth.star or truth_micrographs.star of a simulation, coordinates, or the true map.",
        ),
        Input("mask", "map", "Mask for maps, on the grid of the true map.", required=False),
    ),
    writes={"fsc": "for maps: FSC with the truth", "aligned": "for maps: the map laid on the truth"},
)

"""Settings and declarations of the stages `deposit` and `check-deposit`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class DepositSettings(Settings):
    """What the files of a project cannot tell; everything else is taken from its records."""

    job: str | None = setting(
        None, "Postprocess job whose map is deposited, such as `postprocess/002`; the newest finished one by default."
    )
    title: str | None = setting(None, "Title of the entry; made from resolution and symmetry by default.")
    sample: str = setting("", "Name of the sample.")
    organism: str = setting("", "Source organism of the sample.")
    authors: str = setting("", "Authors, separated by semicolons.")
    microscope: str = setting("", "Model of the microscope.")
    detector: str = setting("", "Model of the detector.")
    mass_kda: float | None = setting(
        None, "Mass that the contour encloses; estimated from the map by default.", unit="kDa", gt=0
    )
    contour: float | None = setting(
        None, "Recommended contour level of the primary map; it encloses the mass by default."
    )


DEPOSIT = StageDeclaration(
    name="deposit",
    help="Make a folder with all that EMDB and EMPIAR ask for out of a finished project, and check it.",
    settings=DepositSettings,
    function="cryoloom.deposit.stage:make_deposition",
    inputs=(Input("project", "folder", "A project with a finished postprocess job."),),
    uses_gpu=False,
)


class CheckDepositSettings(Settings):
    """The check has no settings."""


CHECK_DEPOSIT = StageDeclaration(
    name="check-deposit",
    help="Check a deposition folder and name everything that is missing or does not fit together.",
    settings=CheckDepositSettings,
    function="cryoloom.deposit.stage:check_deposition",
    inputs=(
        Input("bundle", "folder", "The folder that `cryoloom deposit` made, as it is now."),
        Input("project", "folder", "The project, to compare the half maps with the refined ones.", required=False),
    ),
    uses_gpu=False,
)

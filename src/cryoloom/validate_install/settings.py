"""Settings and declaration of `validate-install`."""

from cryoloom.contract import Settings, StageDeclaration, setting


class ValidateInstallSettings(Settings):
    """A known structure rebuilt, with an error for each step."""

    movies: int = setting(10, "Movies that are simulated; more take longer and reach further.", ge=2, le=200)
    frame: int = setting(1200, "Side of the frames.", unit="pixel", ge=512, le=8192)


VALIDATE_INSTALL = StageDeclaration(
    name="validate-install",
    help="Simulate movies of a known structure, take them to a map, and print the error of every step.",
    settings=ValidateInstallSettings,
    function="cryoloom.validate_install.stage:validate_install",
    writes={"data": "the simulated movies and their truth", "project": "the project that was made from them"},
)

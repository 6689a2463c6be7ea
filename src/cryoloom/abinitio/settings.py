"""Settings and declaration of the stage `abinitio`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting, symmetry_setting


class AbinitioSettings(Settings):
    """A first map from nothing but particles."""

    symmetry: str = symmetry_setting("imposed on the maps")
    classes: int = setting(1, "Different structures looked for.", ge=1, le=20)
    mask_diameter: float | None = setting(
        None, "Diameter of the ball around the particle; found in the images by default.", unit="Å", gt=0
    )
    starts: int = setting(6, "Random starts in a round; up to three rounds are run.", ge=2, le=200)
    max_particles: int = setting(
        2000, "Particles that the starts are made with, drawn at random from all.", ge=100, expert=True
    )
    resolution: float | None = setting(
        None, "Finest detail of the result; by default a twelfth of the diameter.", unit="Å", gt=2
    )


ABINITIO = StageDeclaration(
    name="abinitio",
    help="Find a first map from particles alone, or say that there is none to be found.",
    settings=AbinitioSettings,
    function="cryoloom.abinitio.stage:find_first_map",
    inputs=(Input("particles", "particles", "Particle images with their CTFs."),),
    writes={
        "class001": "first map (class002 ... with more classes); its hand is a guess",
        "particles": "particles with class, pose and shift",
    },
    several_gpus=True,
)

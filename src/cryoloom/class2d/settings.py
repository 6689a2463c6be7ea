"""Settings and declaration of the stage `class2d`."""

from typing import Literal

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class Class2DSettings(Settings):
    """2D classes of particle images, and the particles of the good ones."""

    classes: int | None = setting(None, "Number of classes; found from the number of particles.", ge=1, le=2000)
    mask_diameter: float | None = setting(
        None, "Diameter of the circle that holds the particle with some margin; found from the images.", unit="Å", gt=10
    )
    iterations: int = setting(20, "Iterations before the last pass over all particles.", ge=1, le=500)
    resolution_limit: float = setting(7.0, "Finest resolution used for alignment.", unit="Å", gt=1)
    shift_range: float | None = setting(
        None, "Particles are looked for within this distance of the centre; a tenth of the mask if not given.",
        unit="Å", ge=0,
    )  # fmt: skip
    select: float = setting(0.5, "Classes that are good with at least this probability are selected.", ge=0, le=1)
    ctf: bool = setting(True, "Correct for the CTF.", expert=True)
    robust: bool = setting(True, "Images that do not look like their class count less in its average.", expert=True)
    noise: Literal["optics", "micrograph"] = setting(
        "optics", "Noise spectra are estimated for each optics group or for each micrograph.", expert=True
    )
    batch_size: int | None = setting(
        None, "Particles per iteration; found from classes and particles.", ge=10, expert=True
    )
    operands: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Number format of the products of the search; bfloat16 where the hardware has it.", expert=True
    )


CLASS2D = StageDeclaration(
    name="class2d",
    help="Sort particle images into views, average each, and select the particles of the good ones.",
    settings=Class2DSettings,
    function="cryoloom.class2d.stage:classify_particles",
    inputs=(Input("particles", "particles", "Particles as written by `extract` or `import`."),),
    writes={
        "particles": "all particles with class, in-plane angle, shift and the probability of being junk",
        "selected": "the particles of the good classes",
    },
    several_gpus=True,
)

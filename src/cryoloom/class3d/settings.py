"""Settings and declaration of the stage `class3d`."""

from cryoloom.contract import Input, Settings, StageDeclaration, diameter_setting, setting, symmetry_setting


class Class3dSettings(Settings):
    """Sorting of particles into states: from their poses alone, from one map, or from a map of each state."""

    classes: int = setting(3, "States looked for; with several references, their number counts.", ge=1, le=50)
    symmetry: str = symmetry_setting("imposed on every class")
    mask_diameter: float | None = diameter_setting("found in the map by default")
    initial_lowpass: float = setting(
        40.0, "References are low-passed to this before particles are aligned to them.", unit="Å", gt=0
    )
    alignment: bool = setting(
        True,
        "Align the particles: to the references if they have no poses, and within their classes. Off: poses stay.",
    )
    finest: float | None = setting(
        None, "Finest detail that decides on classes; by default as far as their maps differ.", unit="Å", gt=0
    )
    starts: int = setting(20, "Random starts of the sorting; the one with the best evidence is taken.", ge=1, le=1000)
    max_steps: int = setting(6, "Most steps of the sorting at each resolution.", ge=1, le=100, expert=True)
    shift_range: float | None = setting(
        None, "Largest shift searched; by default a tenth of the particle's diameter, at least 8 Å.", unit="Å", gt=0
    )
    noise: str = setting(
        "optics",
        "Which particles share a noise spectrum: those of one optics group, or of one micrograph.",
        pattern="^(optics|micrograph)$",
        expert=True,
    )


CLASS3D = StageDeclaration(
    name="class3d",
    help="Sort particles into structural states, with or without alignment, and say how many are in each.",
    settings=Class3dSettings,
    function="cryoloom.class3d.stage:sort_particles",
    inputs=(
        Input("particles", "particles", "Particle images with their CTFs; with poses, no reference is needed."),
        Input(
            "reference",
            "maps",
            "One map of all states, or one of each; needed where particles have no poses.",
            required=False,
        ),
        Input("mask", "map", "Focus: states are told apart by what lies inside this mask.", required=False),
    ),
    writes={
        "class001": "map of the first class (class002 ... of the others), with class001_half1 and class001_half2",
        "particles": "particles with their class, pose, and probability of each class",
    },
    several_gpus=True,
)

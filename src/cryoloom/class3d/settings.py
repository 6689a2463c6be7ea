"""Settings and declarations of the stages `class3d` and `variability`."""

from cryoloom.contract import (
    Input,
    Settings,
    StageDeclaration,
    diameter_setting,
    noise_setting,
    setting,
    symmetry_setting,
)


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
    noise: str = noise_setting()


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


class VariabilitySettings(Settings):
    """The directions in which particles of known pose differ, by a principal component analysis of volumes."""

    components: int = setting(3, "Principal volumes looked for.", ge=1, le=6)
    symmetry: str = symmetry_setting("of every volume")
    mask_diameter: float | None = diameter_setting("0.8 times the box by default")
    finest: float | None = setting(
        None, "Finest detail that is looked at; by default 8 Å, or what the map of all particles shows.", unit="Å", gt=0
    )
    noise: str = noise_setting()


VARIABILITY = StageDeclaration(
    name="variability",
    help="Find the directions in which posed particles differ, how far, and where each particle stands.",
    settings=VariabilitySettings,
    function="cryoloom.class3d.variability:find_variability",
    inputs=(
        Input("particles", "particles", "Particle images with their CTFs and poses, as `refine` leaves them."),
        Input("mask", "map", "Focus: what differs outside this mask is not looked at.", required=False),
    ),
    writes={
        "mean": "mean map",
        "component001": "first principal volume at one standard deviation (component002 ...); of those that both "
        "halves show, component001_frame1 ... _frame5 from -2 to 2 standard deviations",
        "particles": "particles with their coordinates in standard deviations, and the errors of these",
    },
    several_gpus=True,
)

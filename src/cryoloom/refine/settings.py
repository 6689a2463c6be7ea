"""Settings and declaration of the stage `refine`."""

from cryoloom.contract import (
    Input,
    Settings,
    StageDeclaration,
    diameter_setting,
    noise_setting,
    setting,
    symmetry_setting,
)


class RefineSettings(Settings):
    """Refinement of poses and map; the two halves of the particles never meet."""

    symmetry: str = symmetry_setting("imposed on the map")
    mask_diameter: float | None = diameter_setting("found in the reference by default")
    initial_lowpass: float = setting(
        40.0, "The reference is low-passed to this before the first iteration.", unit="Å", gt=0
    )
    max_iterations: int = setting(
        18,
        "Most iterations before the last one. Up to 12 in which all poses share each image come before these where "
        "images are too noisy to choose a pose.",
        ge=1,
        le=100,
    )
    global_passes: int | None = setting(
        None, "Iterations that search all poses; by default as many as still move particles.", ge=0, expert=True
    )
    search: str = setting(
        "exhaustive",
        "How poses are searched: all of a grid (exhaustive), or a grid twice as fine of which a bound rules out most "
        "(branch).",
        pattern="^(exhaustive|branch)$",
        expert=True,
    )
    local: bool = setting(False, "Start from the poses of the particles and only refine around them.")
    local_angle_deg: float = setting(
        0.0, "With `local`: spread of poses about those given; 0 sets no limit.", unit="°", ge=0, expert=True
    )
    local_shift: float = setting(
        0.0, "With `local`: spread of shifts about those given; 0 sets no limit.", unit="Å", ge=0, expert=True
    )
    relax_symmetry: str | None = setting(
        None,
        "With `local`: point group whose operators lead to other poses that are tried too, for particles that were "
        "posed with a symmetry which they do not quite have; the reference must show where they break it.",
    )
    shift_range: float | None = setting(
        None, "Largest shift searched; by default a tenth of the particle's diameter, at least 8 Å.", unit="Å", gt=0
    )
    soft: str = setting(
        "auto",
        "Insert each particle at its best pose (hard) or at all likely ones (soft); auto decides by the data.",
        pattern="^(auto|hard|soft)$",
    )
    mask: str = setting(
        "auto",
        "Mask of the references: found in each half's own map (auto), or the ball of the mask diameter (ball).",
        pattern="^(auto|ball)$",
        expert=True,
    )
    regularisation: str = setting(
        "uniform",
        "Weight the references by one signal-to-noise ratio per shell (uniform), or place by place, so that disordered "
        "parts do not steer the alignment (local).",
        pattern="^(uniform|local)$",
    )
    fit_defocus: bool = setting(
        True, "Fit the defocus of each particle, which differs from its micrograph's with the height in the ice."
    )
    defocus_spread: float = setting(
        300.0, "First guess of the spread of defocus among the particles of a micrograph.", unit="Å", gt=0, expert=True
    )
    noise: str = noise_setting()
    operands: str = setting(
        "auto",
        "Numbers in the products of the global search: float32, bfloat16, or the faster that the processor has.",
        pattern="^(auto|float32|bfloat16)$",
        expert=True,
    )
    precision: str = setting(
        "single",
        "Numbers of fits and sums; double is several times slower on a CPU and shows what rounding does.",
        pattern="^(single|double)$",
        expert=True,
    )


REFINE = StageDeclaration(
    name="refine",
    help="Refine poses and map of one structure from a low-passed reference, in two independent halves.",
    settings=RefineSettings,
    function="cryoloom.refine.stage:refine_map",
    inputs=(
        Input("particles", "particles", "Particle images with their CTFs."),
        Input("reference", "map", "Map to start from; its grey scale and hand do not matter to the search."),
    ),
    writes={
        "map": "map of all particles, weighted by its signal-to-noise ratio",
        "half1": "map of the first half, unfiltered",
        "half2": "map of the second half, unfiltered",
        "mask": "soft mask behind which the resolution was measured",
        "fsc": "FSC curves of the halves",
        "particles": "particles with poses, shifts, scale, likelihood, error bars and reliability",
    },
    several_gpus=True,
)

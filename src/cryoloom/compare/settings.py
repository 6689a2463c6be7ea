"""Settings and declarations of the stages `compare ...`."""

from cryoloom.class2d.settings import Class2DSettings
from cryoloom.contract import (
    Input,
    Settings,
    StageDeclaration,
    diameter_setting,
    setting,
    symmetry_setting,
    tool,
)
from cryoloom.motion.settings import MOTION, MotionSettings
from cryoloom.picking.settings import DiameterRange
from cryoloom.refine.settings import REFINE

_HALVES = (
    Input("half1", "map", "First half map, unfiltered and unmasked."),
    Input("half2", "map", "Second half map, from other particles."),
    Input("mask", "map", "Soft mask in [0, 1]; made from the map by default.", required=False),
)


class CompareResolutionSettings(Settings):
    """Local resolution by the FSC in a window, and by the significance of the signal."""

    window: float | None = setting(
        None, "Standard deviation of the window of the FSC; 1.8 times the global resolution.", unit="Å", gt=0
    )
    tolerance: float = setting(
        0.055,
        "How far both methods may lie from what explains them together, around a place (0.055 is 5.5 %).",
        gt=0,
        lt=1,
    )
    significance: float = setting(0.95, "Level of significance of the second method.", gt=0.5, lt=1, expert=True)


COMPARE_RESOLUTION = tool(
    "compare resolution",
    CompareResolutionSettings,
    "cryoloom.compare.local_resolution:compare_local_resolution",
    "Measure local resolution by two independent methods, and say what both agree on and where they do not.",
    {
        "local_consensus": "local resolution in Å from both methods",
        "local_resolution": "local resolution in Å from the FSC in a window",
        "local_significance": "local resolution in Å from the significance of the signal",
        "disagreement": "relative difference of the two around each voxel",
    },
    *_HALVES,
)


class CompareSharpeningSettings(Settings):
    """Sharpening with one B-factor for the whole map, and with one for each place."""

    window: float | None = setting(
        None, "Standard deviation of the window of the local method; 2.5 times the global resolution.", unit="Å", gt=0
    )
    fit_low: float = setting(10.0, "B-factors are fitted from this resolution on.", unit="Å", gt=0, expert=True)
    tolerance: float = setting(40.0, "Difference of B-factors up to which the methods agree.", unit="Å²", gt=0)


COMPARE_SHARPENING = tool(
    "compare sharpening",
    CompareSharpeningSettings,
    "cryoloom.compare.sharpening:compare_sharpening",
    "Find the B-factor of a map as a whole and place by place, and sharpen it by what both say together.",
    {
        "map_consensus": "mean of the halves, filtered and sharpened by the consensus; not for quantitative use",
        "bfactor_consensus": "B-factor in Å2 that both methods together take out at each place",
        "bfactor_local": "B-factor in Å2 of the local method alone",
    },
    *_HALVES,
)


class CompareCtfSettings(Settings):
    """Defocus by a fit to spectra of tiles, and by demodulated rings of the whole image."""

    defocus_min: float = setting(2_000.0, "Smallest mean underfocus searched.", unit="Å", gt=0)
    defocus_max: float = setting(60_000.0, "Largest mean underfocus searched.", unit="Å", gt=0)
    astigmatism_max: float = setting(2_400.0, "Largest difference of the two defoci searched.", unit="Å", ge=0)
    phase_shift_deg: float = setting(0.0, "Phase shift of a phase plate; it is not fitted.", unit="°", ge=0, le=180)
    tolerance: float = setting(150.0, "Difference of the defoci up to which the methods agree.", unit="Å", gt=0)


COMPARE_CTF = tool(
    "compare ctf",
    CompareCtfSettings,
    "cryoloom.compare.ctf:compare_ctf",
    "Estimate the CTF of micrographs by two independent methods, and say what both agree on and where they do not.",
    {"micrographs": "micrographs with the CTF that both methods say together"},
    Input("micrographs", "micrographs", "Micrographs as written by `motion` or `import`."),
)


class ComparePickingSettings(DiameterRange):
    """Particles by templates (or their mean profile), and by a network that learns on other micrographs."""

    tolerance: float = setting(0.2, "Difference of the probabilities up to which the methods agree.", gt=0, lt=1)
    least_probability: float = setting(0.3, "Smallest probability, by both together, of a pick.", ge=0, lt=1)
    steps: int = setting(120, "Steps of the training of each network.", ge=10, le=20_000, expert=True)
    exclude: bool = setting(True, "Leave out carbon, ice crystals and aggregates.")


COMPARE_PICKING = StageDeclaration(
    name="compare picking",
    help="Look for particles by templates and by a network, and say what both agree on and where they do not.",
    settings=ComparePickingSettings,
    function="cryoloom.compare.picking:compare_picking",
    inputs=(
        Input("micrographs", "micrographs", "Micrographs with their CTF, as written by `ctf`; at least two."),
        Input("references", "file", "Class averages or a map to look for; the mean profile if absent.", required=False),
    ),
    writes={"picks": "places by the mean probability of both; class 1 where they agree, 2 where they are in dispute"},
)


class CompareMotionSettings(MotionSettings):
    """Motion by the joint likelihood of all tiles and frames, and by correlation of patches; sums along both."""

    tolerance: float = setting(
        1.0, "Difference of the displacement in a frame up to which the methods agree.", unit="Å", gt=0
    )


COMPARE_MOTION = tool(
    "compare motion",
    CompareMotionSettings,
    "cryoloom.compare.motion:compare_motion",
    "Align movies by two independent methods, and say what both agree on and where they do not.",
    {"micrographs": "sums of the movies along the motion that both methods say together"},
    *MOTION.inputs,
)


class CompareRefinementSettings(Settings):
    """Refinement that weighs all likely poses, and refinement by branch and bound that keeps the best one."""

    symmetry: str = symmetry_setting("imposed on the map")
    mask_diameter: float | None = diameter_setting("found in the reference by default")
    initial_lowpass: float = setting(
        40.0, "The reference is low-passed to this before the first iteration.", unit="Å", gt=0
    )
    max_iterations: int = setting(18, "Most iterations of either before the last one.", ge=1, le=100)
    tolerance: float | None = setting(
        None,
        "Angle between two poses up to which the methods agree; three times what they typically differ by.",
        unit="°",
        gt=0,
    )


COMPARE_REFINEMENT = tool(
    "compare refinement",
    CompareRefinementSettings,
    "cryoloom.compare.refinement:compare_refinements",
    "Refine by two independent searches, and say on which poses both agree and on which they do not.",
    {
        "particles": "particles with the poses that both searches say together",
        "first": "particles with all they need from the search that weighs all likely poses",
        "second": "the same from branch and bound",
    },
    *REFINE.inputs,
)


class CompareClasses2DSettings(Class2DSettings):
    """Views of the particles by a mixture of averages, and by a plain clustering of similarities."""

    cluster_resolution: float = setting(
        12.0, "Finest resolution that the clustering compares images at.", unit="Å", gt=1
    )
    equal_size: bool = setting(False, "The clustering makes clusters of equal size.")


COMPARE_CLASSES2D = tool(
    "compare classes2d",
    CompareClasses2DSettings,
    "cryoloom.compare.classes2d:compare_classes2d",
    "Sort particle images into views by two independent methods, and say what both agree on and where they do not.",
    {"particles": "all particles with the class and pose that both methods say together"},
    Input("particles", "particles", "Particles as written by `extract` or `import`."),
)

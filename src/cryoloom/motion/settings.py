"""Settings of the stage `motion`."""

from typing import Literal

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class MotionSettings(Settings):
    """Motion correction of movies: whole-frame and local motion, gain, defects, dose weighting."""

    pixel_size: float | None = setting(None, "Å per pixel of bare movie files (without a STAR file).", unit="Å", gt=0)
    voltage_kv: float | None = setting(None, "Accelerating voltage, for bare movie files.", unit="kV", gt=0)
    cs_mm: float | None = setting(None, "Spherical aberration, for bare movie files.", unit="mm", ge=0)
    amplitude_contrast: float | None = setting(
        None, "Amplitude contrast as a fraction, for bare movie files.", ge=0, lt=1
    )
    dose_per_frame: float | None = setting(
        None, "Dose of one frame, where the movies do not say; without it there is no dose weighting.",
        unit="e-/Å2", gt=0,
    )  # fmt: skip
    pre_exposure: float | None = setting(
        None, "Dose before the first frame, where the movies do not say.", unit="e-/Å2", ge=0
    )
    local_motion: bool = setting(True, "Follow motion that differs over the frame, not of the whole frame only.")
    dose_weighting: bool = setting(True, "Filter frames by how much signal radiation damage has left.")
    binning: float = setting(1.0, "Bin the results by this factor, in Fourier space.", ge=1, le=16)
    first_frame: int = setting(1, "First frame to use, counted from 1.", ge=1)
    last_frame: int | None = setting(None, "Last frame to use; by default all.", ge=1)
    even_odd: bool = setting(False, "Write the sums of odd and of even frames too; they add up to the micrograph.")
    undosed: bool = setting(True, "Write the sum without dose weighting too, for the CTF.")
    gain_orientation: Literal["auto", "as-is"] = setting(
        "auto", "Find the gain's orientation, and whether it multiplies or divides, from the data; or take it as it is."
    )
    gain_rotation: int | None = setting(
        None, "Quarter turns clockwise of the gain reference; given, nothing is searched.", ge=0, le=3
    )
    gain_flip: int | None = setting(
        None, "Flip of the gain after its rotation: 0 none, 1 upside down, 2 left to right.", ge=0, le=2
    )
    gain_divide: bool | None = setting(None, "Divide frames by the gain instead of multiplying; None: found.")
    find_defects: bool = setting(True, "Find and repair hot, dead and stuck pixels, rows and columns.")
    eer_grouping: int | None = setting(None, "EER frames in one frame; by default as imported.", ge=1, expert=True)
    eer_upsampling: int | None = setting(None, "EER grid, 1, 2 or 4; by default as imported.", ge=1, le=4, expert=True)
    max_shift: float = setting(150.0, "Largest displacement between two frames.", unit="Å", gt=0, expert=True)
    local_degree: int = setting(3, "Degree of the local motion in place.", ge=1, le=5, expert=True)
    tile: float = setting(250.0, "Side of the tiles that local motion is measured on.", unit="Å", gt=0, expert=True)


MOTION = StageDeclaration(
    name="motion",
    help="Correct movies for motion, gain and radiation damage; write aligned sums and trajectories.",
    settings=MotionSettings,
    function="cryoloom.motion.stage:correct_motion",
    inputs=(
        Input("movies", "movies", "Movies as written by `import`, or movie files."),
        Input("gain", "file", "Gain reference (MRC, TIFF, .gain); by default the one of the movies.", required=False),
        Input("defects", "file", "Defect map or list of boxes; by default that of the movies.", required=False),
    ),
    writes={"micrographs": "aligned sums with their motion; images and motion files are in micrographs/"},
)

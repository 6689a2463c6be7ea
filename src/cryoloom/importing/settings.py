"""Settings and declaration of the stage `import`."""

from typing import Literal

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class ImportSettings(Settings):
    """What the files are and how they were taken; what is not given is read from the files."""

    kind: Literal["auto", "movies", "micrographs", "particles"] = setting(
        "auto", "What the files hold; by default from their format and header."
    )
    pixel_size: float | None = setting(None, "Pixel size; by default from the files.", unit="Å", gt=0, le=100)
    voltage_kv: float | None = setting(
        None, "Acceleration voltage; by default from the files, else 300.", unit="kV", ge=10, le=2000
    )
    cs_mm: float | None = setting(
        None, "Spherical aberration; by default from the files, else 2.7.", unit="mm", ge=0, le=20
    )
    amplitude_contrast: float | None = setting(
        None, "Amplitude contrast, as a fraction; by default from the files, else 0.1.", ge=0, lt=1
    )
    dose_per_frame: float | None = setting(
        None, "Exposure of one movie frame (for EER of one rendered frame).", unit="e-/Å2", gt=0, le=100
    )
    pre_exposure: float | None = setting(None, "Exposure before the first frame.", unit="e-/Å2", ge=0, expert=True)
    eer_grouping: int | None = setting(
        None, "Raw EER frames in one rendered frame; by default 1 e-/Å2 or 40 frames a movie.", ge=1
    )
    eer_upsampling: Literal[1, 2, 4] = setting(1, "Grid of EER frames in units of the detector's.", expert=True)
    optics_group: str = setting("opticsGroup1", "Name of the optics group of bare image files.", expert=True)
    override_optics: bool = setting(
        False, "Take the optics given here even where a STAR or .cs file says otherwise.", expert=True
    )
    keep_repeats: bool = setting(
        False, "Keep particles that name the same image twice (symmetry-expanded sets).", expert=True
    )
    new_halves: bool = setting(False, "Assign half sets anew even if the file has them.", expert=True)


IMPORT = StageDeclaration(
    name="import",
    help="Take movies, micrographs or particles into a project: check every file, settle optics and half sets.",
    settings=ImportSettings,
    function="cryoloom.importing.stage:import_files",
    inputs=(
        Input("files", "files", "Image files or a pattern, a STAR file, or a cryoSPARC .cs file."),
        Input("gain", "file", "Gain reference of the movies (MRC, TIFF, .gain).", required=False),
        Input("defects", "file", "Defect map (image) or list of boxes (.txt) of the movies.", required=False),
    ),
    writes={
        "movies": "movies with optics, exposure and gain reference",
        "micrographs": "micrographs with optics",
        "particles": "particles with optics and half sets",
    },
)

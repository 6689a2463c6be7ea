"""Settings and declaration of the stage `ctf`."""

from pydantic import model_validator

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class CtfSettings(Settings):
    """Defocus, astigmatism and quality of every micrograph."""

    defocus_min: float = setting(2_000.0, "Smallest mean underfocus searched.", unit="Å", gt=0)
    defocus_max: float = setting(60_000.0, "Largest mean underfocus searched.", unit="Å", gt=0)
    astigmatism_max: float = setting(2_400.0, "Largest difference of the two defoci searched.", unit="Å", ge=0)
    fit_phase_shift: bool = setting(False, "Also fit the phase shift of a phase plate, 0 to 180 degrees.")
    phase_shift_deg: float = setting(0.0, "Phase shift when it is not fitted.", unit="°", ge=0, le=180)
    fit_thickness: bool = setting(
        False, "Also fit the thickness of the specimen, where rings are seen to fade and return."
    )
    fit_tilt: bool = setting(False, "Also fit a plane of defocus, for tilted specimens.")
    defocus_map: bool = setting(
        False, "Also find the defocus of each place of a micrograph; it is written to defocus_maps/ with its errors."
    )
    amplitude_contrast: float | None = setting(
        None, "Amplitude contrast in place of the one that came with the micrographs.", ge=0, lt=1
    )
    resolution_min: float = setting(
        30.0, "Rings at lower resolution than this are not used.", unit="Å", gt=0, expert=True
    )
    resolution_max: float = setting(3.2, "Rings are looked for up to this resolution.", unit="Å", gt=0, expert=True)
    tile_extent: float = setting(
        768.0, "Edge of the tiles; doubled by itself where the defocus is high.", unit="Å", gt=100, expert=True
    )
    worst_resolution: float | None = setting(
        None,
        "Micrographs whose rings are not seen to this resolution are excluded; by default those whose rings surely end "
        "before 10 Å, as far as area and dose can tell.",
        unit="Å",
        gt=0,
    )
    keep_all: bool = setting(False, "Exclude nothing; only name what is doubtful.")

    @model_validator(mode="after")
    def _ordered(self) -> "CtfSettings":
        if self.defocus_max <= self.defocus_min:
            raise ValueError(
                f"defocus_max: expected more than defocus_min ({self.defocus_min:g} Å), got {self.defocus_max:g} Å"
            )
        if self.resolution_max >= self.resolution_min:
            raise ValueError(
                f"resolution_max: expected finer than resolution_min ({self.resolution_min:g} Å), "
                f"got {self.resolution_max:g} Å"
            )
        return self


CTF = StageDeclaration(
    name="ctf",
    help="Find defocus and astigmatism of micrographs from the rings in their spectra, and leave out bad ones.",
    settings=CtfSettings,
    function="cryoloom.ctf_fit.stage:estimate_ctf",
    inputs=(Input("micrographs", "micrographs", "Micrographs as written by `motion` or `import`."),),
    writes={
        "micrographs": "micrographs whose rings were found, with their CTF",
        "excluded": "micrographs that were left out; the reasons are in the summary",
    },
)

"""Settings of the stage `trace-filaments`."""

from pydantic import model_validator

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class TraceFilamentsSettings(Settings):
    """Filaments traced on micrographs and cut into segments."""

    diameter: float | None = setting(
        None, "Diameter of the filament; found from the micrographs if not given.", unit="Å", gt=0
    )
    diameter_min: float = setting(60.0, "Smallest diameter tried when it is not given.", unit="Å", gt=0)
    diameter_max: float = setting(300.0, "Largest diameter tried when it is not given.", unit="Å", gt=0)
    spacing: float | None = setting(
        None,
        "Distance of two segments along the filament, best a multiple of the helical rise; a third of the diameter if "
        "not given.",
        unit="Å",
        gt=0,
    )
    least_length: float | None = setting(
        None, "Shortest filament that is kept; four diameters if not given.", unit="Å", gt=0
    )
    bend_deg: float = setting(
        25.0, "Largest change of direction over one diameter of length.", unit="°", gt=0, lt=90, expert=True
    )
    false_filaments: float = setting(
        0.1, "Places at which pure noise may start a filament, per micrograph, on average.", gt=0, expert=True
    )
    exclude: bool = setting(True, "Leave out carbon and ice crystals.")

    @model_validator(mode="after")
    def _ordered(self) -> "TraceFilamentsSettings":
        if self.diameter_max <= self.diameter_min:
            raise ValueError(
                f"diameter_max: expected more than diameter_min ({self.diameter_min:g} Å), got {self.diameter_max:g} Å"
            )
        return self


TRACE_FILAMENTS = StageDeclaration(
    name="trace-filaments",
    help="Trace filaments on micrographs and cut them into segments with helical priors.",
    settings=TraceFilamentsSettings,
    function="cryoloom.picking.filaments.stage:trace_filaments",
    inputs=(Input("micrographs", "micrographs", "Micrographs as written by `ctf`, `motion` or `import`."),),
    writes={
        "picks": "segments with their filament, its direction and the place along it",
        "coordinates/<micrograph>.star": "the segments of each micrograph, as RELION writes them",
        "start_end/<micrograph>.star": "start and end of each filament, as RELION's helical extraction reads them",
    },
)

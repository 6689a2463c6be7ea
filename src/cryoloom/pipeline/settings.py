"""Settings of the whole way from movies, micrographs or particles to a validated map."""

from typing import Literal

from pydantic import model_validator

from cryoloom.contract import Input, Settings, StageDeclaration, setting

# Stages that can watch a folder, and the input of each that grows.
WATCHED_INPUTS = {"motion": "movies", "ctf": "micrographs", "pick": "micrographs"}


class RunSettings(Settings):
    """What the microscope did and, where wanted, what is known of the particle; the rest is found from the data."""

    pixel_size: float | None = setting(None, "Pixel size of the input images", unit="Å", gt=0)
    voltage_kv: float = setting(300.0, "Acceleration voltage", unit="kV", gt=0)
    cs_mm: float = setting(2.7, "Spherical aberration", unit="mm", ge=0)
    amplitude_contrast: float = setting(0.1, "Amplitude contrast, as a fraction", ge=0, lt=1)
    dose_per_frame: float | None = setting(None, "Exposure of one movie frame", unit="e-/Å2", gt=0)
    symmetry: str = setting("C1", "Point group: C1, Cn, Dn, T, O, I")
    diameter: float | None = setting(None, "Diameter of the particle", unit="Å", gt=0)
    rounds_of_picking: int = setting(
        3,
        "Most rounds of picking: the first without references, later ones with the data's own averages, until 2D "
        "classification moves the picks no more",
        ge=1,
        le=4,
        expert=True,
    )
    picking: Literal["single", "consensus"] = setting(
        "single",
        "One picker in each round, or the consensus of several and of networks that learn while it runs; the latter "
        "knows junk better and takes longer",
        expert=True,
    )

    @model_validator(mode="after")
    def _known_symmetry(self) -> "RunSettings":
        import re

        if not re.fullmatch(r"([CD][1-9]\d*)|[TO]|I[1-4]?", self.symmetry.strip(), flags=re.IGNORECASE):
            raise ValueError(f"symmetry: expected C1, Cn, Dn, T, O, I or I1 to I4, got {self.symmetry!r}")
        return self


RUN = StageDeclaration(
    name="run",
    help="Movies, micrographs or particles to a validated, sharpened map, without a question asked.",
    settings=RunSettings,
    function="cryoloom.pipeline.run:run_pipeline",
    inputs=(
        Input("movies", "files", "Movies: a pattern such as 'movies/*.tif', or movies.star", required=False),
        Input("micrographs", "files", "Micrographs: a pattern or micrographs.star", required=False),
        Input("particles", "files", "Particles: particles.star or a .cs file", required=False),
        Input("gain", "file", "Gain reference of the movies", required=False),
    ),
    writes={
        "summary.json": "the figures that matter, and the verdict",
        "report.html": "the whole way on one page",
        "<stage>/NNN": "one folder per job",
    },
)

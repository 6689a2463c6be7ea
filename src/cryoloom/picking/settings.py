"""Settings of the stages `pick` and `train-picker`."""

from typing import Literal, Self

from pydantic import model_validator

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class DiameterRange(Settings):
    """The particle's size, or between which sizes it is looked for."""

    diameter: float | None = setting(
        None, "Largest extent of the particle; found from the micrographs if not given.", unit="Å", gt=0
    )
    diameter_min: float = setting(50.0, "Smallest diameter tried when it is not given.", unit="Å", gt=0)
    diameter_max: float = setting(450.0, "Largest diameter tried when it is not given.", unit="Å", gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.diameter_max <= self.diameter_min:
            raise ValueError(
                f"diameter_max: expected more than diameter_min ({self.diameter_min:g} Å), got {self.diameter_max:g} Å"
            )
        return self


class PickSettings(DiameterRange):
    """Particles found on micrographs: without references, with class averages, or with a network."""

    method: Literal["single", "consensus"] = setting(
        "single",
        "One picker, or the agreement of several and of a network that learns from them while the job runs.",
    )
    topaz: bool = setting(
        False,
        "Look with the network that topaz-em brings, where that program is installed; with `consensus` it takes part.",
        expert=True,
    )
    steps: int = setting(120, "Steps of the training of each network of the consensus.", ge=10, le=20_000, expert=True)
    false_picks: float = setting(
        0.15, "Largest fraction of picks that noise of the same micrographs would give as well.", gt=0, lt=1
    )
    least_probability: float = setting(
        0.3,
        "Smallest probability of a pick that is kept; later steps can drop a pick but not add one.",
        ge=0,
        lt=1,
        expert=True,
    )
    threshold: float | None = setting(None, "Smallest score of a pick that is kept.", expert=True)
    distance: float = setting(
        0.55, "Smallest distance between two picks, as a fraction of the diameter.", gt=0, le=2, expert=True
    )
    margin: float = setting(
        0.35, "Smallest distance of a pick from the edge, as a fraction of the diameter.", ge=0, expert=True
    )
    contrast: Literal["auto", "dark", "bright"] = setting(
        "auto", "Whether particles are darker or brighter than what is around them."
    )
    reference_contrast: Literal["auto", "dark", "bright"] = setting(
        "auto", "Whether particles are dark or bright in the references.", expert=True
    )
    reference_pixel_size: float | None = setting(
        None, "Pixel size of the references; taken from their header.", unit="Å", gt=0, expert=True
    )
    angle_step_deg: float = setting(15.0, "Angle between two turns of a reference.", unit="°", gt=0, le=90, expert=True)
    exclude: bool = setting(True, "Leave out carbon, ice crystals and aggregates.")
    pixel_size: float | None = setting(None, "Pixel size, when bare image files are given.", unit="Å", gt=0)
    voltage_kv: float = setting(300.0, "Voltage, when bare image files are given.", unit="kV", gt=0)
    cs_mm: float = setting(2.7, "Spherical aberration, when bare image files are given.", unit="mm", ge=0)
    amplitude_contrast: float = setting(0.1, "Amplitude contrast, when bare image files are given.", ge=0, lt=1)


class TrainPickerSettings(DiameterRange):
    """A network that learns what particles look like from a few labels, or from the picks of `pick`."""

    diameter: float | None = setting(
        None, "Largest extent of the particle; that of the labels, or found at them, if not given.", unit="Å", gt=0
    )
    particles: float | None = setting(
        None,
        "Expected number of particles per micrograph, labelled or not; estimated from the micrographs if not given.",
        gt=0,
    )
    most_micrographs: int = setting(24, "Most micrographs to train on; those with most labels are taken.", ge=1)
    steps: int = setting(120, "Steps of the training.", ge=10, le=20_000, expert=True)
    exclude: bool = setting(True, "Leave out carbon, ice crystals and aggregates.")
    pixel_size: float | None = setting(None, "Pixel size, when bare image files are given.", unit="Å", gt=0)
    voltage_kv: float = setting(300.0, "Voltage, when bare image files are given.", unit="kV", gt=0)
    cs_mm: float = setting(2.7, "Spherical aberration, when bare image files are given.", unit="mm", ge=0)
    amplitude_contrast: float = setting(0.1, "Amplitude contrast, when bare image files are given.", ge=0, lt=1)


PICK = StageDeclaration(
    name="pick",
    help="Find the particles on micrographs, by their size, with class averages as references, or with a network.",
    settings=PickSettings,
    function="cryoloom.picking.stage:pick_particles",
    inputs=(
        Input("micrographs", "micrographs", "Micrographs as written by `ctf`, `motion` or `import`."),
        Input("references", "file", "Stack of class averages, or a map, to look for (.mrcs, .mrc).", required=False),
        Input("model", "file", "Network that `train-picker` wrote, to look with.", required=False),
    ),
    writes={
        "picks": "positions, scores and probabilities of all picks",
        "coordinates/<micrograph>.star": "the picks of each micrograph, as RELION writes them",
    },
)

TRAIN_PICKER = StageDeclaration(
    name="train-picker",
    help="Train a network on a few labelled particles, or on picks, for `pick --model`.",
    settings=TrainPickerSettings,
    function="cryoloom.picking.learned.stage:train_picker",
    inputs=(
        Input("micrographs", "micrographs", "Micrographs as written by `ctf`, `motion` or `import`."),
        Input("labels", "picks", "Particles that somebody marked on some of them (about 20), or picks of `pick`."),
    ),
    writes={"picker.npz": "the network, for `pick --model`"},
)

"""Settings of the stage `denoise`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class DenoiseSettings(Settings):
    """Denoised micrographs, for viewing and picking only."""

    resolution: float = setting(
        6.0, "Finest detail that is kept; on one micrograph hardly anything finer can be seen.", unit="Å", gt=0
    )
    most_micrographs: int = setting(24, "Most micrographs to train on, spread over the set.", ge=1)
    steps: int = setting(250, "Steps of the training.", ge=10, le=100_000, expert=True)


DENOISE = StageDeclaration(
    name="denoise",
    help="Denoise micrographs, for viewing and picking only, by a network that learns from their even and odd sums.",
    settings=DenoiseSettings,
    function="cryoloom.picking.denoise.stage:denoise_micrographs",
    inputs=(
        Input("micrographs", "micrographs", "Micrographs with even and odd sums, as `motion --even-odd` writes them."),
        Input("denoiser", "file", "A network that an earlier `denoise` wrote; nothing is trained.", required=False),
    ),
    writes={
        "micrographs": "the same micrographs, denoised, for `pick` and the eye; nothing is extracted from them",
        "denoised/<micrograph>.mrc": "the images, marked as denoised in their headers",
        "denoiser.npz": "the network",
    },
)

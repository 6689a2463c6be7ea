"""Settings and declaration of the stage `fit`."""

from cryoloom.contract import Input, Settings, StageDeclaration, setting


class FitSettings(Settings):
    """Rigid fit of an atomic model to a map from anywhere."""

    resolution: float | None = setting(
        None, "Finest detail that is compared; 6 Å, or two and a half voxels of a coarser map.", unit="Å", gt=0
    )
    assembly: bool = setting(False, "Fit the biological assembly of the file instead of the atoms as written.")
    pieces: int = setting(24, "Orientations of the global search that are refined.", ge=4, le=500, expert=True)


FIT = StageDeclaration(
    name="fit",
    help="Fit an atomic model to a map as a rigid body, from any orientation and place.",
    settings=FitSettings,
    function="cryoloom.modelling.stage:fit_model",
    inputs=(Input("model", "model", "PDB or mmCIF file."), Input("map", "map", "The map, protein bright.")),
    uses_gpu=False,
)

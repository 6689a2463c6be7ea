"""Stage `fit`: model and map in, the model in the frame of the map out."""

from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError, Run, stage
from cryoloom.data import VolumeMap
from cryoloom.io.model_file import read_model, write_moved_model
from cryoloom.modelling.rigid import fit_rigid
from cryoloom.modelling.settings import FIT, FitSettings

TRUSTED = 0.35
"""Correlation around the atoms above which a fit is taken as found; wrong fits stay near 0.1 to 0.2."""


@stage(FIT)
def fit_model(model: Path, map: VolumeMap, settings: FitSettings, run: Run) -> dict[str, Any]:
    """Fit an atomic model to a map and write it moved, as mmCIF; all that the file holds moves along."""
    atoms = read_model(model, assembly=settings.assembly)
    resolution = settings.resolution or max(6.0, 2.5 * map.pixel_size)
    try:
        fit = fit_rigid(map, atoms, resolution, settings.pieces)
    except ValueError as error:
        raise InputError(str(error)) from error
    target = run.folder / "fitted.cif"
    write_moved_model(model, target, fit.rotation, fit.translation)
    good = fit.local_correlation > TRUSTED
    words = f"Around the atoms, model and map correlate by {fit.local_correlation:.2f} at {fit.resolution:.1f} Å."
    if not good:
        run.warn("The model hardly agrees with the map: look at the fit before using it. Is the hand of the map right?")
    run.summarise(
        verdict="found" if good else "doubtful",
        reasons=[words],
        n_in=len(atoms),
        n_out=len(atoms),
        model=target.name,
        correlation=round(fit.correlation, 4),
        local_correlation=round(fit.local_correlation, 4),
        resolution_compared=round(fit.resolution, 3),
        rotation=fit.rotation.tolist(),
        translation_A=np.round(fit.translation, 4).tolist(),
    )
    return {}

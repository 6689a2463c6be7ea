"""All stages, one line each. Adding a stage touches its own folder and this list."""

import importlib
from functools import cache

from cryoloom.contract import InputError, StageDeclaration

STAGES = {
    "simulate particles": "cryoloom.simulate.settings:SIMULATE_PARTICLES",
    "simulate movies": "cryoloom.simulate.settings:SIMULATE_MOVIES",
    "import": "cryoloom.importing.settings:IMPORT",
    "motion": "cryoloom.motion.settings:MOTION",
    "ctf": "cryoloom.ctf_fit.settings:CTF",
    "pick": "cryoloom.picking.settings:PICK",
    "train-picker": "cryoloom.picking.settings:TRAIN_PICKER",
    "search-model": "cryoloom.picking.model_search.settings:SEARCH_MODEL",
    "trace-filaments": "cryoloom.picking.filaments.settings:TRACE_FILAMENTS",
    "denoise": "cryoloom.picking.denoise.settings:DENOISE",
    "extract": "cryoloom.extraction.settings:EXTRACT",
    "class2d": "cryoloom.class2d.settings:CLASS2D",
    "abinitio": "cryoloom.abinitio.settings:ABINITIO",
    "refine": "cryoloom.refine.settings:REFINE",
    "class3d": "cryoloom.class3d.settings:CLASS3D",
    "variability": "cryoloom.class3d.settings:VARIABILITY",
    "subtract": "cryoloom.subtraction.settings:SUBTRACT",
    "reconstruct": "cryoloom.reconstruct.settings:RECONSTRUCT",
    "postprocess": "cryoloom.postprocess.settings:POSTPROCESS",
    "restore": "cryoloom.restoration.settings:RESTORE",
    "resolution": "cryoloom.resolution.settings:RESOLUTION",
    "validate": "cryoloom.validation.settings:VALIDATE",
    "score": "cryoloom.scoring.settings:SCORE",
    "convert": "cryoloom.converting.settings:CONVERT",
    "particles merge": "cryoloom.particle_tools.settings:MERGE",
    "particles split": "cryoloom.particle_tools.settings:SPLIT",
    "particles subset": "cryoloom.particle_tools.settings:SUBSET",
    "particles unique": "cryoloom.particle_tools.settings:UNIQUE",
    "particles recentre": "cryoloom.particle_tools.settings:RECENTRE",
    "particles consensus": "cryoloom.particle_tools.settings:CONSENSUS",
    "particles expand": "cryoloom.particle_tools.settings:EXPAND",
    "volume flip": "cryoloom.volume_tools.settings:FLIP",
    "volume resample": "cryoloom.volume_tools.settings:RESAMPLE",
    "volume crop": "cryoloom.volume_tools.settings:CROP",
    "volume align": "cryoloom.volume_tools.settings:ALIGN",
    "volume filter": "cryoloom.volume_tools.settings:FILTER",
    "volume arithmetic": "cryoloom.volume_tools.settings:ARITHMETIC",
    "mask map": "cryoloom.volume_tools.settings:MASK_MAP",
    "mask model": "cryoloom.volume_tools.settings:MASK_MODEL",
    "segment": "cryoloom.segmentation.settings:SEGMENT",
    "fit": "cryoloom.modelling.settings:FIT",
    "optics-groups": "cryoloom.acquisition.settings:OPTICS_GROUPS",
    "compare classes2d": "cryoloom.compare.settings:COMPARE_CLASSES2D",
    "compare ctf": "cryoloom.compare.settings:COMPARE_CTF",
    "compare picking": "cryoloom.compare.settings:COMPARE_PICKING",
    "compare motion": "cryoloom.compare.settings:COMPARE_MOTION",
    "compare refinement": "cryoloom.compare.settings:COMPARE_REFINEMENT",
    "compare resolution": "cryoloom.compare.settings:COMPARE_RESOLUTION",
    "compare sharpening": "cryoloom.compare.settings:COMPARE_SHARPENING",
    "deposit": "cryoloom.deposit.settings:DEPOSIT",
    "check-deposit": "cryoloom.deposit.settings:CHECK_DEPOSIT",
    "rerun": "cryoloom.rerun.settings:RERUN",
    "validate-install": "cryoloom.validate_install.settings:VALIDATE_INSTALL",
}


@cache
def find_stage(name: str) -> StageDeclaration:
    """The declaration of one stage; imports its settings only.

    Raises
    ------
    InputError
        If there is no such stage.
    """
    if name not in STAGES:
        raise InputError(f"There is no stage {name!r}; the stages are {', '.join(sorted(STAGES))}.")
    module, _, attribute = STAGES[name].partition(":")
    declaration: StageDeclaration = getattr(importlib.import_module(module), attribute)
    if declaration.name != name:
        raise ValueError(f"registry: {STAGES[name]} declares itself as {declaration.name!r}, listed as {name!r}")
    return declaration


def declarations() -> dict[str, StageDeclaration]:
    """Declarations of all stages by command name."""
    return {name: find_stage(name) for name in STAGES}

"""Ground floor: what every room relies on. Names and protocols only, no implementation, no torch."""

from cryoloom.contract.failure import (
    CryoloomError,
    Failure,
    InputError,
    TooManyFailures,
    WorkFailed,
)
from cryoloom.contract.figure import Figure
from cryoloom.contract.run import Executor, Progress, Run
from cryoloom.contract.settings import Settings, diameter_setting, noise_setting, setting, symmetry_setting
from cryoloom.contract.stage import Input, StageDeclaration, stage, tool

__all__ = [
    "CryoloomError",
    "Executor",
    "Failure",
    "Figure",
    "Input",
    "InputError",
    "Progress",
    "Run",
    "Settings",
    "StageDeclaration",
    "TooManyFailures",
    "WorkFailed",
    "diameter_setting",
    "noise_setting",
    "setting",
    "stage",
    "symmetry_setting",
    "tool",
]

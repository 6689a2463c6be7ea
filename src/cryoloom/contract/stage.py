"""A stage is declared once; command, help, Python call, form, schema and job record follow from it.

The declaration lives in `<stage>/settings.py` (no torch, no NumPy, so `--help` appears at once); the
function lives in `<stage>/stage.py` and is bound to it by the `stage` decorator.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cryoloom.contract.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

KINDS = ("movies", "micrographs", "picks", "particles", "map", "maps", "model", "files", "file", "folder", "any")


@dataclass(frozen=True)
class Input:
    """One input of a stage.

    Attributes
    ----------
    name
        Argument of the stage function and option of the command (`--name`).
    kind
        What the stage function gets: a record (`movies`, `micrographs`, `picks`, `particles`, `map`;
        `maps` a tuple of maps), or paths (`model`, `file`, `folder` one; `files` a tuple).
    help
        One sentence.
    required
        If false, the stage gets `None` when it is left out.
    """

    name: str
    kind: str
    help: str
    required: bool = True

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"input kind: expected one of {KINDS}, got {self.kind!r}")


@dataclass(frozen=True)
class StageDeclaration:
    """All that the faces, the project and the documentation need to know of a stage.

    Attributes
    ----------
    name
        Command name, for instance `ctf`; sub-commands are written with a space (`simulate movies`).
    help
        One sentence.
    settings
        The settings model.
    function
        `"package.module:function"`, imported when the stage runs. Its arguments are the inputs by name,
        then `settings`, then `run`.
    inputs
        The inputs, in order.
    writes
        Names of the results and what they are, for help and documentation.
    uses_gpu
        False for stages whose kernels run on the CPU only: they say so, and refuse `--require-gpu`.
    several_gpus
        True for stages that spread their work over all GPUs they are given; others use the first and say so.
    """

    name: str
    help: str
    settings: type[Settings]
    function: str
    inputs: tuple[Input, ...] = ()
    writes: dict[str, str] = field(default_factory=dict)
    uses_gpu: bool = True
    several_gpus: bool = False

    def load(self) -> Callable[..., Any]:
        """Import and return the stage function."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)


def tool(
    name: str, settings: type[Settings], function: str, help: str, writes: dict[str, str], *inputs: Input
) -> StageDeclaration:
    """Declaration of a small stage on the CPU, its fields in order."""
    return StageDeclaration(
        name=name, help=help, settings=settings, function=function, inputs=inputs, writes=writes, uses_gpu=False
    )


def stage(declaration: StageDeclaration) -> Callable[[F], F]:
    """Bind a function to its declaration.

    The function returns one record, or a dict `name -> record`; the project writes each under its name
    (`particles` -> `particles.star`, `map` -> `map.mrc`).
    """

    def bind(function: F) -> F:
        expected = declaration.function.partition(":")[2]
        if function.__name__ != expected:
            raise ValueError(f"stage {declaration.name}: declared as {expected}, defined as {function.__name__}")
        function.declaration = declaration  # type: ignore[attr-defined]
        return function

    return bind

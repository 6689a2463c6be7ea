"""cryoloom: cryo-EM single-particle data from raw movies to a validated map.

Every stage of the registry is also a function of this package, loaded when it is first used::

    import cryoloom
    job = cryoloom.ctf(micrographs="micrographs.star", out="ctf")

takes the same names as `cryoloom ctf --micrographs micrographs.star --out ctf` and does the same work.
"""

import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Stages as functions (`cryoloom.motion`, `cryoloom.refine`, ...), imported late."""
    if name.startswith("_"):
        raise AttributeError(name)
    from cryoloom.pipeline.api import stage_function

    return stage_function(name)


class _Room(ModuleType):
    """A package of this one; where a stage has its name, calling it runs the stage."""

    def __call__(self, **arguments: Any) -> Any:
        from cryoloom.pipeline.api import stage_function

        return stage_function(self.__name__.rpartition(".")[2])(**arguments)


class _House(ModuleType):
    """The package itself: once `cryoloom.refine` is imported as a room, it can still be called as a stage."""

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) is ModuleType and value.__name__ == f"{self.__name__}.{name}":
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _House

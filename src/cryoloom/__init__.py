"""cryoloom: cryo-EM single-particle data from raw movies to a validated map.

Every stage of the registry is also a function of this package, loaded when it is first used::

    import cryoloom
    job = cryoloom.ctf(micrographs="micrographs.star", out="ctf")

takes the same names as `cryoloom ctf --micrographs micrographs.star --out ctf` and does the same work.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Stages as functions (`cryoloom.motion`, `cryoloom.refine`, ...), imported late."""
    if name.startswith("_"):
        raise AttributeError(name)
    from cryoloom.pipeline.api import stage_function

    return stage_function(name)

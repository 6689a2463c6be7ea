"""Records: what the project knows of optics, movies, micrographs, picks, particles and maps.

Frozen, named, with units; they hold no pixels except for maps. Files of any format are `io`'s business.
"""

from cryoloom.data.curves import FscCurve
from cryoloom.data.optics import Optics
from cryoloom.data.sets import MicrographSet, MovieSet, ParticleSet, PickSet
from cryoloom.data.table import RowTable, row
from cryoloom.data.volume import VolumeMap

__all__ = [
    "FscCurve",
    "MicrographSet",
    "MovieSet",
    "Optics",
    "ParticleSet",
    "PickSet",
    "RowTable",
    "VolumeMap",
    "row",
]

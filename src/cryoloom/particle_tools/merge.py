"""Several particle sets as one: optics groups joined by name, columns that all have, order kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cryoloom.data import Optics, ParticleSet


@dataclass(frozen=True)
class Merged:
    """A merged set and what happened on the way.

    Attributes
    ----------
    particles
        All rows, sets one after the other.
    dropped
        Columns that not all sets have.
    renamed
        Optics groups that got another name, because sets use one name for different optics.
    """

    particles: ParticleSet
    dropped: list[str]
    renamed: list[str]


def merge_sets(sets: Sequence[ParticleSet]) -> Merged:
    """Merge sets; equal names of optics groups with equal optics are one group."""
    groups: list[Optics] = []
    place: dict[str, int] = {}
    renamed: list[str] = []
    indices = []
    for part in sets:
        new = np.zeros(max(len(part.optics), 1), np.int64)
        for i, optics in enumerate(part.optics):
            name, number = optics.name, 1
            while name in place and replace(groups[place[name]], name="") != replace(optics, name=""):
                number += 1
                name = f"{optics.name}_{number}"
            if name not in place:
                if name != optics.name:
                    renamed.append(f"{optics.name} -> {name}")
                place[name] = len(groups)
                groups.append(replace(optics, name=name))
            new[i] = place[name]
        indices.append(new[np.asarray(part.optics_index)])
    names = [n for n in ParticleSet.row_fields() if all(getattr(part, n) is not None for part in sets)]
    some = [n for n in ParticleSet.row_fields() if any(getattr(part, n) is not None for part in sets)]
    labels = [label for label in sets[0].extra if all(label in part.extra for part in sets)]
    all_labels = dict.fromkeys(label for part in sets for label in part.extra)
    dropped = [n for n in some if n not in names] + [label for label in all_labels if label not in labels]
    fields: dict[str, Any] = {n: np.concatenate([np.asarray(getattr(part, n)) for part in sets]) for n in names}
    fields["optics_index"] = np.concatenate(indices)
    extra = {label: _joined([part.extra[label] for part in sets]) for label in labels}
    return Merged(ParticleSet(**fields, optics=tuple(groups), extra=extra), dropped, renamed)


def image_codes(particles: ParticleSet) -> np.ndarray:
    """A number for each different image, `(n,)` int64."""
    index = np.asarray(particles.image_index, np.int64)
    span = int(index.max()) + 1 if len(index) else 1
    return np.unique(text_codes(particles.image_path) * span + index, return_inverse=True)[1].astype(np.int64)


def text_codes(values: np.ndarray) -> np.ndarray:
    """A number for each different text, in the order of their first row, `(n,)` int64."""
    known: dict[str, int] = {}
    return np.fromiter((known.setdefault(str(value), len(known)) for value in values), np.int64, len(values))


def _joined(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns one after the other; numbers and texts together become texts."""
    kinds = {np.asarray(column).dtype.kind for column in columns}
    if kinds <= set("iufb"):
        return np.concatenate(columns)
    return np.concatenate([np.asarray([str(v) for v in column], dtype=object) for column in columns])

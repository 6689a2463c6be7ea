"""Particles from elsewhere: stacks that are there, images named once, halves that never share pixels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import ParticleSet
from cryoloom.data.halves import assign_halves, linked_groups
from cryoloom.io.denoised import refuse_denoised
from cryoloom.io.mrc import read_mrc_header


def check_stacks(particles: ParticleSet, source: str) -> ParticleSet:
    """The same particles with the box of each optics group set, after a look at the header of every stack.

    Raises
    ------
    InputError
        If a stack is missing, denoised, too short for an index, or its images have another size than the optics say.
    """
    names, codes = np.unique(np.asarray(particles.image_path, dtype=object), return_inverse=True)
    missing = [str(name) for name in names if not Path(str(name)).is_file()]
    if missing:
        raise InputError(
            f"{source}: {len(missing)} of {len(names)} image stacks are not there, the first is {missing[0]}; give the "
            "command in the folder that the paths start from, or link that folder beside the file."
        )
    largest = np.zeros(len(names), np.int64)
    np.maximum.at(largest, codes, np.asarray(particles.image_index, np.int64))
    boxes: dict[int, tuple[int, str]] = {}
    for i, name in enumerate(names):
        header = read_mrc_header(str(name))
        refuse_denoised(str(name), header.labels)
        n, h, w = header.shape
        if largest[i] >= n:
            raise InputError(f"{name}: image {largest[i] + 1} is named by {source}, the stack has {n}.")
        if h != w:
            raise InputError(f"{name}: images of {w} x {h} pixels; particle boxes must be square.")
        for group in np.unique(particles.optics_index[codes == i]).tolist():
            known = boxes.setdefault(group, (w, str(name)))
            if known[0] != w:
                raise InputError(
                    f"{name}: images of {w} pixels, {known[1]} of the same optics group has {known[0]}; give them "
                    "different optics groups."
                )
    groups = list(particles.optics)
    for group, (box, name) in boxes.items():
        if groups[group].box not in (None, box):
            raise InputError(
                f"{name}: images of {box} pixels, optics group {groups[group].name} says {groups[group].box}."
            )
        groups[group] = dataclasses.replace(groups[group], box=box)
    return particles.replace(optics=tuple(groups))


def drop_repeats(particles: ParticleSet) -> tuple[ParticleSet, int]:
    """Keep the first row of each image; returns the number of rows that were left out."""
    paths = np.unique(np.asarray(particles.image_path, dtype=object), return_inverse=True)[1].astype(np.int64)
    index = np.asarray(particles.image_index, np.int64)
    key = paths * (int(index.max()) + 1 if len(index) else 1) + index
    first = np.sort(np.unique(key, return_index=True)[1])
    n_repeats = len(particles) - len(first)
    return (particles.select(first) if n_repeats else particles), n_repeats


def settle_halves(
    particles: ParticleSet, random: np.random.Generator, *, renew: bool
) -> tuple[ParticleSet, dict[str, Any], list[str]]:
    """Half sets: those of the file where they are sound, else new ones.

    Returns
    -------
    particles
        With `half`.
    figures
        `half_sets` (`file` or `assigned`), `n_half1`, `n_half2`.
    warnings
        Sentences.
    """
    warnings: list[str] = []
    half = None if particles.half is None or renew else np.asarray(particles.half)
    if half is not None and not set(np.unique(half).tolist()) <= {1, 2}:
        warnings.append("The half sets of the file are not 1 and 2; new ones were assigned.")
        half = None
    if half is not None and len(half) > 1 and len(np.unique(half)) < 2:
        warnings.append(f"All particles of the file are in half {int(half[0])}; new half sets were assigned.")
        half = None
    origin = "file"
    if half is None:
        half = assign_halves(particles, random, overlap_px=box_in_micrograph(particles))
        origin = "assigned"
    else:
        group = linked_groups(particles)
        n_groups = int(group.max()) + 1
        low, high = np.full(n_groups, 3), np.zeros(n_groups, np.int64)
        np.minimum.at(low, group, half)
        np.maximum.at(high, group, half)
        split = int(((low == 1) & (high == 2)).sum())
        if split:
            warnings.append(
                f"{split} images or filaments are in both half sets of the file, so the halves are not independent; "
                "add --new-halves to assign them anew."
            )
    counts = np.bincount(half, minlength=3)
    smaller = int(min(counts[1], counts[2]))
    if smaller < 0.3 * len(half):
        warnings.append(f"The half sets are uneven: {int(counts[1])} and {int(counts[2])} particles.")
    figures = {"half_sets": origin, "n_half1": int(counts[1]), "n_half2": int(counts[2])}
    return particles.replace(half=half.astype(np.int64)), figures, warnings


def box_in_micrograph(particles: ParticleSet) -> np.ndarray | None:
    """Edge of each extracted box in pixels of its micrograph, `(n,)`, or None where positions are not known."""
    if particles.micrograph is None or particles.position_px is None:
        return None
    size = [
        (group.box or 0) * group.pixel_size / (group.original_pixel_size or group.pixel_size)
        for group in particles.optics
    ]
    return np.asarray(size)[particles.optics_index]

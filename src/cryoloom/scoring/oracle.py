"""The oracle: the same images with their true poses and true CTFs, which bounds what any program can reach."""

import numpy as np

from cryoloom.data import ParticleSet
from cryoloom.scoring.matching import match_particles, stems


def oracle_particles(estimated: ParticleSet, truth: ParticleSet, *, distance_px: float = 10.0) -> ParticleSet:
    """Particles of a result with the poses and CTFs of the truth.

    Particles that are none (class 0 of the truth, or no true particle near by) are left out. Positions on motion
    corrected micrographs are known up to the shape of the ice that the movie was laid on: a smooth offset of each
    micrograph is taken out of the true positions.

    Parameters
    ----------
    estimated
        Particles with images; where their micrographs were cut from movies, with refined shifts.
    truth
        What is true of them, in the frame of the true map.
    distance_px
        Largest distance of a particle from its true position, pixels of the micrograph.
    """
    mine, true = match_particles(estimated, truth, distance_px=distance_px)
    if truth.class_number is not None:
        real = truth.class_number[true] > 0
        mine, true = mine[real], true[real]
    picked, known = estimated.select(mine), truth.select(true)
    changes = {
        name: getattr(known, name)
        for name in ("rotation", "defocus_u", "defocus_v", "defocus_angle", "phase_shift", "ctf_bfactor", "ctf_scale")
    }
    same_images = known.shift is not None and (
        known.position_px is None or picked.position_px is None or np.array_equal(known.position_px, picked.position_px)
    )
    changes["shift"] = known.shift if same_images else _true_shifts(picked, known)
    return picked.replace(**changes, scale=None, class_number=np.ones(len(mine), np.int64))


def _true_shifts(picked: ParticleSet, known: ParticleSet) -> np.ndarray:
    """Where the true centre sits in each box, Å yx."""
    assert picked.position_px is not None and picked.micrograph is not None and known.position_px is not None
    size = np.asarray([o.original_pixel_size or o.pixel_size for o in picked.optics])[picked.optics_index][:, None]
    true_size = np.asarray([o.original_pixel_size or o.pixel_size for o in known.optics])[known.optics_index][:, None]
    centre = known.position_px * true_size + (0.0 if known.shift is None else known.shift)
    raw = centre - picked.position_px * size
    if picked.shift is None:
        return raw
    shift = raw.copy()
    names = stems(picked.micrograph)
    for name in np.unique(names):
        rows = names == name
        shift[rows] += smooth_offset(centre[rows], picked.shift[rows] - raw[rows])
    return shift


def smooth_offset(place: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Offsets of the particles of a micrograph as a smooth field, without those that do not fit, `(n, 2)` Å.

    A movie can be laid on the shape that the ice has in any frame, or in the mean: places then differ by what moved in
    between, which is a polynomial of the place, of second degree at most where there are particles enough to tell.

    Parameters
    ----------
    place, offset
        Å yx, `(n, 2)`.
    """
    y, x = ((place - place.mean(0)) / max(float(np.ptp(place)), 1e-9)).T
    terms = np.stack([np.ones_like(x), y, x, y * y, y * x, x * x], axis=1)
    used = 6 if len(place) >= 20 else 3 if len(place) >= 9 else 1
    field = np.broadcast_to(np.median(offset, axis=0), offset.shape)
    for _ in range(5):
        distance = np.linalg.norm(offset - field, axis=1)
        kept = distance <= 3 * max(float(np.median(distance)), 0.5)
        if used == 1 or kept.sum() < 2 * used:
            break
        field = terms[:, :used] @ np.linalg.lstsq(terms[kept, :used], offset[kept], rcond=None)[0]
    return np.asarray(field)

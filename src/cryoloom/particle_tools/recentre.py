"""Another centre for particles: a point of the map, followed into each image by its pose."""

import numpy as np

from cryoloom.contract import InputError
from cryoloom.data import ParticleSet


def recentre_on_point(
    particles: ParticleSet, point: tuple[float, float, float], *, adjust_defocus: bool = False
) -> ParticleSet:
    """Make a point of the map the centre of the particles.

    A point `p` from the centre of the map lies at the x, y of `R.T @ p` from the projected centre, so shifts grow by
    that. Its z is its height, by which the defocus differs (`defocus + hand * z`).

    Parameters
    ----------
    particles
        With poses.
    point
        Å from the centre of the map, xyz.
    adjust_defocus
        Correct the defocus of each particle for the height of the point.
    """
    if particles.rotation is None:
        raise InputError("A point of the map can be followed into images with poses only; these particles have none.")
    moved = np.einsum("nij,i->nj", np.asarray(particles.rotation, np.float64), np.asarray(point, np.float64))
    shift = np.zeros((len(particles), 2)) if particles.shift is None else np.asarray(particles.shift, np.float64)
    changed = particles.replace(shift=shift + moved[:, 1::-1])
    if not adjust_defocus:
        return changed
    if particles.defocus_u is None or particles.defocus_v is None:
        raise InputError("--adjust-defocus: the particles have no defocus.")
    height = particles.per_row("hand") * moved[:, 2]
    return changed.replace(defocus_u=particles.defocus_u + height, defocus_v=particles.defocus_v + height)


def shifts_into_coordinates(particles: ParticleSet) -> ParticleSet:
    """Move coordinates by the whole pixels of the micrograph in the shifts, which keep the rest.

    The place of each particle on its micrograph stays; images must be extracted anew.
    """
    if particles.position_px is None:
        raise InputError("--move-coordinates: the particles have no coordinates.")
    if particles.shift is None:
        return particles
    size = np.asarray([g.original_pixel_size or g.pixel_size for g in particles.optics])[particles.optics_index]
    whole = np.round(np.asarray(particles.shift) / size[:, None])
    return particles.replace(
        position_px=np.asarray(particles.position_px) + whole,
        shift=np.asarray(particles.shift) - whole * size[:, None],
    )

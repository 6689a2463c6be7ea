"""Particles in the style of RELION 3.0: one table, optics in every row, shifts in pixels."""

from pathlib import Path

import numpy as np

from cryoloom.data import Optics, ParticleSet
from cryoloom.io.records import particle_columns
from cryoloom.io.relion_columns import extra_columns
from cryoloom.io.star import write_star

_LOST = ("beam_tilt_mrad", "odd_zernike", "even_zernike", "magnification", "mtf_path", "ctf_premultiplied", "hand")
_MAGNIFICATION = 10_000.0


def write_relion30(particles: ParticleSet, path: Path) -> list[str]:
    """Write one unnamed-version table; returns the fields that have no column there and are not trivial."""
    columns = particle_columns(particles, lambda name: name)
    columns |= {label: values for label, values in extra_columns(particles.extra).items() if label not in columns}
    size = particles.per_row("pixel_size") if len(particles) else np.zeros(0)
    for old, new in (("rlnOriginX", "rlnOriginXAngst"), ("rlnOriginY", "rlnOriginYAngst")):
        if new in columns:
            columns[old] = columns.pop(new) / size
    columns["rlnMagnification"] = np.full(len(particles), _MAGNIFICATION)
    columns["rlnDetectorPixelSize"] = size * _MAGNIFICATION / 1e4
    for label, name in (
        ("rlnVoltage", "voltage_kv"),
        ("rlnSphericalAberration", "cs_mm"),
        ("rlnAmplitudeContrast", "amplitude_contrast"),
    ):
        columns[label] = particles.per_row(name)
    if len(particles.optics) > 1:
        columns["rlnBeamTiltClass"] = np.asarray(particles.optics_index) + 1
    write_star(path, {"": columns}, version=None)
    plain = Optics()
    return [name for name in _LOST if any(getattr(group, name) != getattr(plain, name) for group in particles.optics)]

"""Sets of small micrographs of particles of any size and shape, made by the bed of `tests/picking`."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import write_mrc

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "picking"))
import picking_bed
from test_templates import write_views

PIXEL, SIZE, COVERED = 1.5, 1152, 0.25


@dataclass(frozen=True)
class Group:
    """Micrographs of one particle, where its particles are (pixels yx, one array each), and its diameter in Å."""

    micrographs: MicrographSet
    places: list[np.ndarray]
    diameter: float
    references: Path


def make_group(folder: Path, seed: int, n: int, size: int = SIZE) -> Group:
    """`n` micrographs of one particle, 70 kDa to 1.5 MDa, SNR 0.04 to 0.1; carbon, ice and aggregates on every third.

    A quarter of each is covered with particles.
    """
    rng = np.random.default_rng([3, seed])
    mass = float(np.exp(rng.uniform(np.log(70), np.log(1500))))
    beads = picking_bed.bead_cloud(mass, (1.0, rng.uniform(1.0, 1.4), rng.uniform(1.0, 2.0)), seed)
    snr = float(np.exp(rng.uniform(np.log(0.04), np.log(0.1))))
    n_particles = round(COVERED * (size * PIXEL / picking_bed.extent(beads)) ** 2)
    defocus, paths, places = rng.uniform(8_000, 25_000, n), [], []
    for i in range(n):
        one = picking_bed.simulate(
            beads, shape=(size, size), n_particles=n_particles, snr=snr, defocus=float(defocus[i]), junk=i % 3 == 2,
            gradient=0.5, seed=1000 * seed + i, of_particles=True,
        )  # fmt: skip
        paths.append(str(folder / f"m{seed}_{i}.mrc"))
        write_mrc(paths[-1], one.image, PIXEL)
        places.append(one.position_px)
    views = folder / f"views{seed}.mrcs"
    write_views(views, beads, 8, seed=seed)
    micrographs = MicrographSet(
        path=np.asarray(paths),
        optics=(Optics(pixel_size=PIXEL),),
        optics_index=np.zeros(n, int),
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle=np.zeros(n),
    )
    return Group(micrographs, places, picking_bed.extent(beads), views)

"""References that are filtered place by place: what is disordered in the particle does not steer its alignment.

A detergent belt, a flexible domain or empty solvent within the mask holds noise where the core holds signal, and one
number per shell serves neither. Each half of the particles is cut into two quarters; where their maps agree, place by
place and band by band, lies signal (`maps/local_filter.py`), and the half's map is weighted by that. It is the idea of
non-uniform refinement (Punjani, Zhang and Fleet 2020, doi:10.1038/s41592-020-00990-8), with Wiener's weight in
bands in place of one cutoff for each voxel, and with quarters, as in SIDESPLITTER (Ramlaul, Palmer, Nakane and Aylett
2020, doi:10.1016/j.jsb.2020.107545), so that the weights of one half come from that half alone. The halves share one
number: the resolution that they reach sets the window and the last band.
"""

from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.halves import HalfPair
from cryoloom.em.solve import SolvableSums, box_for_radius, solve
from cryoloom.fourier import fourier_crop
from cryoloom.maps.local_filter import restore_locally
from cryoloom.maps.windowed import WindowedHalves

WINDOW = 2.5
"""Standard deviation of the window about each voxel, in units of the resolution."""


def local_reference_volumes(
    quarters: list[SolvableSums], pair: HalfPair, executor: Executor, *, radius: int
) -> list[Tensor]:
    """Half maps up to `radius`, filtered place by place and masked, in the smallest box that holds them.

    Parameters
    ----------
    quarters
        Complete sums of the four quarters.
    pair
        Masks of the halves and the resolution reached.
    radius
        Last shell of the references.
    """
    full = pair.volumes[0].shape[0]
    box = box_for_radius(radius + 1, full)
    pixel_size = pair.pixel_size * full / box
    resolution = pair.pixel_size * full / max(pair.radius, 1)
    window = max(WINDOW * resolution, 4 * pixel_size)

    def work(h: int) -> Tensor:
        mask = pair.masks[h] if box == full else fourier_crop(pair.masks[h], (box, box, box)).clamp(0.0, 1.0)
        one, other = (solve(quarters[2 * h + q], box, radius=radius) for q in (0, 1))
        maps = WindowedHalves(one, other, pixel_size, mask, window)
        return restore_locally(maps, resolution=resolution, bfactor=0.0, sharpen=False).volume

    return list(executor.map(work, (0, 1)))

"""The engine: one expectation-maximisation machine for maps, in 2D and 3D, one class and many, soft and hard.

A schedule (refine, abinitio, class3d) is a loop over these steps; `refine/schedule.py` is the one to read first::

    source = ImageSource(ParticleImages(particles), particles, mask_diameter)      # images: streamed, cached
    noise = estimate_image_power(source, executor, rows)                           # first noise spectra
    spectra = prepare_references(volumes, executor, radius)                        # one padded spectrum per half
    found = search_poses(source, spectra, half, rows, noise, executor,             # all poses at low resolution
                         n_rings=10, rotations=search_directions(4, "C1"),
                         shifts_px=shift_grid(6, 2), top=4)
    found = refine_poses(source, spectra, half, found, noise, executor, radius=20) # off the grid, with error bars
    found = replace(found, posterior=posterior_of(found))                          # soft; ones for hard
    sums = accumulate(source, found, half[found.row] - 1, 2, noise, executor, radius=30)
    halves = tuple(prepare_sums(s, "C1", executor) for s in sums)                  # Friedel mates, symmetry
    pair = solve_halves(halves, source.box, source.field, diameter, executor)      # half maps, own masks, FSC
    volumes = reference_volumes(halves, pair, executor, radius=pair.radius + 1)    # next references

What the arguments mean everywhere:

- `rows` are rows of the particle set; `Candidates` may hold several poses per row, sorted by row.
- `references` has one entry per half (one entry alone serves both); an entry may be a list, one spectrum per
  class, and `Candidates.reference` then says which class a pose belongs to. `search_poses` ranks all classes together.
- `target` of `accumulate` says which volume each candidate goes into: halves, classes, or both; any integers.
- `radius` and shells count Fourier pixels of the field (`ImageSource.field` Å / shell = resolution). DFT values do
  not depend on the box, so volumes in small boxes over the same field serve as references of full images.
- Shifts are pixels of the images, yx; rotations take image-frame xyz to volume-frame xyz.
- `FourierSums.sums` is a plain tensor: momentum is `sums *= mu` before the next `accumulate(..., into=...)`;
  sums of equal radius may be added. `solve(prepare_sums(sums, symmetry, executor), box, ssnr)` is one volume
  without halves.

Work is split over `executor.map`; every result is the same for any number of workers.
"""

from cryoloom.em.accumulate import FourierSums, accumulate
from cryoloom.em.defocus import defocus_shows, fit_defocus
from cryoloom.em.gauss_newton import PosePriors, pose_errors, pose_radii, refine_poses
from cryoloom.em.groups import half_sets, noise_groups
from cryoloom.em.halves import HalfPair, ball_mask, prepare_references, reference_volumes, solve_halves
from cryoloom.em.images import ImageChunk, ImageReader, ImageSource
from cryoloom.em.noise import NoiseModel, estimate_image_power, estimate_noise
from cryoloom.em.points import PlanePoints, plane_points
from cryoloom.em.poses import (
    Candidates,
    PoseTable,
    best_of,
    empty_poses,
    join_candidates,
    posterior_of,
    single_candidates,
)
from cryoloom.em.reliability import gain_ratio, pose_reliability
from cryoloom.em.search import search_directions, search_poses, shift_grid
from cryoloom.em.solve import SolvableSums, box_for_radius, prepare_sums, solve, ssnr_of
from cryoloom.em.symmetrise import symmetrise_sums

__all__ = [
    "Candidates",
    "FourierSums",
    "HalfPair",
    "ImageChunk",
    "ImageReader",
    "ImageSource",
    "NoiseModel",
    "PlanePoints",
    "PosePriors",
    "PoseTable",
    "SolvableSums",
    "accumulate",
    "ball_mask",
    "best_of",
    "box_for_radius",
    "defocus_shows",
    "empty_poses",
    "estimate_image_power",
    "estimate_noise",
    "fit_defocus",
    "gain_ratio",
    "half_sets",
    "join_candidates",
    "noise_groups",
    "plane_points",
    "pose_errors",
    "pose_radii",
    "pose_reliability",
    "posterior_of",
    "prepare_references",
    "prepare_sums",
    "reference_volumes",
    "refine_poses",
    "search_directions",
    "search_poses",
    "shift_grid",
    "single_candidates",
    "solve",
    "solve_halves",
    "ssnr_of",
    "symmetrise_sums",
]

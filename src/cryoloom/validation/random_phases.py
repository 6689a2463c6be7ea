"""Refinement from images whose phases are random beyond a frequency: what it still finds there it made up.

High-resolution noise substitution (Chen et al. 2013, doi:10.1016/j.ultramic.2013.06.004): beyond a shell the images
keep their amplitudes and lose their signal. Both sets of images are refined again by the same rounds from the same
poses; the FSC of the second shows what over-fitting and the mask bring in, `(F_t - F_n) / (1 - F_n)` is the signal's.

Neglected: poses start from the given ones and are refined nearby, each half against its own map alone; no search over
all orientations is made.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.gauss_newton import refine_poses
from cryoloom.em.images import ImageReader
from cryoloom.em.poses import Candidates
from cryoloom.fourier.slices import prepare_volume
from cryoloom.maps.filter import filter_map, shell_gain
from cryoloom.maps.fsc import fourier_shell_correlation
from cryoloom.maps.randomise import randomise_phases
from cryoloom.validation.held_out import fit_grey_scale
from cryoloom.validation.posed import PosedParticles, reconstruct


@dataclass(frozen=True)
class RandomPhaseTest:
    """FSC of both refinements behind the same mask.

    Attributes
    ----------
    true, randomised
        From the images as they are, and from those with random phases, `(n,)`.
    from_shell, last_shell
        Phases are random from the first on; both maps were refined to the last.
    """

    true: np.ndarray
    randomised: np.ndarray
    from_shell: int
    last_shell: int

    @property
    def beyond(self) -> tuple[float, float]:
        """Mean FSC of both in the shells with random phases; the first two of them still feel the mask."""
        shells = slice(self.from_shell + 2, self.last_shell + 1)
        return float(self.true[shells].mean()), float(self.randomised[shells].mean())

    @property
    def signal(self) -> np.ndarray:
        """FSC of the signal alone, `(n,)`."""
        noise = np.clip(self.randomised, 0.0, 0.999)
        found = (self.true - noise) / (1 - noise)
        return np.where(np.arange(len(found)) < self.from_shell, self.true, found)


class RandomisedImages:
    """A reader whose images have random phases from a shell on; the same for a row each time it is read."""

    def __init__(self, reader: ImageReader, from_shell: int, seed: int) -> None:
        self.reader, self.from_shell, self.seed = reader, from_shell, seed

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images `(n, box, box)`."""
        images = torch.from_numpy(np.array(self.reader.read(rows), dtype=np.float32))
        for image, row in zip(images, rows, strict=True):
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + int(row)) % (1 << 62))
            image.copy_(randomise_phases(image, self.from_shell, generator, ndim=2))
        return images.numpy()


def compare_random_phases(
    posed: PosedParticles,
    randomised: PosedParticles,
    mask: Tensor,
    executor: Executor,
    *,
    from_shell: int,
    last_shell: int,
    symmetry: str = "C1",
    rounds: int = 3,
) -> RandomPhaseTest:
    """Refine both sets of images in the same way.

    Parameters
    ----------
    posed, randomised
        The particles, and the same with images from `RandomisedImages`.
    mask
        Cube of the box of the images.
    from_shell
        First shell with random phases.
    last_shell
        To which poses are refined.
    rounds
        Of refining poses and making maps.

    Raises
    ------
    ValueError
        If fewer than three shells are left to judge.
    """
    if last_shell - from_shell < 4:
        raise ValueError(f"from_shell: expected at least four shells before {last_shell}, got {from_shell}")
    curves = [_refine(set_of, mask, executor, last_shell, symmetry, rounds) for set_of in (posed, randomised)]
    return RandomPhaseTest(curves[0], curves[1], from_shell, last_shell)


def _refine(
    posed: PosedParticles, mask: Tensor, executor: Executor, last: int, symmetry: str, rounds: int
) -> np.ndarray:
    """FSC behind the mask of halves that were refined apart, `(box // 2 + 1,)`."""
    poses = [posed.of_half(h) for h in (1, 2)]
    every = np.ones(len(posed.source), np.int64)
    for done in range(rounds + 1):
        halves = [reconstruct(posed, half, executor, symmetry=symmetry) for half in poses]
        fsc = fourier_shell_correlation(halves[0] * mask, halves[1] * mask).numpy()
        if done == rounds:
            break
        gain = shell_gain(torch.from_numpy(np.clip(fsc, 0.0, 1.0)), tuple(mask.shape))
        poses = [
            _align(posed, filter_map(v, gain) * mask, p, every, executor, last)
            for v, p in zip(halves, poses, strict=True)
        ]
    return fsc


def _align(
    posed: PosedParticles, volume: Tensor, poses: Candidates, every: np.ndarray, executor: Executor, last: int
) -> Candidates:
    """Poses of one half, refined against its own map."""
    scale = fit_grey_scale(posed, volume, poses, executor, last)
    reference = prepare_volume((volume * scale).float(), last)
    found = refine_poses(posed.source, [reference], every, poses, posed.noise, executor, radius=last, n_steps=3)
    return replace(found, scale=poses.scale, posterior=np.ones(len(found)))

"""Coordinates with swapped or flipped axes, recognised from the micrographs they belong to.

Programs disagree on which axis comes first and on which edge rows are counted from. At the right places the image
differs from what is around it, always with the same sign; at wrong places it does so by chance. So the contrast of
`contrast.py` is summed for the eight symmetries of a picture. Coordinates are changed only where one of the other
seven shows particles beyond doubt, and clearly better than they do as given.
"""

from collections.abc import Sequence

import numpy as np

SYMMETRIES = ((False, False, False),) + tuple(
    (swap, flip_y, flip_x)
    for swap in (False, True)
    for flip_y in (False, True)
    for flip_x in (False, True)
    if swap or flip_y or flip_x
)
"""Swap of both axes, then flips of y and x; the first changes nothing."""
_LEAST_Z = 6.0  # standard deviations of the sum of contrasts, of the symmetry that is right
_LEAST_LEAD = 4.0  # by which it must lead before coordinates as given


def transform_positions(position: np.ndarray, shape: tuple[int, int], symmetry: tuple[bool, bool, bool]) -> np.ndarray:
    """Positions `(n, 2)` yx under one of `SYMMETRIES` of a micrograph of `shape` (h, w)."""
    swap, flip_y, flip_x = symmetry
    moved = np.array(position[:, ::-1] if swap else position, dtype=np.float64)
    if flip_y:
        moved[:, 0] = shape[0] - 1 - moved[:, 0]
    if flip_x:
        moved[:, 1] = shape[1] - 1 - moved[:, 1]
    return moved


def inside(position: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which positions lie on the micrograph, `(n,)` bool."""
    within: np.ndarray = np.all((position >= 0) & (position <= np.asarray(shape) - 1), axis=1)
    return within


def decide_symmetry(contrasts: Sequence[np.ndarray], n: int) -> tuple[int, np.ndarray]:
    """Which of `SYMMETRIES` the coordinates have.

    Parameters
    ----------
    contrasts
        Contrast of each particle that lies on its micrograph, for each symmetry, `(m,)` each.
    n
        Number of particles.

    Returns
    -------
    index
        Into `SYMMETRIES`; 0 unless another one is right beyond doubt.
    z
        Sum of contrasts in standard deviations of a sum at random places, `(8,)`; 0 where a tenth of the particles
        would lie outside.
    """
    spread = max(min(float(np.std(c)) for c in contrasts if len(c) > 1), 1e-12) if n > 1 else 1.0
    z = np.asarray([c.sum() / (spread * np.sqrt(len(c))) if len(c) >= 0.9 * n and n else 0.0 for c in contrasts])
    best = int(np.abs(z).argmax())
    found = abs(z[best]) >= _LEAST_Z and abs(z[best]) - abs(z[0]) >= _LEAST_LEAD
    return (best if found else 0), z


def symmetry_name(index: int) -> str:
    """What was done to the axes, in words."""
    swap, flip_y, flip_x = SYMMETRIES[index]
    flips = " and ".join(axis for axis, flipped in (("y", flip_y), ("x", flip_x)) if flipped)
    words = (["axes swapped"] if swap else []) + ([f"{flips} counted from the other edge"] if flips else [])
    return ", ".join(words) or "as given"

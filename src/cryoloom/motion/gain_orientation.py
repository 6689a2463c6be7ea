"""Which way round a gain reference goes, and whether it multiplies or divides, found from the frames themselves.

Without gain correction the sum of frames is brighter where the detector is more sensitive. In the right orientation the
fine structure of the reference correlates with that of the sum: negatively if frames are to be multiplied by the
reference, positively if they are to be divided. Only eight orientations and two operations exist, and with millions of
pixels the right one stands out by many standard errors. Where none does, although with such counts it would have to,
the frames were corrected before, or the reference is another detector's: multiplying by it would only add its pattern.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from cryoloom.io.gain import orient

_SMOOTH = 15


@dataclass(frozen=True)
class GainChoice:
    """How a reference fits.

    Attributes
    ----------
    rotation, flip
        Quarter turns clockwise (row 0 on top), then flip (0 none, 1 upside down, 2 left to right), as in RELION.
    divide
        Whether frames are divided by the reference.
    z
        Correlation over its standard error, for the chosen orientation.
    runner_up_z
        The same for the next best orientation.
    correlations
        `(rotation, flip) -> correlation`, for those that fit the frames.
    expected_z
        What `z` would be at least if the frames carried all the fine structure of the reference; 0 where counts are too
        few to say.
    """

    rotation: int
    flip: int
    divide: bool
    z: float
    runner_up_z: float
    correlations: dict[tuple[int, int], float]
    expected_z: float = 0.0

    @property
    def is_absent(self) -> bool:
        """True if the frames surely do not carry the reference: corrected before, or another detector's."""
        return self.expected_z > 24 and self.z < 0.25 * self.expected_z

    @property
    def is_certain(self) -> bool:
        """True if the orientation stands out: 8 standard errors, and half as much again as any other."""
        return self.z > 8 and self.z > 1.5 * self.runner_up_z


def find_gain_orientation(total: np.ndarray, gain: np.ndarray) -> GainChoice:
    """Compare the sum of uncorrected frames `(h, w)` with a reference in all orientations that have its shape.

    Raises
    ------
    ValueError
        If the reference has another shape than the frames in every orientation.
    """
    detail, good = _fine_structure(total)
    reference, reference_good = _fine_structure(gain)
    correlations: dict[tuple[int, int], float] = {}
    counts: dict[tuple[int, int], int] = {}
    for flip in (0, 2):
        for rotation in range(4):
            turned = orient(reference, rotation, flip)
            if turned.shape != total.shape:
                continue
            both = good & orient(reference_good, rotation, flip)
            a, b = detail[both], turned[both]
            norm = np.sqrt(float(a @ a) * float(b @ b))
            correlations[rotation, flip] = float(a @ b) / norm if norm > 0 else 0.0
            counts[rotation, flip] = int(both.sum())
    if not correlations:
        raise ValueError(f"gain: expected shape {total.shape} in some orientation, got {gain.shape}")
    z = {key: abs(value) * np.sqrt(counts[key]) for key, value in correlations.items()}
    ranked = sorted(z, key=lambda key: -z[key])
    best = ranked[0]
    runner_up = float(z[ranked[1]]) if len(ranked) > 1 else 0.0
    expected = 0.0
    if good.mean() > 0.98:  # with fewer counts those pixels are left that had any, and they are alike
        own, both = float(reference[reference_good].var()), float(detail[good].var())
        expected = float(np.sqrt(own / max(own + both, 1e-30) * counts[best]))
    return GainChoice(best[0], best[1], correlations[best] > 0, float(z[best]), runner_up, correlations, expected)


def _fine_structure(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative deviation from the local mean, outliers cut off, and where it is known."""
    good = np.isfinite(image) & (image > 0)
    median = float(np.median(image[good])) if good.any() else 1.0
    filled = np.where(good, image, median).astype(np.float32)
    mean = uniform_filter(np.clip(filled, 0.2 * median, 5 * median), _SMOOTH, mode="reflect")
    detail = filled / mean - 1
    spread = 1.4826 * float(np.median(np.abs(detail[good]))) if good.any() else 0.0
    detail = np.clip(detail, -6 * spread, 6 * spread)
    detail -= detail[good].mean() if good.any() else 0.0
    return detail.astype(np.float32), good

"""Whether the dose that was given is the dose of one frame, or of the whole movie.

Three witnesses, the most reliable first: the exposure in the header of the file; the electrons themselves, counted from
the shot noise of two frames; and what a specimen can bear. Electrons arrive at random, so their number per pixel is the
squared mean of a frame over its variance, whatever factor the camera multiplied with. Cameras lose electrons and add
noise of their own, so the count is right within a factor of two or three: enough to tell a frame from a movie.
"""

import math
from dataclasses import dataclass

import numpy as np

MOST_TOTAL = 250.0  # e-/Å2 that no exposure for single particles exceeds
_FEWEST_FRAMES = 6  # with fewer, the two readings lie too close


@dataclass(frozen=True)
class DoseFinding:
    """What the witnesses say.

    Attributes
    ----------
    meaning
        `per frame`, `total` (the whole movie's was given), `divided twice` (too small by the number of frames), or
        `unknown`.
    evidence
        Which witness decided, in words.
    per_frame
        The dose of one frame that follows, e-/Å2.
    """

    meaning: str
    evidence: str
    per_frame: float


def electrons_per_pixel(first: np.ndarray, second: np.ndarray) -> float:
    """Electrons per pixel of one frame, from two successive ones `(h, w)`; NaN where there is no noise to count.

    Only the difference of the two is noise: the gain's pattern and the specimen are in both. Extreme pixels are left
    out.
    """
    a, b = (np.asarray(frame, np.float32).ravel() for frame in (first, second))
    limit = np.percentile(a, 99.9) * 4 + 1e-6
    good = (a <= limit) & (b <= limit)
    mean = 0.5 * float(a[good].mean(dtype=np.float64) + b[good].mean(dtype=np.float64))
    variance = 0.5 * float((a[good] - b[good]).var(dtype=np.float64))
    return mean**2 / variance if variance > 0 and mean > 0 else math.nan


def judge_dose(
    given: float, n_frames: int, pixel_size: float, electrons: float = math.nan, exposure: float | None = None
) -> DoseFinding:
    """Decide what a given dose is.

    Parameters
    ----------
    given
        e-/Å2, said to be of one frame.
    n_frames, pixel_size
        Frames of the movie, Å per pixel.
    electrons
        Electrons per pixel of one frame, as counted; NaN if unknown.
    exposure
        Exposure of the whole movie in the header, e-/Å2.
    """
    if n_frames < _FEWEST_FRAMES:
        return DoseFinding("unknown", f"with {n_frames} frames a frame and a movie lie too close", given)
    counted = electrons / pixel_size**2
    for expected, witness in (
        (exposure / n_frames if exposure else math.nan, "the exposure in the header"),
        (counted, "the electrons counted from the noise of the frames"),
    ):
        if not (math.isfinite(expected) and expected > 0):
            continue
        # 0 if the dose is of one frame, 1 if of all, -1 if divided by their number once more
        place = math.log(given / expected) / math.log(n_frames)
        told = f"{witness}: {expected:.2g} e-/Å2 in each of {n_frames} frames, {given:.3g} was given"
        if abs(place) < 0.5:
            return DoseFinding("per frame", told, given)
        if 0.5 <= place < 1.5:
            return DoseFinding("total", told, given / n_frames)
        if -1.5 < place <= -0.5:
            return DoseFinding("divided twice", told, given * n_frames)
    if given * n_frames > MOST_TOTAL >= given:
        told = f"{given * n_frames:.0f} e-/Å2 in all would be more than any specimen is given"
        return DoseFinding("total", told, given / n_frames)
    return DoseFinding("unknown", "neither the header nor the noise of the frames tells", given)

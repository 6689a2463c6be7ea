"""Sets of movies, micrographs, picks and particles.

Columns are NumPy arrays with one entry per row; a column that is not known yet is None, a value that is not
known in one row is NaN. Positions are in pixels, order yx, from the centre of the first pixel; lengths are
in Å; angles in radians (`style.md`, section 2).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoloom.data.optics import Optics
from cryoloom.data.table import RowTable, row


@dataclass(frozen=True, kw_only=True)
class OpticsTable(RowTable):
    """Rows that belong to optics groups.

    Attributes
    ----------
    optics
        The groups; `pixel_size` of each is that of the images of this set.
    optics_index
        Index into `optics`, `(n,)` int64.
    """

    optics: tuple[Optics, ...] = ()
    optics_index: np.ndarray = row()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optics_index is not None and len(self.optics_index):
            low, high = int(np.min(self.optics_index)), int(np.max(self.optics_index))
            if low < 0 or high >= len(self.optics):
                raise ValueError(f"optics_index: expected 0..{len(self.optics) - 1}, got {low}..{high}")

    def per_row(self, name: str) -> np.ndarray:
        """A field of `Optics` spread over the rows, `(n, ...)`."""
        return np.asarray([getattr(group, name) for group in self.optics])[self.optics_index]


@dataclass(frozen=True, kw_only=True)
class MovieSet(OpticsTable):
    """Movies as they come from the camera. `optics.pixel_size` is that of the frames.

    Attributes
    ----------
    path
        `(n,)` str.
    dose_per_frame
        e-/Å2 per frame (per group of frames for EER after grouping), `(n,)`.
    pre_exposure
        e-/Å2 before the first frame, `(n,)`.
    gain_path
        Gain reference of all movies, or None.
    defect_path
        Defect map or list, or None.
    """

    path: np.ndarray = row(required=True)
    dose_per_frame: np.ndarray | None = row()
    pre_exposure: np.ndarray | None = row()
    gain_path: Path | None = None
    defect_path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class MicrographSet(OpticsTable):
    """Micrographs: aligned sums, and what is known of each.

    Attributes
    ----------
    path
        Image file, `(n,)` str.
    path_even, path_odd, path_undosed
        Sums of even and odd frames, and the sum without dose weighting, `(n,)` str.
    movie_path, motion_path
        The movie, and its motion STAR file, `(n,)` str.
    motion_total, motion_early, motion_late
        Length of the path of the content in Å, `(n,)`.
    dose
        Total dose in e-/Å2, `(n,)`.
    defocus_u, defocus_v
        Å, underfocus positive, `(n,)`.
    defocus_angle, phase_shift
        Radians, `(n,)`.
    defocus_error
        Standard error of the mean defocus in Å, `(n,)`.
    ctf_score
        Correlation of the spectrum with its fit, `(n,)`.
    ctf_resolution
        Å to which the rings are fitted, `(n,)`.
    ctf_image
        File with the rings beside their fit, `(n,)` str.
    defocus_map
        File with the defocus of each place, `(n,)` str; empty where there is none.
    """

    path: np.ndarray = row(required=True)
    path_even: np.ndarray | None = row()
    path_odd: np.ndarray | None = row()
    path_undosed: np.ndarray | None = row()
    movie_path: np.ndarray | None = row()
    motion_path: np.ndarray | None = row()
    motion_total: np.ndarray | None = row()
    motion_early: np.ndarray | None = row()
    motion_late: np.ndarray | None = row()
    dose: np.ndarray | None = row()
    defocus_u: np.ndarray | None = row()
    defocus_v: np.ndarray | None = row()
    defocus_angle: np.ndarray | None = row()
    phase_shift: np.ndarray | None = row()
    defocus_error: np.ndarray | None = row()
    ctf_score: np.ndarray | None = row()
    ctf_resolution: np.ndarray | None = row()
    ctf_image: np.ndarray | None = row()
    defocus_map: np.ndarray | None = row()


@dataclass(frozen=True, kw_only=True)
class PickSet(RowTable):
    """Positions of particles on micrographs.

    Attributes
    ----------
    micrograph
        Image file of the micrograph of each pick, `(n,)` str, as in `MicrographSet.path`.
    position_px
        Centre, pixels yx of the micrograph, `(n, 2)` float64.
    score
        Figure of merit, larger is better, `(n,)`.
    probability
        Calibrated probability that this is a particle, `(n,)`.
    psi
        In-plane angle of the template that matched best, radians, `(n,)`.
    class_number
        Class or template, from 1, `(n,)`.
    diameter
        Diameter in Å that the picker found or was given, or None.
    micrographs
        All micrographs that were searched, also those without a pick, `tuple` of str.
    """

    position_px: np.ndarray = row(required=True)
    micrograph: np.ndarray = row()
    score: np.ndarray | None = row()
    probability: np.ndarray | None = row()
    psi: np.ndarray | None = row()
    class_number: np.ndarray | None = row()
    diameter: float | None = None
    micrographs: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ParticleSet(OpticsTable):
    """Particle images and what is known of each. `optics.pixel_size` and `optics.box` are the images'.

    Attributes
    ----------
    image_path, image_index
        Stack file `(n,)` str and slice in it from 0 `(n,)` int64.
    micrograph
        Micrograph file, `(n,)` str.
    position_px
        Where the box was centred, pixels yx of the micrograph, `(n, 2)`.
    defocus_u, defocus_v, defocus_angle, phase_shift
        CTF, Å and radians, `(n,)`.
    ctf_bfactor, ctf_scale
        Envelope `exp(-B k^2 / 4)` in Å2, and scale of the CTF, `(n,)`.
    rotation
        `R` of `style.md`: image-frame vectors to volume-frame vectors, `(n, 3, 3)`.
    shift
        Where the projected centre sits, Å, yx, `(n, 2)`.
    psi
        In-plane angle for 2D classes, radians: the class average is turned by `psi` (as `Rz(psi)`) and
        moved by `shift` to give the image, `(n,)`.
    class_number
        From 1, `(n,)` int64; 0 means none.
    half
        1 or 2, `(n,)` int64.
    scale
        Grey-scale factor, mean 1 per optics group, `(n,)`.
    log_likelihood
        Log-likelihood that the best pose gains over no particle, `(n,)`.
    posterior_max
        Largest posterior probability, `(n,)`.
    n_significant
        Effective number of poses, `(n,)`.
    pose_error
        Standard error of the pose in radians (root of the trace of the posterior covariance), `(n,)`.
    shift_error
        Standard error of the shift in Å, `(n,)`.
    pose_radius, shift_radius
        The truth lies within this angle (radians) and distance (Å) of pose and shift with 95 %, `(n,)`.
    reliability
        Probability that the pose is right, `(n,)`.
    pick_score, junk_score
        Figure of merit of the pick; probability of being junk, `(n,)`.
    """

    image_path: np.ndarray = row(required=True)
    image_index: np.ndarray = row(required=True)
    micrograph: np.ndarray | None = row()
    position_px: np.ndarray | None = row()
    defocus_u: np.ndarray | None = row()
    defocus_v: np.ndarray | None = row()
    defocus_angle: np.ndarray | None = row()
    phase_shift: np.ndarray | None = row()
    ctf_bfactor: np.ndarray | None = row()
    ctf_scale: np.ndarray | None = row()
    rotation: np.ndarray | None = row()
    shift: np.ndarray | None = row()
    psi: np.ndarray | None = row()
    class_number: np.ndarray | None = row()
    half: np.ndarray | None = row()
    scale: np.ndarray | None = row()
    log_likelihood: np.ndarray | None = row()
    posterior_max: np.ndarray | None = row()
    n_significant: np.ndarray | None = row()
    pose_error: np.ndarray | None = row()
    shift_error: np.ndarray | None = row()
    pose_radius: np.ndarray | None = row()
    shift_radius: np.ndarray | None = row()
    reliability: np.ndarray | None = row()
    pick_score: np.ndarray | None = row()
    junk_score: np.ndarray | None = row()

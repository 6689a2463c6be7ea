"""One movie corrected: defects, motion, dose-weighted sum, from frames in memory to images."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier.resize import crop_dft
from cryoloom.fourier.transform import irfftn
from cryoloom.motion.dose_basis import dose_basis, plain_basis
from cryoloom.motion.estimate import MotionEstimate
from cryoloom.motion.field import MotionField
from cryoloom.motion.frames import Frames
from cryoloom.motion.summation import flatten_response, sum_frames, sum_frames_torch
from cryoloom.optics.dose import frame_doses


@dataclass(frozen=True)
class CorrectedSums:
    """Sums of the frames of one movie, `(h, w)` float32 each.

    Attributes
    ----------
    micrograph
        The sum, dose-weighted if a dose was given.
    odd, even
        Sums of frames 1, 3, 5, ... and 2, 4, 6, ... with the same weights; they add up to `micrograph`. Or None.
    undosed
        The sum without dose weighting, or None.
    """

    micrograph: np.ndarray
    odd: np.ndarray | None = None
    even: np.ndarray | None = None
    undosed: np.ndarray | None = None


def sum_movie(
    frames: Frames,
    field: MotionField,
    pixel_size: float,
    *,
    dose_per_frame: float | None = None,
    pre_exposure: float = 0.0,
    voltage_kv: float = 300.0,
    even_odd: bool = False,
    undosed: bool = False,
    output_shape: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> CorrectedSums:
    """Move frames back along `field`, weight them by dose, and add them.

    Parameters
    ----------
    dose_per_frame
        e-/Å2, or None for no dose weighting.
    even_odd, undosed
        Which further sums to make.
    output_shape
        Rows and columns of the results (Fourier cropping), or None for those of the frames.
    """
    n, shape = frames.n_frames, frames.shape
    basis = plain_basis(n)
    if dose_per_frame is not None:
        basis = dose_basis(frame_doses(n, dose_per_frame, pre_exposure).numpy(), pixel_size, voltage_kv)
    n_groups = 2 if even_odd else 1
    if torch.device(device).type == "cpu":
        sums = torch.from_numpy(sum_frames(frames, field, basis.coefficients, n_groups))
    else:
        sums = sum_frames_torch(frames, field, basis.coefficients, n_groups, device)
    target = output_shape or shape
    parts, plain_dft = [], None
    for group in sums:
        weighted, unweighted = basis.weighted_sum(group, pixel_size)
        parts.append(_finish(weighted, field, shape, target))
        if undosed and dose_per_frame is not None:  # the first sum has weight one
            plain_dft = unweighted if plain_dft is None else plain_dft + unweighted
    plain = None if plain_dft is None else _finish(plain_dft, field, shape, target)
    if not even_odd:
        return CorrectedSums(parts[0], undosed=plain)
    return CorrectedSums(parts[0] + parts[1], odd=parts[0], even=parts[1], undosed=plain)


def _finish(dft: Tensor, field: MotionField, shape: tuple[int, int], target: tuple[int, int]) -> np.ndarray:
    """Filter response flattened, cropped, back to an image; pixel values keep their scale."""
    dft = flatten_response(dft, field, shape)
    if target != shape:
        # the phase origin is the first pixel, so pixel i of the result lies on pixel i * binning of the frames
        dft = crop_dft(dft, shape, target) * (target[0] * target[1] / (shape[0] * shape[1]))
    return irfftn(dft, target).cpu().numpy()


def accumulated_motion(trajectory: np.ndarray, dose_per_frame: float, early_dose: float = 4.0) -> dict[str, float]:
    """Length of the path of the whole frame in Å: in all, in the first `early_dose` e-/Å2, and later.

    Parameters
    ----------
    trajectory
        `(t, 2)` in Å.
    """
    steps = np.linalg.norm(np.diff(trajectory, axis=0), axis=1)
    n_early = int(np.floor(early_dose / max(dose_per_frame, 1e-9)))
    early, late = float(steps[:n_early].sum()), float(steps[n_early:].sum())
    return {"total": early + late, "early": early, "late": late}


def local_motion_rms(estimate: MotionEstimate, pixel_size: float) -> float:
    """Root mean square of local motion over the frame in the last frame, Å."""
    field = estimate.field
    if field.degree == 0:
        return 0.0
    h, w = field.shape
    y, x = np.meshgrid(np.linspace(0, h - 1, 9), np.linspace(0, w - 1, 9), indexing="ij")
    local = field.at(np.stack([y, x], -1).reshape(-1, 2))[:, -1] - field.trajectory_px[-1]
    return float(np.sqrt((local**2).sum(-1).mean()) * pixel_size)

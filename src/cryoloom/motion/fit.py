"""Fit of the motion field to tile spectra: Gauss–Newton steps on the joint likelihood of all tiles and frames.

Each step measures the slope of the likelihood at the present field, and the signal in each shell and tile, and solves
for all modes and frames at once. While the field is still wrong the high frequencies of the sum cancel, so their
measured signal, and with it their weight, is small: the fit goes from coarse to fine by itself.

Two things would make the fit more certain than it may be, and are taken off. Coefficients of tiles that fade and
overlap are not independent, so likelihood, slope and information are divided by what that adds to the variance of their
sums (`TileSpectra.alike`). And at the field that was fitted aligned noise adds to the signal of each shell: by
`tr(I_s C) / w` on both axes together, `I_s` the shell's information and `C` the covariance of one axis.
"""

from dataclasses import dataclass

import numpy as np

from cryoloom.motion.field import MotionField, mode_values
from cryoloom.motion.likelihood import (
    gradient,
    information,
    likelihood_weight,
    measure_ssnr,
    pair_laplacian,
)
from cryoloom.motion.prior import motion_prior, solve_motion
from cryoloom.motion.tiles import TileSpectra, pattern_phase


@dataclass(frozen=True)
class FieldFit:
    """Result of `fit_field`.

    Attributes
    ----------
    field
        The field in pixels of the frames that were cut.
    ssnr
        Signal over noise of one frame per shell, `(n_shells,)`.
    tile_scale
        Signal of each tile relative to the mean, `(j,)`.
    step_rms_px
        Size of the last step, per iteration.
    step_variance_px2
        Step variance per degree that the data preferred.
    excess
        What the power of the aligned sum has beyond that of noise, per shell of all tiles, `(n_shells,)`.
    """

    field: MotionField
    ssnr: np.ndarray
    tile_scale: np.ndarray
    step_rms_px: list[float]
    step_variance_px2: np.ndarray
    excess: np.ndarray


def fit_field(
    spectra: TileSpectra,
    shape: tuple[int, int],
    *,
    degree: int,
    initial: MotionField,
    ssnr: np.ndarray,
    dose_per_frame: float = 1.0,
    pair_weight: np.ndarray | None = None,
    max_iterations: int = 10,
    tolerance_px: float = 0.02,
    regularised: bool = True,
) -> FieldFit:
    """Fit a field of `degree` to the tiles.

    Parameters
    ----------
    shape
        Rows and columns of the frames that were cut.
    initial
        Field to start from, of any degree up to `degree`.
    ssnr
        Signal over noise of one frame per shell to start from, `(n_shells,)`.
    pair_weight
        Weight of each pair of frames, `(t, t)`, or None for ones.
    regularised
        False leaves the prior away: the most likely field of the same bases, for comparison.
    """
    n_tiles, n_frames = spectra.n_tiles, spectra.n_frames
    values = mode_values(spectra.centre_px, shape, degree)  # (j, m)
    n_modes = values.shape[1]
    modes = np.zeros((n_modes, n_frames, 2))
    modes[: len(initial.modes_px)] = initial.modes_px
    prior = motion_prior(n_frames, degree, dose_per_frame)
    variance = np.full(degree + 1, 0.02)
    variance[0] = max(0.05, float(np.mean(np.diff(modes[0], axis=0) ** 2)))
    if not regularised:
        variance[:] = 1e4  # px²: says nothing
    laplacian = pair_laplacian(n_frames, pair_weight)
    scale = np.ones(n_tiles)
    counts = np.maximum(spectra.shell_counts(), 1e-9)
    shell_k2 = spectra.shell_sums(0.5 * (spectra.ky_per_px[:, None] ** 2 + spectra.kx_per_px**2))
    effective = np.full(spectra.n_shells, float(n_frames))
    covariance = np.zeros((n_modes * n_frames,) * 2)
    fitted_noise = np.zeros((n_tiles, spectra.n_shells))
    steps: list[float] = []
    signal = np.zeros(spectra.n_shells)
    for iteration in range(max_iterations):
        residual = np.einsum("jm,mtc->jtc", values, modes) - spectra.offset_px
        excess = np.zeros((n_tiles, spectra.n_shells))
        lost = np.zeros(spectra.n_shells)
        system = np.zeros((n_modes, n_modes))
        score = np.zeros((n_modes, n_frames, 2))
        for j in range(n_tiles):
            curve = likelihood_weight(scale[j] * ssnr, effective)
            weight = spectra.spread(curve)
            slope, total = gradient(spectra, spectra.dft[j], residual[j], weight, pair_weight)
            excess[j] = spectra.shell_sums(total.real**2 + total.imag**2) - spectra.power[j]
            if spectra.pattern:  # products of the noise that went with the pattern
                phase = spectra.pattern**0.5 * pattern_phase(spectra, j)
                gain = weight * (1 + spectra.spread(scale[j] * ssnr * effective))
                missing, total = gradient(spectra, phase, residual[j], gain, pair_weight)
                slope += missing
                shared = spectra.shell_sums(total.real**2 + total.imag**2)
                excess[j] += shared - spectra.pattern * n_frames * counts
                lost += shared / (counts * n_tiles)
            h = information(curve, scale[j] * ssnr * effective / n_frames, shell_k2)
            system += h * np.outer(values[j], values[j])
            score += values[j][:, None, None] * slope
        excess -= fitted_noise
        full = np.kron(system, laplacian) / spectra.alike
        flat = modes.reshape(n_modes * n_frames, 2)
        proposed, covariance, variance = solve_motion(
            prior, full, score.reshape(-1, 2) / spectra.alike + full @ flat, variance, n_updates=4 if regularised else 0
        )
        moved = np.einsum("jm,mtc->jtc", values, proposed - modes)
        moved -= moved.mean(1, keepdims=True)
        steps.append(float(np.sqrt(np.mean(moved**2))))
        modes = proposed
        effective = np.maximum(n_frames - lost, 0.05 * n_frames)
        n_pairs = effective**2 - n_frames + 2 * lost - spectra.pattern * n_frames * lost
        n_pairs = np.maximum(n_pairs, 0.02 * n_frames * (n_frames - 1))
        signal = excess.sum(0)
        ssnr = measure_ssnr(spectra, signal, n_pairs)
        scale = _tile_scales(excess, likelihood_weight(ssnr, effective), ssnr * n_pairs * counts, counts, n_frames)
        fitted_noise = _fitted_noise(values, scale, ssnr, shell_k2, laplacian, covariance)
        if steps[-1] < tolerance_px and iteration >= 2:
            break
    return FieldFit(MotionField(modes, shape, degree, covariance), ssnr, scale, steps, variance, signal)


def _fitted_noise(
    values: np.ndarray,
    scale: np.ndarray,
    ssnr: np.ndarray,
    shell_k2: np.ndarray,
    laplacian: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray:
    """What the noise adds to the excess power of the aligned sums because the field was fitted to it, `(j, n_shells)`.

    `tr(I_s C) / w` with the information `I_s = 2 w p Σ (2πk)² (v vᵀ) ⊗ laplacian` of a shell of a tile.
    """
    n_modes, n_frames = values.shape[1], len(laplacian)
    blocks = covariance.reshape(n_modes, n_frames, n_modes, n_frames)
    spread = np.einsum("atbu,tu->ab", blocks, laplacian, optimize=True)
    of_tile = scale * np.einsum("ja,ab,jb->j", values, spread, values, optimize=True)
    return np.asarray(np.outer(of_tile, 2 * (2 * np.pi) ** 2 * ssnr * shell_k2))


def _tile_scales(
    excess: np.ndarray, weight: np.ndarray, mean_excess: np.ndarray, counts: np.ndarray, n_frames: int
) -> np.ndarray:
    """Signal of each tile over the mean signal, from the excess power of its aligned sum `(j, n_shells)`."""
    expected = float((weight * mean_excess).sum())
    if expected <= 0:
        return np.ones(len(excess))
    scale = (excess @ weight) / expected
    error = np.sqrt((weight**2 * counts).sum()) * n_frames / expected
    shrunk = 1 + (scale - 1) / (1 + error**2)
    return np.clip(shrunk, 0.02, 8.0)

"""What is reported as resolution is the resolution: under tight masks, preferred views and over-fitting.

The truth that a case is held against is the first crossing of one noisy curve, FSC(full map, truth), which scatters
about the crossing of its expectation; no estimate from the halves knows that scatter. And the halves know the expected
crossing only with the error that Cramér and Rao allow. The bound of the data (rule 5) is the 95th percentile of both
together: what exact knowledge of the expected FSC would miss in each case, and that error, normally distributed. The
expected FSC follows from the true signal and the level of the noise where these are known, else (over-fitted maps) from
a smooth curve laid through FSC(full map, truth) itself, which follows part of the scatter, so that the bound is too low
rather than too high.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from cryoloom.compute.executor import ThreadExecutor
from cryoloom.em import refine_poses
from cryoloom.fourier import irfftn, rfftn, shell_mean
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry import axis_angle_to_matrix
from cryoloom.maps import (
    apply_bfactor,
    crossing_shell,
    fourier_shell_correlation,
    lowpass,
    resolution_at,
    soft_mask_from_map,
)
from cryoloom.maps.freedom import fsc_noise_covariance
from cryoloom.maps.global_resolution import measure_global_resolution
from cryoloom.maps.interval import least_error, locate_crossing
from cryoloom.maps.spectrum import radial_power
from cryoloom.validation.held_out import fit_grey_scale
from cryoloom.validation.posed import reconstruct

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "validation"))
from phantoms import noise_for, protein_like
from validation_bed import make_bed

BOX, PIXEL = 88, 1.5


def particle(seed: int, rng: np.random.Generator):
    """A particle with a B-factor, its soft mask, and the noise that brings halves to a resolution."""
    signal = apply_bfactor(protein_like(BOX, PIXEL, rng.uniform(30, 40), seed), PIXEL, rng.uniform(60, 180))
    mask = soft_mask_from_map(signal, PIXEL)
    return signal, mask, noise_for(signal, mask, PIXEL, rng.uniform(3.8, 7.5))


def deviation(half1, half2, truth, mask, pixel_size, given=None, noise=None) -> tuple[float, float, float]:
    """Reported over true resolution minus 1, the same with exact knowledge of the expected FSC, and the least error.

    `noise` is the expected power per shell of the noise of a half map without a mask.
    """
    found = measure_global_resolution(half1, half2, pixel_size, given_mask=given)
    fsc = fourier_shell_correlation(0.5 * (half1 + half2) * mask, truth * mask).numpy()
    field = truth.shape[0] * pixel_size
    true = field / resolution_at(fsc, 0.5, truth.shape[0], pixel_size)  # shell
    if noise is None:
        # of halves that would give this curve; at 0.5 its variance is a quarter of that of a half-map FSC at 1/7
        covariance = 0.25 * fsc_noise_covariance(tuple(mask.shape), mask)
        known = locate_crossing(fsc**2 / (2 - fsc**2), covariance, 1 / 7).shell
    else:
        signal = radial_power(truth * mask).numpy()
        known = crossing_shell(signal / (signal + noise * float((mask**2).mean())), 1 / 7)
    error = least_error(found.curves.corrected, found.covariance) / found.crossing.shell
    return found.resolution * true / field - 1, true / known - 1, error


def tight_mask(seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng([1, seed])
    signal, mask, sigma = particle(seed, rng)
    generator = torch.Generator().manual_seed(seed)
    halves = [signal + sigma * torch.randn(signal.shape, generator=generator) for _ in range(2)]
    low = lowpass(signal, PIXEL, 8.0)
    tight = (low > rng.uniform(0.1, 0.25) * low.max()).float()
    noise = np.full(BOX // 2 + 1, sigma**2 * BOX**3)
    return deviation(*halves, signal, mask, PIXEL, given=tight, noise=noise)


def preferred_views(seed: int) -> tuple[float, float, float]:
    """Noise that is stronger along directions which few views sample: power 1 / (1 + c (cos² - 1/3))."""
    rng = np.random.default_rng([2, seed])
    signal, mask, sigma = particle(seed, rng)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    kz, ky = (torch.fft.fftfreq(BOX).reshape(s) for s in ((-1, 1, 1), (1, -1, 1)))
    kx = torch.fft.rfftfreq(BOX)
    norm = (kz**2 + ky**2 + kx**2).sqrt().clamp_min(1e-9)
    cosine = (kx * axis[0] + ky * axis[1] + kz * axis[2]) / norm
    power = 1 / (1 + rng.uniform(-0.9, 2.0) * (cosine**2 - 1 / 3)).clamp_min(0.2)
    generator = torch.Generator().manual_seed(seed)
    noise = [
        irfftn(rfftn(torch.randn(signal.shape, generator=generator), 3) * power.sqrt(), signal.shape) for _ in "12"
    ]
    expected = shell_mean(power, signal.shape).numpy() * sigma**2 * BOX**3
    return deviation(*(signal + sigma * n for n in noise), signal, mask, PIXEL, noise=expected)


def over_fitted(seed: int) -> tuple[float, float, float]:
    """Halves whose particles were aligned, round after round, to all the noise of their own unfiltered map."""
    executor, rng = ThreadExecutor(1), np.random.default_rng([3, seed])
    bed = make_bed(500, seed=seed, snr=float(rng.uniform(0.05, 0.2)), box=64, pixel_size=3.2)
    posed = bed.posed()
    every, last = np.ones(len(bed.images), np.int64), posed.source.points.radius
    halves = []
    for half in (1, 2):
        poses = posed.of_half(half)
        turn = torch.from_numpy(np.deg2rad(rng.uniform(1, 4)) * rng.normal(size=(len(poses), 3)))
        poses = replace(poses, rotation=poses.rotation @ axis_angle_to_matrix(turn).numpy())
        for _ in range(2):
            volume = reconstruct(posed, poses, executor)
            reference = prepare_volume(volume * fit_grey_scale(posed, volume, poses, executor, last // 2), last)
            poses = refine_poses(posed.source, [reference], every, poses, posed.noise, executor, radius=last, n_steps=3)
        halves.append(reconstruct(posed, poses, executor))
    truth = torch.from_numpy(bed.volume.data)
    return deviation(*halves, truth, soft_mask_from_map(truth, 3.2), 3.2)


def bound_of(cases) -> float:
    """95th percentile of the error of an estimate that is as good as the halves allow."""
    known, error = (np.array([c[key] for c in cases]) for key in ("known", "error"))
    return float(np.quantile(np.abs(known[:, None] + error[:, None] * norm.ppf((np.arange(99) + 0.5) / 99)), 0.95))


KINDS = {"tight mask": tight_mask, "preferred views": preferred_views, "over-fitted": over_fitted}
N_EACH = 100


@pytest.mark.slow
@pytest.mark.capability("RSL-6")
def test_the_reported_resolution_is_true(measure, evidence):
    i, n = evidence.shard
    done = {(c["kind"], c["seed"]) for c in evidence.cases()}
    wanted = [(kind, seed) for seed in range(N_EACH) for kind in KINDS]
    for kind, seed in wanted[i - 1 :: n]:
        if (kind, seed) not in done:
            value, known, error = (round(x, 5) for x in KINDS[kind](seed))
            evidence.append(seed=seed, kind=kind, outcome="measured", value=value, known=known, error=error)
    cases = evidence.cases()
    bound = bound_of(cases)
    allowed = 0.05 if bound <= 0.05 else 1.3 * bound
    quantile = float(np.quantile([abs(c["value"]) for c in cases], 0.95))
    by_kind = {k: np.quantile([abs(c["value"]) for c in cases if c["kind"] == k] or [np.nan], 0.95) for k in KINDS}
    said = ", ".join(f"{k} {100 * v:.1f} %" for k, v in by_kind.items())
    note = f"{len(cases)} of 300 cases; {said}"
    if allowed > 0.05:
        note += "; 5 % is beyond the bound, so 1.3 times the bound is asked (rule 5)"
    measure(round(100 * quantile, 2), "% (95th percentile)", "<= 5", bound=round(100 * bound, 2), note=note)
    assert len(cases) >= 3 * N_EACH and quantile <= allowed

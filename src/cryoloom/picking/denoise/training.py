"""Training on pairs of halves: one is shown, the other is asked for.

The noise of the half that is asked for is independent of the one that is shown, so the answer of least squared error
to it is that to the picture itself (Noise2Noise, Lehtinen et al. 2018, arXiv:1803.04189; for micrographs Bepler et al.
2020, doi:10.1038/s41467-020-18952-1). A strip of each micrograph is kept back. On it the same argument tells without
truth how far the denoised half is from the picture, and whether the network is better than the filter it began with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import InputError
from cryoloom.picking.denoise.halves import HalfPair
from cryoloom.picking.denoise.network import DenoiserNetwork, denoise_half
from cryoloom.picking.networks import descend

CROP = 96
"""Pixels of a small image."""
_KEPT_BACK = 0.15  # share of the rows of each micrograph
_RATE, _DECAY = 3e-3, 1e-3
_BATCH = 8


@dataclass(frozen=True)
class Held:
    """What the strips that were kept back say.

    Attributes
    ----------
    gain
        Squared error of the filtered half less that of the denoised one, in units of the noise of a half.
    error
        Standard error of it.
    snr_before, snr_after
        Variance of the picture over what is not picture: in a half, and in the denoised half.
    snr_filtered
        In the filtered half.
    """

    gain: float
    error: float
    snr_before: float
    snr_after: float
    snr_filtered: float

    @property
    def better(self) -> bool:
        """Whether the network is better than the filter beyond doubt."""
        return self.gain > 2 * self.error


def train_denoiser(
    pairs: Sequence[HalfPair],
    *,
    steps: int,
    seed: int,
    device: str = "cpu",
    advance: Callable[[], None] = lambda: None,
) -> tuple[DenoiserNetwork, np.ndarray]:
    """Train a network on halves of micrographs.

    Parameters
    ----------
    pairs
        Of at least one micrograph.
    steps
        Number of steps.
    seed
        Equal seeds give equal networks on one kind of device.
    device
        Of the training.
    advance
        Called after each step.

    Returns
    -------
    network
        On the CPU.
    losses
        Of each step, `(steps,)`.

    Raises
    ------
    InputError
        If a micrograph is smaller than a small image at the working resolution.
    """
    if min(min(pair.halves.shape[1:]) for pair in pairs) * (1 - _KEPT_BACK) < CROP:
        raise InputError(f"micrographs of fewer than {CROP} pixels at the working resolution; ask for a finer one.")
    rng = np.random.default_rng(seed)
    network = DenoiserNetwork()
    network.initialise(torch.Generator().manual_seed(seed))
    network.to(device)

    def loss() -> Tensor:
        shown, filtered, asked = (part.to(device) for part in _batch(pairs, rng))
        return (network(shown, filtered) - asked).square().mean()

    losses = descend(network, loss, steps, rate=_RATE, decay=_DECAY, advance=advance)
    return network.eval().cpu(), losses


def judge_denoiser(network: DenoiserNetwork, pairs: Sequence[HalfPair]) -> Held:
    """What the strips that were kept back from the training say of a network on the CPU."""
    gains, products = [], []
    for pair in pairs:
        first = _first_kept_back(pair)
        for shown, asked in ((0, 1), (1, 0)):
            half, filtered = pair.halves[shown, first:], pair.filtered[shown, first:]
            denoised, target = denoise_half(network, half, filtered), pair.halves[asked, first:]
            difference = (filtered - target).square() - (denoised - target).square()
            gains.append(torch.nn.functional.avg_pool2d(difference[None], CROP // 4)[0].reshape(-1))
            products.append([_covariance(a, b) for a, b in ((half, target), (filtered, target), (denoised, target))]
                            + [float(a.var()) for a in (half, filtered, denoised)])  # fmt: skip
    blocks = torch.cat(gains).double()
    joint = np.mean(products, axis=0)
    picture = max(joint[0], 1e-12)  # variance of the picture: what both halves share
    # of the part of the variance of `x` that the picture explains, the half that was not shown tells the root
    shares = [min(max(joint[i], 0.0) ** 2 / (picture * joint[3 + i]), 1 - 1e-9) for i in range(3)]
    before, linear, after = (share / (1 - share) for share in shares)
    error = float(blocks.std() / max(len(blocks), 2) ** 0.5)
    return Held(float(blocks.mean()), error, before, after, linear)


def _batch(pairs: Sequence[HalfPair], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Small images of what is shown, the same filtered, and what is asked for, `(b, CROP, CROP)` each."""
    parts = []
    for _ in range(_BATCH):
        pair = pairs[int(rng.integers(len(pairs)))]
        y = int(rng.integers(_first_kept_back(pair) - CROP + 1))
        x = int(rng.integers(pair.halves.shape[2] - CROP + 1))
        shown = int(rng.integers(2))
        where = (slice(y, y + CROP), slice(x, x + CROP))
        cut = torch.stack([pair.halves[shown][where], pair.filtered[shown][where], pair.halves[1 - shown][where]])
        if rng.random() < 0.5:
            cut = cut.flip(-1)
        parts.append(torch.rot90(cut, int(rng.integers(4)), (-2, -1)))
    shown_, filtered, asked = torch.stack(parts, 1)
    return shown_, filtered, asked


def _first_kept_back(pair: HalfPair) -> int:
    return int(pair.halves.shape[1] * (1 - _KEPT_BACK))


def _covariance(a: Tensor, b: Tensor) -> float:
    return float(((a - a.mean()) * (b - b.mean())).mean())

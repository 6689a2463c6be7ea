"""FSC of two half maps behind a mask, corrected for what the mask itself brings in.

Chen et al. 2013 (doi:10.1016/j.ultramic.2013.06.004): phases beyond some shell are replaced by random ones in each
half, so whatever correlation is left behind the mask there (`FSC_n`) comes from the mask; the signal's is
`(FSC_t - FSC_n) / (1 - FSC_n)`. No phases are drawn: what is expected of random ones follows from the
amplitudes. Random parts of the two halves share nothing, so all they share behind the mask is what it spreads of the
shells below, and their power behind it is their power spectrum spread by the mask's. So chance does not enter `FSC_n`.

Nearly all that a mask brings in is strong low-resolution signal that it spreads over weak outer shells. Both halves are
therefore divided by their common radial amplitude before they are masked (filter, then mask: the idea of Penczek 2020,
doi:10.1107/S2052252520011574). The FSC of the signal does not depend on such a filter; the correction becomes small.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import irfftn, rfftn, shell_index, shell_sum
from cryoloom.maps.filter import filter_map, shell_gain
from cryoloom.maps.freedom import fsc_noise_covariance
from cryoloom.maps.fsc import cross_and_powers, fourier_shell_correlation
from cryoloom.maps.spectrum import radial_power


@dataclass(frozen=True)
class CorrectedFsc:
    """FSC curves of two half maps, one value per shell from shell 0, each `(n,)` float64.

    Attributes
    ----------
    unmasked, masked
        Of the maps as they are, and as they are behind the mask.
    masked_flat, phase_randomised
        Behind the mask after their radial amplitudes were made flat, and what is expected of it with random phases.
    corrected
        `(masked_flat - phase_randomised) / (1 - phase_randomised)`; below `correct_shell` it is `masked_flat`.
    covariance
        Of the noise of `corrected` where the signal is weak, `(n, n)`.
    randomise_shell
        First shell whose phases were randomised.
    correct_shell
        First shell to which the correction was applied: further out by the reach of the mask's transform.
    """

    unmasked: np.ndarray
    masked: np.ndarray
    masked_flat: np.ndarray
    phase_randomised: np.ndarray
    corrected: np.ndarray
    covariance: np.ndarray
    randomise_shell: int
    correct_shell: int

    @property
    def effective_counts(self) -> np.ndarray:
        """Effective number of voxels of each full shell, `(n,)`."""
        return 1.0 / np.diag(self.covariance)


def corrected_fsc(
    half1: Tensor,
    half2: Tensor,
    mask: Tensor,
    *,
    randomise_below: float = 0.8,
) -> CorrectedFsc:
    """Mask-corrected FSC of half maps `(d, h, w)`.

    Parameters
    ----------
    half1, half2, mask
        `(d, h, w)`; the mask in [0, 1].
    randomise_below
        Phases are randomised from the shell at which the FSC without mask falls below this.
    """
    shape = tuple(half1.shape)
    unmasked = fourier_shell_correlation(half1, half2).cpu().numpy()
    masked = fourier_shell_correlation(half1 * mask, half2 * mask).cpu().numpy()
    flat1, flat2 = flatten_amplitudes(half1, half2)
    masked_flat = fourier_shell_correlation(flat1 * mask, flat2 * mask).cpu().numpy()
    n = len(unmasked)
    reach = mask_reach(mask)
    start = choose_randomisation_shell(unmasked, randomise_below)
    first = min(start + reach, n)
    randomised = expected_randomised_fsc(flat1, flat2, mask, start)
    corrected = masked_flat.copy()
    # A noise curve below 0 is chance; it must not raise the signal's.
    noise = np.clip(randomised[first:], 0.0, 0.999)
    corrected[first:] = (masked_flat[first:] - noise) / (1.0 - noise)
    gain = np.ones(n)
    gain[first:] = 1.0 / (1.0 - noise)
    covariance = fsc_noise_covariance(shape, mask)
    covariance = covariance * gain[:, None] * gain[None, :]
    return CorrectedFsc(
        unmasked=unmasked,
        masked=masked,
        masked_flat=masked_flat,
        phase_randomised=randomised,
        corrected=corrected,
        covariance=covariance,
        randomise_shell=start,
        correct_shell=first,
    )


def expected_randomised_fsc(half1: Tensor, half2: Tensor, mask: Tensor, from_shell: int) -> np.ndarray:
    """FSC expected of masked halves whose phases were random from a shell on, `(n,)`; halves `(d, h, w)`."""
    shape = tuple(half1.shape)
    below = shell_index(shape, device=half1.device) < from_shell
    spread = _autocorrelation(rfftn(mask.to(half1.dtype), 3), shape)
    kept, power = [], []
    for half in (half1, half2):
        dft = rfftn(half, 3)
        kept.append(rfftn(irfftn(dft * below, shape) * mask, 3))
        random = rfftn(_autocorrelation(dft * ~below, shape) * spread, 3).real / half.numel()
        power.append(shell_sum(random.clamp_min(0), shape) + cross_and_powers(kept[-1], kept[-1], shape)[1])
    shared = cross_and_powers(kept[0], kept[1], shape)[0]
    return (shared / (power[0] * power[1]).sqrt().clamp_min(1e-300)).cpu().numpy()


def flatten_amplitudes(half1: Tensor, half2: Tensor) -> tuple[Tensor, Tensor]:
    """Divide both halves by the root of their mean power per shell, smooth between shells; corners become 0."""
    power = 0.5 * (radial_power(half1) + radial_power(half2)).cpu()
    gain = torch.where(power > 1e-20 * power.max(), power.clamp_min(1e-300).rsqrt(), torch.zeros_like(power))
    # The mean level says nothing of structure, and flattened it would outweigh everything.
    gain[0] = gain[1] if len(gain) > 1 else gain[0]
    filter_gain = shell_gain(gain / gain.max(), tuple(half1.shape)).to(half1.device)
    return filter_map(half1, filter_gain), filter_map(half2, filter_gain)


def choose_randomisation_shell(unmasked: np.ndarray, below: float = 0.8) -> int:
    """First shell from 2 on at which the FSC without mask falls below `below`; the last shell if it never does."""
    under = np.flatnonzero(unmasked[2:] < below)
    return int(under[0]) + 2 if len(under) else len(unmasked) - 1


def mask_reach(mask: Tensor) -> int:
    """Shells over which the mask's transform spreads signal: at least 2, and about the box over the mask's radius."""
    volume = float((mask.to(torch.float64) ** 2).sum())
    ndim = mask.ndim
    radius = (3 * volume / (4 * math.pi)) ** (1 / 3) if ndim == 3 else math.sqrt(volume / math.pi)
    return max(2, math.ceil(max(mask.shape) / max(2 * radius, 1.0)))


def _autocorrelation(dft: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Cyclic autocorrelation of the map that a half spectrum belongs to."""
    power = dft.real**2 + dft.imag**2
    return irfftn(power.to(dft.dtype), shape)

"""Exposure filter: how much of the signal at each frequency survives an accumulated dose.

The amplitude left after a dose `N` is `exp(-N / (2 Nc(k)))` with the critical dose
`Nc(k) = 0.245 k^-1.665 + 2.81` e-/Å2 measured at 300 kV (k in 1/Å), 0.8 times that at 200 kV
(Grant, Grigorieff 2015, doi:10.7554/eLife.06980). Frames filtered by it and added, divided by the root of the sum of
squares of their weights, give the best signal-to-noise ratio at each frequency with white noise kept white.
"""

import torch
from torch import Tensor


def critical_dose(k: Tensor, voltage_kv: float = 300.0) -> Tensor:
    """Critical dose in e-/Å2 at frequencies `k` in 1/Å; infinite at `k = 0`.

    Other voltages than 200 and 300 kV follow a straight line through those two, held between 100 and 300 kV.
    """
    scale = 0.8 + 0.002 * (min(max(voltage_kv, 100.0), 300.0) - 200.0)
    return scale * (0.245 * k.clamp_min(1e-12) ** -1.665 + 2.81)


def dose_weight(k: Tensor, dose: Tensor | float, voltage_kv: float = 300.0) -> Tensor:
    """Amplitude that survives an accumulated `dose`.

    Parameters
    ----------
    k
        Frequencies in 1/Å, any shape.
    dose
        e-/Å2, a number or `(*batch,)`.

    Returns
    -------
    weight
        `(*batch, *k.shape)` in (0, 1].
    """
    dose = torch.as_tensor(dose, dtype=k.dtype, device=k.device)
    return torch.exp(-0.5 * dose.reshape(*dose.shape, *[1] * k.ndim) / critical_dose(k, voltage_kv))


def frame_doses(n_frames: int, dose_per_frame: float, pre_exposure: float = 0.0) -> Tensor:
    """Accumulated dose at the end of each frame in e-/Å2, `(n_frames,)` float64, as in the paper."""
    return pre_exposure + dose_per_frame * torch.arange(1, n_frames + 1, dtype=torch.float64)

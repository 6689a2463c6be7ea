"""Where the engine works, and with numbers of which length."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Device and precision of the engine's sums.

    Attributes
    ----------
    device
        `"cpu"`, `"cuda:0"`, ...
    dtype
        float32, or float64 for checks of rounding.
    """

    device: str = "cpu"
    dtype: torch.dtype = torch.float32


def compiled(values: Tensor) -> bool:
    """Whether the compiled loops of `em/kernels.py` serve a spectrum: in single precision on the CPU.

    In all other places the plain torch of `em/tensor_kernels.py` does the same.
    """
    return values.device.type == "cpu" and values.dtype == torch.complex64

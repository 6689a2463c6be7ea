"""Where the engine works, and with numbers of which length."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Devices and precision of the engine's sums.

    Chunks of images go to the devices in turn, by their place in the set, and each device has references and sums of
    its own, which are added in the order of the devices.

    Attributes
    ----------
    devices
        `("cpu",)`, or GPUs: `("cuda:0",)`, `("cuda:0", "cuda:1")`, ...
    dtype
        float32, or float64 for checks of rounding.
    """

    devices: tuple[str, ...] = ("cpu",)
    dtype: torch.dtype = torch.float32

    @property
    def device(self) -> str:
        """The first of the devices."""
        return self.devices[0]

    def copies(self, value: T) -> list[T]:
        """A value that lies on the first device, on each of the devices in their order."""
        return [value, *(on_device(value, device) for device in self.devices[1:])]


def on_device(value: T, device: str) -> T:
    """A tensor, what has a method `on`, or nested sequences of them, on a device; equal ones are moved once."""
    moved: dict[int, Any] = {}

    def move(one: Any) -> Any:
        if isinstance(one, list | tuple):
            return type(one)(move(part) for part in one)
        if id(one) not in moved:
            moved[id(one)] = one.to(device) if isinstance(one, Tensor) else one.on(device)
        return moved[id(one)]

    return move(value)  # type: ignore[no-any-return]


def compiled(values: Tensor) -> bool:
    """Whether the compiled loops of `em/kernels.py` serve a spectrum: in single precision on the CPU.

    In all other places the plain torch of `em/tensor_kernels.py` does the same.
    """
    return values.device.type == "cpu" and values.dtype == torch.complex64

"""What the networks of this room share: first weights, training, steps up in resolution, weights as plain arrays."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PREFIX = "weights."
_WARM = 0.2  # share of the steps in which the rate rises


def initialise_layers(network: nn.Module, generator: torch.Generator) -> None:
    """Random weights from a CPU generator: He et al. 2015, doi:10.1109/ICCV.2015.123; no offsets."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                fan = layer.weight[0].numel()
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (2.0 / fan) ** 0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def descend(
    network: nn.Module,
    loss: Callable[[], Tensor],
    steps: int,
    *,
    rate: float,
    decay: float,
    advance: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Train a network with AdamW (Loshchilov, Hutter 2019, arXiv:1711.05101), its rate rising and falling once.

    Parameters
    ----------
    loss
        Draws a batch and gives its loss; called once per step.
    rate, decay
        Highest rate, and decay of the weights.
    advance
        Called after each step.

    Returns
    -------
    losses
        Of each step, `(steps,)`.
    """
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=_WARM)
    losses = np.zeros(steps)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        for step in range(steps):
            of_step = loss()
            optimiser.zero_grad()
            of_step.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses[step] = float(of_step.detach())
            advance()
    return losses


def grow(coarse: Tensor, factor: int) -> Tensor:
    """Repeat each pixel and smooth, `(b, c, h, w)` to `(b, c, h factor, w factor)`.

    Unlike that of interpolation, its gradient is a sum in a fixed order on all devices.
    """
    b, c, h, w = coarse.shape
    repeated = coarse[:, :, :, None, :, None].expand(b, c, h, factor, w, factor)
    repeated = repeated.reshape(b, c, h * factor, w * factor)
    half = factor // 2
    return nn.functional.avg_pool2d(repeated, 2 * half + 1, stride=1, padding=half, count_include_pad=False)


def weights_as_arrays(network: nn.Module) -> dict[str, Any]:
    """All weights, for a NumPy archive: reading one runs no code."""
    return {f"{_PREFIX}{name}": value.cpu().numpy() for name, value in network.state_dict().items()}


def take_weights(network: nn.Module, stored: Mapping[str, np.ndarray]) -> None:
    """Give a network the weights that `weights_as_arrays` made; other arrays are left alone.

    Raises
    ------
    RuntimeError
        If they do not fit.
    """
    names = [name for name in stored if name.startswith(_PREFIX)]
    network.load_state_dict({name.removeprefix(_PREFIX): torch.from_numpy(stored[name]) for name in names})

"""A compact convolutional network that adds to a linear filter what a linear filter cannot know.

It sees one half of an exposure and the same through its Wiener filter (`halves.py`), at four resolutions joined as in
a U-Net (Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28), and answers what has to be added to the filtered
half. Its last layer begins at zero, so the training begins at the best linear filter and can only go on from there.
There is no normalisation over the image and no bias towards any place, so moving the micrograph moves the answer.
"""

import torch
from torch import Tensor, nn

from cryoloom.picking.networks import grow, initialise_layers

WIDTHS = (12, 20, 28, 28)
_CHANNELS = 2
_SCALE = 4.0  # of the filtered half, which is far below its noise


class DenoiserNetwork(nn.Module):
    """Layers of the network; `widths` are the channels from the finest resolution to the coarsest."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.widths = tuple(int(n) for n in widths)
        before = (_CHANNELS, *self.widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(before, self.widths, strict=True))
        pairs = list(zip(self.widths[:-1], self.widths[1:], strict=True))
        self.up = nn.ModuleList(nn.Conv2d(fine + coarse, fine, 3, padding=1) for fine, coarse in pairs)
        self.last = nn.Conv2d(self.widths[0], 1, 1)

    @property
    def step(self) -> int:
        """Sides of the images must be multiples of this."""
        return 2 ** (len(self.widths) - 1)

    def forward(self, half: Tensor, filtered: Tensor) -> Tensor:
        """Denoised halves, `(b, h, w)` twice to `(b, h, w)`; sides are multiples of `step`."""
        level = torch.stack([half, _SCALE * filtered], dim=1)
        passed = []
        for number, layer in enumerate(self.down):
            level = nn.functional.silu(layer(level if number == 0 else nn.functional.avg_pool2d(level, 2)))
            passed.append(level)
        for number in reversed(range(len(self.up))):
            joined = torch.cat([passed[number], grow(level, 2)], dim=1)
            level = nn.functional.silu(self.up[number](joined))
        return filtered + self.last(level)[:, 0] / _SCALE

    def initialise(self, generator: torch.Generator) -> None:
        """Random weights, the last layer zero."""
        initialise_layers(self, generator)
        nn.init.zeros_(self.last.weight)


def denoise_half(network: DenoiserNetwork, half: Tensor, filtered: Tensor) -> Tensor:
    """One half of a whole micrograph, `(h, w)` twice to `(h, w)`."""
    h, w = half.shape
    sides = (0, -w % network.step, 0, -h % network.step)
    padded = nn.functional.pad(torch.stack([half, filtered])[None], sides, mode="replicate")[0]
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        return network(padded[None, 0], padded[None, 1])[0, :h, :w]

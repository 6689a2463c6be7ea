"""A compact fully convolutional network that turns a prepared micrograph into a map of how particle-like each place is.

Two channels go in. The first is the micrograph multiplied by its CTF and divided by the square root of its power
spectrum: what a linear filter with the density of the particle finds there is the matched filter of `matched.py`, so
the network need not know the defocus. The second is the flattened micrograph itself, in which aggregates, crystals and
carbon are seen. The network looks at the particle at half of the working resolution and at its surroundings, some
three particles wide, at an eighth of it. Like that of Topaz (Bepler et al. 2019, doi:10.1038/s41592-019-0575-8), it
has a few layers only, which are slid over the micrograph. All sums are made so that their order, and with it the
result, is the same in each run.
"""

import torch
from torch import Tensor, nn

from cryoloom.fourier import irfftn
from cryoloom.picking.networks import grow
from cryoloom.picking.prepare import Prepared

STRIDE = 2
"""Pixels of the prepared image per pixel of the network's answer."""
_CONTEXT = 4  # pixels of the answer per pixel of the surroundings
_LIMIT = 8.0  # standard deviations
_CHANNELS = 2


class PickerNetwork(nn.Module):
    """Layers of the network; `narrow` and `wide` are the numbers of channels at its two resolutions."""

    def __init__(self, narrow: int = 12, wide: int = 24) -> None:
        super().__init__()
        self.widths = (narrow, wide)
        self.first = nn.Conv2d(_CHANNELS, narrow, 7, padding=3)
        self.second = nn.Conv2d(narrow, wide, 5, padding=2)
        self.third = nn.Conv2d(wide, wide, 5, padding=2)
        self.around = nn.Conv2d(wide, wide, 3, padding=1)
        self.further = nn.Conv2d(wide, wide, 3, padding=2, dilation=2)
        self.join = nn.Conv2d(2 * wide, wide, 1)
        self.answer = nn.Conv2d(wide, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Log odds `(b, h / 2, w / 2)` of images `(b, 2, h, w)` whose sides are multiples of 8."""
        fine = nn.functional.silu(self.first(image))
        fine = nn.functional.silu(self.second(nn.functional.avg_pool2d(fine, STRIDE)))
        fine = nn.functional.silu(self.third(fine))
        coarse = nn.functional.silu(self.around(nn.functional.avg_pool2d(fine, _CONTEXT)))
        coarse = nn.functional.silu(self.further(coarse))
        both = torch.cat([fine, grow(coarse, _CONTEXT)], dim=1)
        return self.answer(nn.functional.silu(self.join(both)))[:, 0]


def network_input(prepared: Prepared) -> Tensor:
    """What the network sees of a micrograph, `(2, h, w)` float32; deviation 1 outside of what is excluded."""
    spectrum = prepared.spectrum
    h, w = spectrum.image_shape
    m = spectrum.margin_px
    matched = irfftn(spectrum.weighted * spectrum.ctf, spectrum.shape)[m : m + h, m : m + w]
    return torch.stack([_scaled(plane, prepared.excluded) for plane in (matched, prepared.flat)])


def answer_map(network: PickerNetwork, image: Tensor) -> Tensor:
    """Log odds at each pixel of a whole micrograph, `(2, h, w)` to `(h, w)`."""
    h, w = image.shape[-2:]
    step = STRIDE * _CONTEXT
    padded = nn.functional.pad(image[None], (0, -w % step, 0, -h % step), mode="replicate")
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        odds = network(padded)
        # a pixel of the answer stands for a block of pixels, whose centres interpolation keeps
        fine = nn.functional.interpolate(odds[:, None], scale_factor=STRIDE, mode="bicubic", align_corners=False)
    return fine[0, 0, :h, :w]


def _scaled(plane: Tensor, excluded: Tensor | None) -> Tensor:
    seen = plane if excluded is None or bool(excluded.all()) else plane[~excluded]
    deviation = 1.4826 * (seen - seen.median()).abs().median().clamp_min(1e-6)
    return (plane / deviation).clamp(-_LIMIT, _LIMIT).to(torch.float32)

"""From a micrograph to a small, flat, outlier-free image on which particles are looked for.

Spikes (hot pixels, X-rays) are replaced by their surroundings, the image is Fourier-cropped to a working
pixel size that is fine enough for the particle, the background that is smoother than the particle is
subtracted, and the rest is scaled to unit variance with extreme values limited. `Reduced` remembers how its
pixels map to those of the micrograph.
"""

import math
from dataclasses import dataclass

import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from torch import Tensor

from cryoloom.fourier import crop_dft, dft_to_image, good_size, image_to_dft
from cryoloom.picking.borders import copied_borders


@dataclass(frozen=True)
class Reduced:
    """A reduced micrograph.

    Attributes
    ----------
    image
        `(h, w)` float32; particles are bright.
    pixel_size
        Å per pixel of `image`, yx (the two may differ by a fraction of a percent).
    shape
        `(h, w)` of the micrograph.
    border
        Pixels of `image` at the top, bottom, left and right that hold no image; see `borders`.
    """

    image: Tensor
    pixel_size: tuple[float, float]
    shape: tuple[int, int]
    border: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def mean_pixel_size(self) -> float:
        """Geometric mean of both pixel sizes."""
        return math.sqrt(self.pixel_size[0] * self.pixel_size[1])

    def to_micrograph(self, position: Tensor) -> Tensor:
        """Positions `(n, 2)` yx in pixels of `image` to pixels of the micrograph."""
        centre = torch.tensor([n // 2 for n in self.image.shape], dtype=position.dtype, device=position.device)
        factor = torch.tensor([n / m for n, m in zip(self.shape, self.image.shape, strict=True)], dtype=position.dtype)
        origin = torch.tensor([n // 2 for n in self.shape], dtype=position.dtype, device=position.device)
        return (position - centre) * factor.to(position.device) + origin

    def from_micrograph(self, position: Tensor) -> Tensor:
        """Inverse of `to_micrograph`."""
        centre = torch.tensor([n // 2 for n in self.image.shape], dtype=position.dtype, device=position.device)
        factor = torch.tensor([m / n for n, m in zip(self.shape, self.image.shape, strict=True)], dtype=position.dtype)
        origin = torch.tensor([n // 2 for n in self.shape], dtype=position.dtype, device=position.device)
        return (position - origin) * factor.to(position.device) + centre


def reduce_micrograph(image: Tensor, pixel_size: float, working: float, *, dark: bool = True) -> Reduced:
    """Remove spikes and Fourier-crop a micrograph to about `working` Å per pixel.

    Parameters
    ----------
    image
        `(h, w)`, any contrast.
    pixel_size
        Å per pixel of `image`.
    working
        Å per pixel wanted; never finer than `pixel_size`.
    dark
        True if particles are darker than their surroundings, as in an image taken under focus; the result is
        inverted so that they are bright.
    """
    h, w = (int(n) for n in image.shape)
    border = copied_borders(image)
    image = remove_spikes(image)
    if dark:
        image = -image
    image = remove_trend(image)  # before the transform, which would ring at the jump between opposite edges
    factor = min(1.0, pixel_size / working)
    target = (min(h, good_size(round(h * factor))), min(w, good_size(round(w * factor))))
    if target != (h, w):
        dft = crop_dft(image_to_dft(image), (h, w), target)
        image = dft_to_image(dft, target) * (target[0] * target[1] / (h * w))
    shrink = [target[0] / h] * 2 + [target[1] / w] * 2
    top, bottom, left, right = (math.ceil(n * factor) for n, factor in zip(border, shrink, strict=True))
    size = pixel_size * h / target[0], pixel_size * w / target[1]
    return Reduced(image, size, (h, w), (top, bottom, left, right))


def remove_spikes(image: Tensor, n_sigma: float = 7.0) -> Tensor:
    """Replace pixels that stand out from their 7 x 7 surroundings by the mean of those, `(h, w)` to `(h, w)`."""
    image = image.to(torch.float32)
    if not bool(torch.isfinite(image.sum())):
        image = torch.nan_to_num(image, nan=float(image[image.isfinite()].mean()), posinf=0.0, neginf=0.0)
    local = _uniform(image, 7)
    residual = image - local
    sample = residual.reshape(-1)[:: max(1, residual.numel() // 100_000)]
    sigma = 1.4826 * float(sample.abs().median())
    return torch.where(residual.abs() > n_sigma * sigma, local, image) if sigma > 0 else image


def flatten_background(image: Tensor, extent_px: float, *, limit: float = 5.0) -> Tensor:
    """Subtract a cubic surface and what is smoother than `extent_px`, scale to unit variance and limit extreme values.

    Parameters
    ----------
    image
        `(h, w)`.
    extent_px
        Standard deviation in pixels of the Gaussian whose local mean is subtracted.
    limit
        Values are limited to this many robust standard deviations.
    """
    flat = remove_trend(image)
    flat = flat - broad_mean(flat, extent_px)
    sigma = 1.4826 * flat.abs().median().clamp_min(1e-12)
    flat = (flat / sigma).clamp(-limit, limit)
    flat = flat - flat.mean()
    return flat / flat.std().clamp_min(1e-6)


def remove_trend(image: Tensor, degree: int = 3, blocks: int = 24) -> Tensor:
    """Subtract the polynomial surface that fits the block means, without those that lie far from it, `(h, w)`."""
    h, w = image.shape
    means = torch.nn.functional.adaptive_avg_pool2d(image[None, None], (min(blocks, h), min(blocks, w)))[0, 0].double()
    py, px = (_legendre(n, degree, image.device) for n in means.shape)
    terms = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    basis = torch.stack([(py[i][:, None] * px[j][None, :]).reshape(-1) for i, j in terms])  # (k, blocks)
    values = means.reshape(-1)
    weight = torch.ones_like(values)
    coefficients = torch.zeros(len(terms), dtype=torch.float64, device=image.device)
    for _ in range(4):
        normal = (basis * weight) @ basis.T
        normal = normal + 1e-9 * normal.diagonal().mean() * torch.eye(
            len(terms), dtype=normal.dtype, device=image.device
        )
        coefficients = torch.linalg.solve(normal, (basis * weight) @ values)
        residual = values - coefficients @ basis
        sigma = 1.4826 * residual.abs().median().clamp_min(1e-12)
        weight = 1.0 / (1.0 + (residual / (3 * sigma)) ** 2)
    table = torch.zeros(degree + 1, degree + 1, dtype=torch.float64, device=image.device)
    for (i, j), value in zip(terms, coefficients, strict=True):
        table[i, j] = value
    py, px = (_legendre(n, degree, image.device) for n in (h, w))
    return image - ((py.T @ table).to(image.dtype) @ px.to(image.dtype))


def _legendre(n: int, degree: int, device: torch.device) -> Tensor:
    """Legendre polynomials up to `degree` at the centres of `n` pixels from -1 to 1, `(degree + 1, n)` float64."""
    t = (2 * torch.arange(n, dtype=torch.float64, device=device) + 1) / n - 1
    values = [torch.ones_like(t), t]
    for m in range(1, degree):
        values.append(((2 * m + 1) * t * values[m] - m * values[m - 1]) / (m + 1))
    return torch.stack(values[: degree + 1])


def _uniform(image: Tensor, size: int) -> Tensor:
    if not image.is_cuda:
        return torch.from_numpy(uniform_filter(image.numpy(), size, mode="reflect"))
    padded = torch.nn.functional.pad(image[None, None], [size // 2] * 4, mode="reflect")
    return torch.nn.functional.avg_pool2d(padded, size, stride=1)[0, 0]


def broad_mean(image: Tensor, sigma_px: float) -> Tensor:
    """Local mean with a Gaussian window; the smooth result is computed on a coarser grid."""
    step = max(1, int(sigma_px / 4))
    h, w = image.shape
    pad = (0, -w % step, 0, -h % step)
    padded = torch.nn.functional.pad(image[None, None], pad, mode="replicate")
    coarse = torch.nn.functional.avg_pool2d(padded, step)[0, 0]
    smooth = torch.from_numpy(gaussian_filter(coarse.cpu().numpy(), sigma_px / step, mode="nearest")).to(image.device)
    grown = torch.nn.functional.interpolate(
        smooth[None, None], size=padded.shape[-2:], mode="bicubic", align_corners=False
    )
    return grown[0, 0, :h, :w]

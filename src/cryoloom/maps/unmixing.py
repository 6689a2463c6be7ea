"""The local resolution behind readings that each average over a window.

A window that lies over a border reads neither side. Its FSC is that of the mean signal-to-noise ratio of what it holds,
and that ratio falls about as a power `FALL` of frequency around the resolution, so the reading `y` of a resolution `r`
in a Gaussian window `g` is close to the power mean `y^-FALL = Σ g r^-FALL / Σ g`, with sums over the particle alone.
Better places outweigh worse ones: near a border, readings are too good on its worse side. On half maps with planted
domains this explains the readings to within chance, borders between 3 and 8 Å included.

The field `r` is what fits the readings of all methods and has little total variation of its logarithm (Rudin, Osher and
Fatemi 1992, doi:10.1016/0167-2789(92)90242-F): borders may be sharp, and what chance makes of an even place is not
followed. It is the minimum over `u = ln r` of

    Σ_methods ½ ∫ (ln y - ln y(u))² / chance² dV / (1.5 (4 π)^1.5 window³)  +  price ∫ |∇u| dV

where a window holds one independent value per `(4 π)^1.5 window³` and methods share much of what chance does to them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from cryoloom.fourier import good_size, irfftn, rfftn
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.windowed import window_transform

FALL = 6.0
"""Fall of ln SSNR over ln frequency: `B k²` of a B-factor, 6 for 100 Å2 at 4 Å. With 4.5 and 9 the field is nearly the
same."""

PRICE = 1 / 30
"""Of total variation, times chance and window squared. A bump as wide as the window and as high as chance gains half a
unit of likelihood and has a variation of some 12 windows squared times chance: it just does not pay."""

SHARED = 1.5
"""One value of two methods that see the same maps counts as one over this."""

EVEN = 0.01
"""Change of the logarithm over a window below which the price is quadratic."""

MOST_POINTS = 96
"""Along a side of the grid."""


@dataclass(frozen=True)
class Reading:
    """Local resolution as one method reads it.

    Attributes
    ----------
    values
        Å, `(d, h, w)`.
    chance
        Standard errors of their logarithms that come of noise, without what borders do, `(d, h, w)`.
    window
        Standard deviation of the Gaussian window in Å.
    """

    values: np.ndarray
    chance: np.ndarray
    window: float


def unmix_readings(
    readings: Sequence[Reading], inside: np.ndarray, pixel_size: float, *, max_steps: int = 40
) -> np.ndarray:
    """Local resolution that explains all readings.

    Parameters
    ----------
    readings
        Of one or more methods.
    inside
        Where the particle is, `(d, h, w)` bool: only there readings are believed and answers given.
    pixel_size
        Å.
    max_steps
        Of the minimiser.

    Returns
    -------
    resolution
        Å, `(d, h, w)` float32; NaN outside.
    """
    resolution = np.full(inside.shape, np.nan, np.float32)
    widest = max(readings, key=lambda reading: reading.window)
    grid = _Grid.around(inside, pixel_size, [reading.window for reading in readings])
    body = grid.sample(inside.astype(np.float32)) > 0.5
    if not body.any():
        resolution[inside] = widest.values[inside]
        return resolution
    volume = grid.spacing**3
    terms = [_Term.of(reading, body, grid, volume) for reading in readings]
    price = PRICE / (float(np.median(widest.chance[inside])) * widest.window**2) * volume
    start = np.log(grid.sample(widest.values))
    start = np.where(body, start, start[body].mean())
    field = _minimise(start, body, terms, price, EVEN / widest.window, grid.spacing, max_steps)
    resolution[inside] = np.exp(grid.interpolate(field, inside))
    return resolution


@dataclass(frozen=True)
class _Grid:
    """Points around the particle, wide enough that windows do not meet their own other end.

    Attributes
    ----------
    first
        Place of the first point in voxels, `(3,)`.
    step
        Voxels between points.
    spacing
        Å between points.
    shape
        Points along each side.
    """

    first: np.ndarray
    step: float
    spacing: float
    shape: tuple[int, ...]

    @classmethod
    def around(cls, inside: np.ndarray, pixel_size: float, windows: Sequence[float]) -> "_Grid":
        """A grid of 0.6 of the smallest window, with the reach of the largest around the particle."""
        held = np.stack(np.nonzero(inside)) if inside.any() else np.zeros((3, 1))
        low, high = held.min(1), held.max(1)
        reach = 3.0 * max(windows) / pixel_size  # both ends together
        step = max(1.0, 0.6 * min(windows) / pixel_size, float((high - low).max() + reach) / MOST_POINTS)
        shape = tuple(good_size(math.ceil(n) + 1) for n in (high - low + reach) / step)
        first = 0.5 * (low + high) - 0.5 * step * (np.array(shape) - 1)
        return cls(first, step, step * pixel_size, shape)

    def sample(self, values: np.ndarray) -> np.ndarray:
        """Voxels at the points by linear interpolation, the nearest ones outside the map, float32."""
        axes = [first + self.step * np.arange(n) for first, n in zip(self.first, self.shape, strict=True)]
        places = np.stack(np.meshgrid(*axes, indexing="ij"))
        return np.asarray(map_coordinates(values, places, order=1, mode="nearest"), np.float32)

    def interpolate(self, field: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Points at the voxels `inside`, `(n,)`."""
        places = (np.stack(np.nonzero(inside)) - self.first[:, None]) / self.step
        return np.asarray(map_coordinates(field, places, order=1, mode="nearest"))


@dataclass(frozen=True)
class _Term:
    """What one reading says: its logarithm, weight (0 outside), window, and how much of it the particle fills."""

    said: Tensor
    weight: Tensor
    window: Tensor
    filled: Tensor

    @classmethod
    def of(cls, reading: Reading, body: np.ndarray, grid: _Grid, volume: float) -> "_Term":
        window = window_transform(radial_frequency(grid.shape, grid.spacing), reading.window)
        held = torch.from_numpy(body).float()
        independent = volume / ((4 * math.pi) ** 1.5 * reading.window**3) / SHARED
        weight = torch.from_numpy(independent / grid.sample(reading.chance).clip(1e-4) ** 2) * held
        said = torch.from_numpy(np.log(grid.sample(reading.values)))
        return cls(said, weight, window, _blur(held, window).clamp_min(1e-3))


def _minimise(
    start: np.ndarray,
    body: np.ndarray,
    terms: Sequence[_Term],
    price: float,
    even: float,
    spacing: float,
    max_steps: int,
) -> np.ndarray:
    """The field `u` of the module's text by L-BFGS, like `start`."""
    held = torch.from_numpy(body).float()
    borders = [(held.narrow(axis, 1, n - 1) * held.narrow(axis, 0, n - 1)) for axis, n in enumerate(held.shape)]
    with torch.enable_grad():
        field = torch.from_numpy(start).clone().requires_grad_(True)
        steps = torch.optim.LBFGS([field], max_iter=max_steps, history_size=8, line_search_fn="strong_wolfe")

        def cost() -> Tensor:
            steps.zero_grad()
            power = torch.exp(-FALL * field) * held
            total = price * _variation(field, held, borders, spacing, even)
            for term in terms:
                read = -(_blur(power, term.window) / term.filled).clamp_min(1e-20).log() / FALL
                total = total + 0.5 * (term.weight * (term.said - read) ** 2).sum()
            total.backward()
            return total

        steps.step(cost)
    return field.detach().numpy()


def _variation(field: Tensor, held: Tensor, borders: list[Tensor], spacing: float, even: float) -> Tensor:
    """`Σ |∇u|` within the particle, rounded below the gradient `even`."""
    squared = torch.full_like(field, even**2)
    for axis, border in enumerate(borders):
        gradient = torch.diff(field, dim=axis) * border / spacing
        padding = [0, 0] * (field.ndim - 1 - axis) + [0, 1]
        squared = squared + torch.nn.functional.pad(gradient**2, padding)
    return (squared.sqrt() * held).sum()


def _blur(values: Tensor, window: Tensor) -> Tensor:
    return irfftn(rfftn(values, 3) * window, values.shape)

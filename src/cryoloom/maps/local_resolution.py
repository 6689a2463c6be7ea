"""Local resolution of two half maps by a bank of band-pass filters.

Both halves are filtered to one band after the other. In a Gaussian window around each voxel the correlation of the two
is the local FSC of that band (Cardone, Heymann and Steven 2013, doi:10.1016/j.jsb.2013.08.002), and the power of their
mean against that of their difference tells whether there is signal at all (the idea of ResMap and MonoRes: Kucukelbir,
Sigworth and Tagare 2014, doi:10.1038/nmeth.2727; Vilas et al. 2018, doi:10.1016/j.str.2017.12.018). Each band is worked
on at the sampling it needs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.fourier import crop_dft, dft_to_image, good_size, image_to_dft
from cryoloom.maps.filter import radial_frequency
from cryoloom.maps.windowed import WindowedHalves, raised_cosine


@dataclass(frozen=True)
class LocalResolution:
    """Local resolution by both methods.

    Attributes
    ----------
    fsc, significance
        Å per voxel, `(d, h, w)` float32.
    bands
        Centre frequencies of the bands in 1/Å.
    window
        Standard deviation of the window in Å.
    """

    fsc: np.ndarray
    significance: np.ndarray
    bands: np.ndarray
    window: float

    def consensus(self, inside: np.ndarray) -> np.ndarray:
        """Both methods in one map: their geometric mean on the scale of the FSC, Å, `(d, h, w)` float32.

        Signal is significant beyond the frequency at which its FSC crosses the threshold. The median of the ratio over
        the voxels `inside` takes that common factor out.
        """
        ratio = np.log(self.significance / self.fsc)
        return (self.fsc * np.exp(0.5 * (ratio - self._offset(inside)))).astype(np.float32)

    def disagreement(self, inside: np.ndarray) -> np.ndarray:
        """Logarithm of the ratio of the methods without its median over `inside`, `(d, h, w)`; 0 where they agree."""
        return np.abs(np.log(self.significance / self.fsc) - self._offset(inside))

    def _offset(self, inside: np.ndarray) -> float:
        chosen = inside if inside.any() else np.ones_like(inside, dtype=bool)
        return float(np.median(np.log(self.significance[chosen] / self.fsc[chosen])))


def measure_local_resolution(
    pair: WindowedHalves,
    *,
    threshold: float = 0.143,
    significance: float = 0.95,
    coarsest: float = 30.0,
    step: Callable[[], None] | None = None,
) -> LocalResolution:
    """Local resolution of half maps.

    Parameters
    ----------
    pair
        The halves, where the particle is, and the window; the noise is measured from the difference of the halves.
    threshold
        Of the local FSC.
    significance
        Quantile of the noise that the signal must exceed.
    coarsest
        Å of the first band.
    step
        Called after each band.
    """
    box, pixel_size, window = pair.box, pair.pixel_size, pair.window
    bands, width = choose_bands(box, pixel_size, window, coarsest)
    dft1, dft2 = pair.spectra()
    # Results vary no faster than the window: they are kept on a grid of two fifths of its standard deviation.
    coarse = min(box, good_size(math.ceil(2.5 * box * pixel_size / window)))
    trackers = [CrossingTracker((coarse,) * 3, bands, limit) for limit in (threshold, 0.0)]
    for centre in bands:
        size = min(box, good_size(math.ceil(2.2 * (centre + width) * box * pixel_size) + 8))
        frequency = radial_frequency((size,) * 3, box * pixel_size / size)
        gain = raised_cosine((frequency - centre) / width)
        a, b = (dft_to_image(crop_dft(d, (box,) * 3, (size,) * 3) * gain, (size,) * 3) for d in (dft1, dft2))
        # The mask keeps solvent out of the windows, so that edges are not called worse than they are.
        weight = (_to_box(pair.mask.float(), size) > 0.5).float()
        blur = pair.blur(frequency)
        cross, power1, power2 = (_blur(x * weight, blur, coarse) for x in (a * b, a * a, b * b))
        fsc = cross / (power1.clamp_min(0) * power2.clamp_min(0)).sqrt().clamp_min(1e-30)
        # Signal power over its noise: half the sum and half the difference of the halves carry the same noise.
        ratio = (power1 + power2 + 2 * cross) / (power1 + power2 - 2 * cross).clamp_min(1e-30)
        trackers[0].add(fsc)
        trackers[1].add(
            ratio.clamp(0.01, 50).log() - math.log(_noise_limit(pair.independent_values(centre, width), significance))
        )
        if step is not None:
            step()
    results = [_to_box(torch.from_numpy(tracker.resolution()), box).numpy() for tracker in trackers]
    return LocalResolution(results[0], results[1], bands, window)


def choose_bands(box: int, pixel_size: float, window: float, coarsest: float) -> tuple[np.ndarray, float]:
    """Centres of the bands in 1/Å and their width: as narrow as the window can tell apart, up to Nyquist."""
    width = max(0.5 / (2 * math.pi * window) * 2.0, 1.5 / (box * pixel_size))
    first, last = max(1 / coarsest, 2 * width), 0.5 / pixel_size - 0.5 * width
    n = max(4, math.ceil((last - first) / width) + 1)
    return np.linspace(first, last, n), width


class CrossingTracker:
    """Frequency at which a value falls below a limit for good, voxel by voxel, band after band.

    It is the change point that best parts bands above the limit from bands below: where the sum of what values exceed
    the limit by, each cut at `reach`, is largest. A node of a coarse wave in a small window does not decide, nor does a
    lone peak of noise beyond. Values are averaged with those of the neighbouring bands (1, 2, 1).
    """

    def __init__(self, shape: tuple[int, ...], bands: np.ndarray, limit: float, reach: float = 0.3) -> None:
        self.bands, self.limit, self.reach = bands, limit, reach
        self.crossing = torch.full(shape, float(bands[0]))
        self.sum = torch.zeros(shape)
        self.largest = torch.zeros(shape)
        self.raw: list[Tensor] = []
        self.before: Tensor | None = None
        self.n_done = 0

    def add(self, value: Tensor) -> None:
        """Take the next band."""
        self.raw.append(value)
        if len(self.raw) == 2:
            self._settle((3 * self.raw[0] + self.raw[1]) / 4)
        elif len(self.raw) == 3:
            self._settle((self.raw[0] + 2 * self.raw[1] + self.raw[2]) / 4)
            self.raw.pop(0)

    def resolution(self) -> np.ndarray:
        """Å per voxel, after the last band."""
        if self.n_done < len(self.bands):
            self._settle((self.raw[-2] + 3 * self.raw[-1]) / 4)
        return (1.0 / self.crossing).numpy().astype(np.float32)

    def _settle(self, value: Tensor) -> None:
        index = self.n_done
        excess = value - self.limit
        if self.before is not None:
            # The band before was the last one above so far: the crossing lies between it and this one.
            ends = (self.sum >= self.largest) & (excess < 0) & (self.before >= 0)
            share = (self.before / (self.before - excess).clamp_min(1e-6)).clamp(0, 1)
            place = self.bands[index - 1] + share * (self.bands[index] - self.bands[index - 1])
            self.crossing = torch.where(ends, place.float(), self.crossing)
        self.sum = self.sum + excess.clamp(-self.reach, self.reach)
        better = self.sum > self.largest
        self.crossing = torch.where(better, torch.full_like(self.crossing, float(self.bands[index])), self.crossing)
        self.largest = torch.maximum(self.largest, self.sum)
        self.before = excess
        self.n_done += 1


def _blur(values: Tensor, gain: Tensor, size: int) -> Tensor:
    """Multiply the spectrum of a cube and resample it to `size`, up to a constant factor."""
    dft = crop_dft(image_to_dft(values, 3) * gain, tuple(values.shape), (size,) * 3)
    return dft_to_image(dft, (size,) * 3)


def _to_box(values: Tensor, box: int) -> Tensor:
    """Trilinear resampling of a cube to another size over the same field, the centre voxels on each other."""
    n = values.shape[0]
    if n == box:
        return values
    position = (torch.arange(box, dtype=torch.float32) - box // 2) * (n / box) + n // 2
    scaled = (position / (n - 1) * 2 - 1).clamp(-1, 1)
    z, y, x = torch.meshgrid(scaled, scaled, scaled, indexing="ij")
    sample = torch.nn.functional.grid_sample(
        values[None, None], torch.stack([x, y, z], dim=-1)[None], mode="bilinear", align_corners=True
    )
    return sample[0, 0]


def _noise_limit(n_values: float, significance: float) -> float:
    """Ratio of two noise powers, each of so many independent values, that chance exceeds with `1 - significance`."""
    z = math.sqrt(2) * torch.erfinv(torch.tensor(2 * significance - 1.0)).item()
    return math.exp(z * math.sqrt(4.0 / max(n_values, 4.0)))

"""A micrograph searched with a bank of templates, and the peaks taken apart.

The score of a template t at x is `<t c, w X>_x / sqrt(<t c, w² S t c>)` with the CTF c, the power spectrum S of the
micrograph and the weight w = S^-exponent: its standard deviation over noise of that spectrum is 1. The best template
counts at each pixel.

A particle also answers templates that are turned or placed wrongly, at half its diameter and beyond, far above noise.
So the best template of each clear peak is subtracted from the micrograph in the strength that its score tells, the
highest peaks first, and peaks that were only its side lobes are gone from what is left (matching pursuit; Mallat and
Zhang 1993, doi:10.1109/78.258082). Neglected: templates are not exactly the particles, so a tenth or so of the side
lobes remains, and strengths are not fitted again when neighbours are found.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from cryoloom.fourier import half_spectrum_weights, irfftn, rfftn
from cryoloom.picking.bank import Bank
from cryoloom.picking.matched import Spectrum
from cryoloom.picking.peaks import background_level, find_peaks

_PIXELS = 16_384  # pixels whose scores are computed at a time
_PASSES = 3
_SUBTRACTED = 4.0  # standard deviations of the background: weaker peaks stay
_UNMOVED = (
    0.05  # standard deviations of noise: scores that subtraction cannot have moved by more are not computed again
)


@dataclass(frozen=True)
class Found:
    """Peaks, the highest first, and what is left without them.

    Attributes
    ----------
    position, value
        Pixels yx `(n, 2)` and standard deviations of the background `(n,)`.
    template
        Row of the bank that fits best, `(n,)`.
    decoy
        Score map of the inverted micrograph without the peaks, on the scale of `value`, `(h, w)`.
    """

    position: np.ndarray
    value: np.ndarray
    template: np.ndarray
    decoy: Tensor


class BankMatch:
    """Correlation of one micrograph with all templates of a bank, from which particles can be subtracted.

    Parameters
    ----------
    spectrum
        The micrograph.
    bank
        What to look for.
    """

    def __init__(self, spectrum: Spectrum, bank: Bank) -> None:
        self._spectrum = spectrum
        device = spectrum.weighted.device
        self._components = bank.components.to(device)
        self._templates = bank.coefficients.to(device)
        maps = torch.empty(len(self._components), *spectrum.image_shape, device=device)
        seen = torch.empty(len(maps), spectrum.radius.numel(), dtype=torch.complex64, device=device)
        for i, component in enumerate(self._components):
            dft = self._transform(component)
            maps[i] = self._correlate(spectrum.weighted, dft)
            seen[i] = dft.reshape(-1)
        self._maps = maps.reshape(len(maps), -1)
        columns = half_spectrum_weights(spectrum.shape[1], device=device)
        noise = self._quadratic(seen, spectrum.weight * spectrum.power_weight * columns)
        answer = self._quadratic(seen, spectrum.weight * columns) * (spectrum.shape[0] * spectrum.shape[1])
        self._deviation = noise.clamp_min(1e-20).sqrt()
        self._coefficients = self._templates / self._deviation[:, None]
        self._answer = answer / self._deviation  # score of the template itself, in strength 1
        self._longest = float(self._coefficients.norm(dim=1).max())
        n = self._maps.shape[1]
        self._best, self._worst = self._maps.new_empty(n), self._maps.new_empty(n)
        self._moved = self._maps.new_full((n,), float("inf"))  # at most, since the best were computed

    def best(self) -> tuple[Tensor, Tensor]:
        """Best score at each pixel, and the best of the inverted micrograph, `(h, w)`.

        Pixels where subtraction has moved no score by more than `_UNMOVED` keep what they had.
        """
        (stale,) = torch.nonzero(self._moved > _UNMOVED, as_tuple=True)
        for start in range(0, len(stale), _PIXELS):
            here = stale[start : start + _PIXELS]
            values = self._coefficients @ self._maps[:, here]
            self._best[here], self._worst[here] = values.amax(0), values.amin(0)
        self._moved[stale] = 0.0
        shape = self._spectrum.image_shape
        return self._best.reshape(shape).clone(), -self._worst.reshape(shape)

    def best_template(self, pixel: np.ndarray) -> np.ndarray:
        """Row of the bank that fits best at each of some pixels yx, `(n,)`."""
        return (self._coefficients @ self._maps[:, self._flat(pixel)]).argmax(0).cpu().numpy()

    def score(self, pixel: np.ndarray, template: np.ndarray) -> np.ndarray:
        """Scores of given templates at given pixels yx, `(n,)`."""
        rows = self._coefficients[torch.from_numpy(template).to(self._maps.device)]
        return (rows * self._maps[:, self._flat(pixel)].T).sum(1).double().cpu().numpy()

    def subtract(self, pixel: np.ndarray, template: np.ndarray, score: np.ndarray) -> None:
        """Take templates at pixels yx out of the micrograph, each in the strength that gives it `score`."""
        spectrum, size = self._spectrum, self._components.shape[-1]
        m = spectrum.margin_px
        reach = size // 2
        h, w = spectrum.image_shape
        picture = self._maps.new_zeros(h + 2 * reach, w + 2 * reach)
        strength = torch.from_numpy(score).to(picture) / self._answer[torch.from_numpy(template).to(picture.device)]
        images = (self._templates[template] * strength[:, None]) @ self._components.flatten(1)
        for (y, x), image in zip(pixel, images.reshape(-1, size, size), strict=True):
            picture[y : y + size, x : x + size] += image
        padded = picture.new_zeros(spectrum.shape)
        cut = min(m, reach)  # what lies beyond the padding is lost with its particle's far edge
        inner = picture[reach - cut : reach + h + cut, reach - cut : reach + w + cut]
        padded[m - cut : m + h + cut, m - cut : m + w + cut] = inner
        model = rfftn(padded, 2) * spectrum.ctf * spectrum.weight
        squared = torch.zeros_like(self._moved)
        for i, component in enumerate(self._components):
            change = self._correlate(model, self._transform(component)).reshape(-1)
            self._maps[i] -= change
            squared.addcmul_(change, change)
        self._moved += self._longest * squared.sqrt()  # by Cauchy and Schwarz

    def _flat(self, pixel: np.ndarray) -> Tensor:
        return torch.from_numpy(pixel[:, 0] * self._spectrum.image_shape[1] + pixel[:, 1]).to(self._maps.device)

    def _transform(self, component: Tensor) -> Tensor:
        """A component centred on the first pixel, as the microscope shows it, in Fourier space."""
        padded = component.new_zeros(self._spectrum.shape)
        size = component.shape[-1]
        padded[:size, :size] = component
        return rfftn(torch.roll(padded, (-(size // 2), -(size // 2)), (0, 1)), 2) * self._spectrum.ctf

    def _correlate(self, weighted: Tensor, dft: Tensor) -> Tensor:
        h, w = self._spectrum.image_shape
        m = self._spectrum.margin_px
        return irfftn(weighted * dft.conj(), self._spectrum.shape)[m : m + h, m : m + w]

    def _quadratic(self, seen: Tensor, weight: Tensor) -> Tensor:
        """`<t c, weight t c>` for all templates, per pixel of the spectrum's grid squared."""
        rows = torch.view_as_real(seen * weight.reshape(-1).sqrt()).reshape(len(seen), -1)
        gram = (rows @ rows.T) / (self._spectrum.shape[0] * self._spectrum.shape[1]) ** 2
        return ((self._templates @ gram) * self._templates).sum(1)


def match_bank(
    spectrum: Spectrum,
    bank: Bank,
    *,
    distance_px: float,
    apart_px: float,
    lowest: float,
    valid: Tensor | None = None,
) -> Found:
    """All places where a particle like one of the bank might be.

    Parameters
    ----------
    spectrum
        The micrograph.
    bank
        What to look for.
    distance_px
        Smallest distance of two peaks, pixels.
    apart_px
        Distance within which peaks are not believed before the higher one is subtracted: the reach of side lobes.
    lowest
        Peaks below, in standard deviations of the background, are not listed.
    valid
        Where the micrograph tells of the background, `(h, w)` bool; by default everywhere.
    """
    match = BankMatch(spectrum, bank)
    pixel, place = np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2))
    template, strength = np.zeros(0, dtype=np.int64), np.zeros(0)
    for _ in range(_PASSES):
        best, worst = match.best()
        middle, deviation = background_level(best, worst, valid=valid)
        more, _ = find_peaks((best - middle) / deviation, apart_px, lowest=_SUBTRACTED)
        more = _away(more, place, distance_px)
        if not len(more):
            break
        at = _whole(more, best.shape)
        row = match.best_template(at)
        high = match.score(at, row)
        match.subtract(at, row, high)
        pixel, place = np.concatenate([pixel, at]), np.concatenate([place, more])
        template, strength = np.concatenate([template, row]), np.concatenate([strength, high])
    own = strength + match.score(pixel, template)
    best, worst = match.best()
    middle, deviation = background_level(best, worst, valid=valid)
    rest, height = find_peaks((best - middle) / deviation, distance_px, lowest=lowest)
    free = _far(rest, place, distance_px)
    rest, height = rest[free], height[free]
    place = np.concatenate([place, rest])
    value = np.concatenate([(own - middle) / deviation, height])
    template = np.concatenate([template, match.best_template(_whole(rest, best.shape))])
    order = np.argsort(-value, kind="stable")
    order = order[value[order] > lowest]
    return Found(place[order], value[order], template[order], (worst - middle) / deviation)


def _whole(place: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whole pixels of places within a map."""
    return np.clip(np.rint(place).astype(np.int64), 0, np.asarray(shape) - 1)


def _far(place: np.ndarray, others: np.ndarray, distance: float) -> np.ndarray:
    """Which places keep their distance from others, `(n,)` bool."""
    if not len(place) or not len(others):
        return np.ones(len(place), dtype=bool)
    return cKDTree(others).query(place)[0] > distance


def _away(place: np.ndarray, others: np.ndarray, distance: float) -> np.ndarray:
    return place[_far(place, others, distance)]

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

from cryoloom.fourier import irfftn, rfftn
from cryoloom.picking.bank import Bank
from cryoloom.picking.bank_scores import TileScores
from cryoloom.picking.matched import Spectrum
from cryoloom.picking.peaks import background_level, find_peaks

_TILE, _TILE_CUDA = 32, 128  # edge in pixels of what is scored at a time
_PASSES = 3
_SUBTRACTED = 4.0  # standard deviations of the background: weaker peaks stay
_UNMOVED = 0.05  # standard deviations of noise: scores that cannot have moved by more are not computed again


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
        self._size = size = self._components.shape[-1]
        self._answering = spectrum.ctf**2 * spectrum.weight
        self._seen = self._around(spectrum.weighted * spectrum.ctf)
        noise = self._quadratic(self._answering * spectrum.power_weight) / (spectrum.shape[0] * spectrum.shape[1])
        self._deviation = noise.clamp_min(1e-20).sqrt()
        self._coefficients = self._templates / self._deviation[:, None]
        self._answer = self._quadratic(self._answering) / self._deviation  # score of a template in strength 1
        gram = self._components.flatten(1) @ self._components.flatten(1).T
        self._longest = float(((self._coefficients @ gram) * self._coefficients).sum(1).max().sqrt())
        self._tiles = TileScores(bank, self._deviation)
        self._offset = (torch.arange(size, device=device)[:, None] * self._seen.shape[1]).add(
            torch.arange(size, device=device)
        )
        self._best = self._seen.new_empty(spectrum.image_shape)
        self._worst = torch.empty_like(self._best)
        self._moved = torch.full_like(self._best, float("inf"))  # at most, since the best were computed

    def best(self) -> tuple[Tensor, Tensor]:
        """Best score at each pixel, and the best of the inverted micrograph, `(h, w)`.

        Tiles where subtraction has moved no score by more than `_UNMOVED` keep what they had.
        """
        h, w = self._best.shape
        edge = _TILE_CUDA if self._best.is_cuda else _TILE
        for y in range(0, h, edge):
            for x in range(0, w, edge):
                tile = slice(y, min(y + edge, h)), slice(x, min(x + edge, w))
                if bool((self._moved[tile] > _UNMOVED).any()):
                    best, worst = self._tiles.extremes(self._patches(*tile))
                    shape = self._best[tile].shape
                    self._best[tile], self._worst[tile] = best.reshape(shape), worst.reshape(shape)
                    self._moved[tile] = 0.0
        return self._best.clone(), -self._worst

    def best_template(self, pixel: np.ndarray) -> np.ndarray:
        """Row of the bank that fits best at each of some pixels yx, `(n,)`."""
        return (self._coefficients @ self._maps(pixel)).argmax(0).cpu().numpy()

    def score(self, pixel: np.ndarray, template: np.ndarray) -> np.ndarray:
        """Scores of given templates at given pixels yx, `(n,)`."""
        rows = self._coefficients[torch.from_numpy(template).to(self._seen.device)]
        return (rows * self._maps(pixel).T).sum(1).double().cpu().numpy()

    def subtract(self, pixel: np.ndarray, template: np.ndarray, score: np.ndarray) -> None:
        """Take templates at pixels yx out of the micrograph, each in the strength that gives it `score`."""
        spectrum, size = self._spectrum, self._size
        m = spectrum.margin_px
        reach = size // 2
        h, w = spectrum.image_shape
        picture = self._seen.new_zeros(h + 2 * reach, w + 2 * reach)
        strength = torch.from_numpy(score).to(picture) / self._answer[torch.from_numpy(template).to(picture.device)]
        images = (self._templates[template] * strength[:, None]) @ self._components.flatten(1)
        for (y, x), image in zip(pixel, images.reshape(-1, size, size), strict=True):
            picture[y : y + size, x : x + size] += image
        padded = picture.new_zeros(spectrum.shape)
        cut = min(m, reach)  # what lies beyond the padding is lost with its particle's far edge
        inner = picture[reach - cut : reach + h + cut, reach - cut : reach + w + cut]
        padded[m - cut : m + h + cut, m - cut : m + w + cut] = inner
        change = self._around(rfftn(padded, 2) * self._answering)
        self._seen -= change
        squared = torch.nn.functional.avg_pool2d(change[None, None] ** 2, (size, 1), 1)
        squared = torch.nn.functional.avg_pool2d(squared, (1, size), 1)[0, 0] * size**2
        self._moved += self._longest * squared.sqrt()  # by Cauchy and Schwarz

    def _around(self, dft: Tensor) -> Tensor:
        """Image of a transform, with half a template around the micrograph, `(h + m - 1, w + m - 1)`."""
        image = irfftn(dft, self._spectrum.shape)
        begin = self._spectrum.margin_px - self._size // 2
        rows, columns = (
            (torch.arange(n + self._size - 1, device=image.device) + begin) % whole
            for n, whole in zip(self._spectrum.image_shape, self._spectrum.shape, strict=True)
        )
        return image[rows[:, None], columns]

    def _patches(self, rows: slice, columns: slice) -> Tensor:
        """Patches around the pixels of a tile, `(m m, n)`."""
        width, size = self._seen.shape[1], self._size
        shape = (size, size, rows.stop - rows.start, columns.stop - columns.start)
        view = self._seen.as_strided(shape, (width, 1, width, 1), rows.start * width + columns.start)
        return view.reshape(size * size, -1)

    def _maps(self, pixel: np.ndarray) -> Tensor:
        """Correlation of all components with the micrograph at pixels yx `(n, 2)`, `(k, n)`."""
        start = torch.from_numpy(pixel[:, 0] * self._seen.shape[1] + pixel[:, 1]).to(self._seen.device)
        patches = self._seen.reshape(-1)[self._offset.reshape(-1, 1) + start]
        return self._components.flatten(1) @ patches

    def _quadratic(self, weight: Tensor) -> Tensor:
        """`<t, W t>` of all templates, with `W` the filter of transform `weight`."""
        kernel = irfftn(weight.to(torch.complex64), self._spectrum.shape)
        place = torch.arange(self._size, device=kernel.device)
        apart = place[:, None] - place
        y, x = apart % kernel.shape[0], apart % kernel.shape[1]
        matrix = kernel[y[:, None, :, None], x[None, :, None, :]].flatten(2).flatten(0, 1)  # (m m, m m)
        images = self._components.flatten(1)
        return ((self._templates @ (images @ matrix @ images.T)) * self._templates).sum(1)


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

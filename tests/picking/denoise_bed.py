"""Even and odd sums with known truth, and what is asked of denoised micrographs."""

import numpy as np
import picking_bed
import scipy.fft
from scipy.ndimage import gaussian_filter

from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import write_mrc

PIXEL = 1.5


def halves(beads, seed, *, snr=0.05, shape=(1792, 1792), defocus=15_000.0, rise=1.0, **options):
    """Noise-free picture, even and odd sum; `snr` is that of their mean, with coloured noise independent in each."""
    truth = picking_bed.simulate(beads, shape=shape, snr=1e9, defocus=defocus, seed=seed, pixel_size=PIXEL, **options)
    clean = truth.image.astype(np.float64)
    inside = discs(shape, truth.position_px, truth.diameter / 2 / PIXEL) & ~truth.junk
    rng = np.random.default_rng(seed + 77)
    noise = [picking_bed._noise(rng, shape, rise, PIXEL) for _ in range(2)]
    level = np.sqrt(2 * clean[inside].var() / snr)
    return truth, clean, [(clean + level * n / n.std()).astype(np.float32) for n in noise]


def discs(shape, position, radius_px):
    return picking_bed._discs(shape, position, radius_px)


def write_set(folder, truths, pairs):
    """The sums of several micrographs in a folder, as `motion` writes them."""
    paths = {"": [], "_even": [], "_odd": []}
    for i, (even, odd) in enumerate(pairs):
        for suffix, image in (("", even + odd), ("_even", even), ("_odd", odd)):
            paths[suffix].append(str(folder / f"m{i}{suffix}.mrc"))
            write_mrc(paths[suffix][-1], image.astype(np.float32), PIXEL, kind="image")
    defocus = np.asarray([truth.defocus for truth in truths])
    return MicrographSet(
        path=np.asarray(paths[""]),
        path_even=np.asarray(paths["_even"]),
        path_odd=np.asarray(paths["_odd"]),
        optics=(Optics(pixel_size=PIXEL),),
        optics_index=np.zeros(len(truths), int),
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle=np.zeros(len(truths)),
    )


def snr_in(image, clean, where):
    """Variance that the picture explains over the rest, inside the particles, after removing what is slower than them.

    The regression on truth counts blur and invented detail as noise.
    """
    a, b = image[where].astype(np.float64), clean[where].astype(np.float64)
    share = np.corrcoef(a, b)[0, 1] ** 2
    return share / (1 - share)


def best_low_pass(image, clean, where):
    """SNR of the image through the Gaussian low-pass filter that suits it best: what anybody can do by hand."""
    return max(snr_in(gaussian_filter(image, sigma), clean, where) for sigma in (2, 3, 4, 6, 8, 12, 16))


def displacements(image, clean, position, radius_px):
    """Where each particle of the image lies against truth, pixels yx, by correlation of both around it, `(n, 2)`."""
    n = 2 * int(radius_px)
    found = []
    for y, x in position:
        y0, x0 = int(round(y)) - n // 2, int(round(x)) - n // 2
        if y0 < 0 or x0 < 0 or y0 + n > image.shape[0] or x0 + n > image.shape[1]:
            continue
        a, b = (plane[y0 : y0 + n, x0 : x0 + n].astype(np.float64) for plane in (image, clean))
        window = np.outer(np.hanning(n), np.hanning(n))
        a, b = ((plane - plane.mean()) * window for plane in (a, b))
        correlation = scipy.fft.irfft2(scipy.fft.rfft2(a) * scipy.fft.rfft2(b).conj(), s=(n, n))
        correlation = np.roll(correlation, (n // 4, n // 4), (0, 1))[: n // 2 + 1, : n // 2 + 1]
        py, px = np.unravel_index(int(correlation.argmax()), correlation.shape)
        if not (0 < py < n // 2 and 0 < px < n // 2):
            found.append([py - n // 4, px - n // 4])
            continue
        place = []
        for low, mid, high, at in (
            (correlation[py - 1, px], correlation[py, px], correlation[py + 1, px], py),
            (correlation[py, px - 1], correlation[py, px], correlation[py, px + 1], px),
        ):
            place.append(at - n // 4 + 0.5 * (low - high) / (low - 2 * mid + high))
        found.append(place)
    return np.asarray(found)

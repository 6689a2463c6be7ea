"""Short interpolation filters that are flat over most of the band.

Filter `f` reads a value a fraction `f` of a pixel after its centre tap. Its taps minimise the weighted mean square
error of the frequency response up to `BAND` cycles per pixel, with unit response at zero (least-squares fractional
delay filters: Laakso, Välimäki, Karjalainen, Laine 1996, doi:10.1109/79.482137): within 1 % of one up to 0.38 cycles
per pixel at any fraction. What is lost nearer to the Nyquist frequency is known, and the sum of frames is divided by
the mean response (`mean_response`).
"""

import functools

import numpy as np

N_TAPS = 12
BAND = 0.38
N_FRACTIONS = 256


@functools.cache
def filter_bank() -> np.ndarray:
    """Taps for the fractions `i / N_FRACTIONS`.

    Returns
    -------
    taps
        `(N_FRACTIONS, N_TAPS)` float32; tap `j` of a filter multiplies the pixel `j - N_TAPS // 2 + 1` after the one
        that the position rounds down to. Taps of a filter add up to 1.
    """
    offset = _tap_offsets()
    k = np.linspace(0, 0.5, 401)
    weight = (1 + 30 * np.exp(-((k / 0.1) ** 2))) / (1 + np.exp((k - BAND) / 0.01))
    fraction = np.arange(N_FRACTIONS) / N_FRACTIONS
    basis = np.exp(2j * np.pi * offset[:, None] * k)  # (n_taps, n_k)
    target = np.exp(2j * np.pi * k[:, None] * fraction)  # (n_k, n_fractions)
    inverse = np.linalg.inv(np.real((basis * weight) @ basis.conj().T))
    taps = inverse @ np.real((basis.conj() * weight) @ target)
    towards_unit_sum = inverse.sum(1) / inverse.sum()
    taps += towards_unit_sum[:, None] * (1 - taps.sum(0))
    return np.ascontiguousarray(taps.T.astype(np.float32))


def mean_response(fraction: np.ndarray, k_per_px: np.ndarray) -> np.ndarray:
    """Mean response of the filters over a sample of fractions.

    Parameters
    ----------
    fraction
        Fractions in [0, 1), any shape.
    k_per_px
        Frequencies in cycles per pixel, `(n,)`.

    Returns
    -------
    response
        Real part of the mean response with the shift itself taken out, `(n,)` float64.
    """
    index = np.minimum((np.asarray(fraction).reshape(-1) * N_FRACTIONS).astype(np.int64), N_FRACTIONS - 1)
    count = np.bincount(index, minlength=N_FRACTIONS).astype(np.float64)
    centre = np.arange(N_FRACTIONS) / N_FRACTIONS
    distance = _tap_offsets() - centre[:, None]  # (f, taps)
    taps = filter_bank() * count[:, None] / count.sum()
    # on a coarse grid of frequencies, then between them: the response is smooth
    k_grid = np.linspace(0, 0.5, 257)
    response = np.cos(2 * np.pi * distance.reshape(-1) * k_grid[:, None]) @ taps.reshape(-1)
    return np.asarray(np.interp(np.abs(k_per_px), k_grid, response))


def _tap_offsets() -> np.ndarray:
    return np.arange(N_TAPS) - (N_TAPS // 2 - 1)

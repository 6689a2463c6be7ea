"""An independent recipe of micrographs, written in plain NumPy from the textbook formula."""

import numpy as np
import scipy.fft


def wavelength(voltage_kv):
    volt = 1e3 * voltage_kv
    return 12.2642596588 / np.sqrt(volt * (1 + 0.978475598e-6 * volt))


def textbook_ctf(shape, pixel_size, u, v, angle, voltage_kv=300.0, cs_mm=2.7, contrast=0.1, phase_shift=0.0):
    """CTF on the half plane, in the form of Rohou and Grigorieff (overall sign does not matter here)."""
    ky = np.fft.fftfreq(shape[0], pixel_size)[:, None]
    kx = np.fft.rfftfreq(shape[1], pixel_size)[None, :]
    k2 = kx**2 + ky**2
    lam = wavelength(voltage_kv)
    defocus = 0.5 * (u + v) + 0.5 * (u - v) * np.cos(2 * (np.arctan2(ky, kx + 0 * ky) - angle))
    gamma = np.pi * lam * defocus * k2 - 0.5 * np.pi * cs_mm * 1e7 * lam**3 * k2**2 + phase_shift
    value = np.sqrt(1 - contrast**2) * np.sin(gamma) + contrast * np.cos(gamma)
    return value.astype(np.float32), np.sqrt(k2).astype(np.float32)


def simulate_micrograph(
    rng,
    shape=(1024, 1024),
    pixel_size=1.5,
    u=15_000.0,
    v=14_000.0,
    angle=0.3,
    *,
    voltage_kv=300.0,
    cs_mm=2.7,
    contrast=0.1,
    phase_shift=0.0,
    envelope=80.0,
    ice=0.3,
    particles=0.6,
    diameter=120.0,
    coverage=0.2,
    rise=0.8,
):
    """Particles of random atoms in ice, imaged and cut from a larger field, in coloured noise of unit shot noise.

    `ice` and `particles` are the standard deviations of their projected potential in units of the shot noise,
    `envelope` the B-factor in Å², `rise` the strength of the inelastic background at low frequency.
    """
    h, w = (int(1.2 * n) // 2 * 2 for n in shape)
    n_particles = max(1, int(coverage * h * w * pixel_size**2 / (np.pi * diameter**2 / 4)))
    n_atoms = 300
    direction = rng.standard_normal((n_particles, n_atoms, 3))
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    atoms = direction * (0.5 * diameter * rng.random((n_particles, n_atoms, 1)) ** (1 / 3)) / pixel_size
    position = rng.random((n_particles, 1, 2)) * (h, w) + atoms[..., :2]
    grid = np.zeros((h, w), np.float32)
    row, column = position.astype(int).reshape(-1, 2).T
    np.add.at(grid, (row % h, column % w), 1.0)
    transfer, k = textbook_ctf((h, w), pixel_size, u, v, angle, voltage_kv, cs_mm, contrast, phase_shift)
    protein = scipy.fft.rfft2(grid) * np.exp(-10 * k**2) / np.sqrt(n_particles * n_atoms / (h * w))
    water = scipy.fft.rfft2(rng.standard_normal((h, w), dtype=np.float32)) * np.exp(-((k / 0.35) ** 2))
    image = (ice * water + particles * protein) * transfer * np.exp(-envelope * k**2 / 4)
    background = (
        0.35 + 0.65 * np.sinc(k * pixel_size) ** 2 + 0.8 * rise * np.exp(-k / 0.025) + 0.3 * rise * np.exp(-k / 0.08)
    )
    image += scipy.fft.rfft2(rng.standard_normal((h, w), dtype=np.float32)) * np.sqrt(background)
    top, left = (h - shape[0]) // 2, (w - shape[1]) // 2
    return scipy.fft.irfft2(image.astype(np.complex64), s=(h, w))[top : top + shape[0], left : left + shape[1]].astype(
        np.float32
    )


def simulate_slab(rng, size, pixel_size, defocus, thickness, *, ice=0.9, envelope=30.0, n_layers=10):
    """Ice in layers, each with its own defocus; the signal grows with the thickness (`ice` is for 1000 Å)."""
    shape = (size, size)
    total = 0
    for n in range(n_layers):
        z = ((n + 0.5) / n_layers - 0.5) * thickness
        transfer, k = textbook_ctf(shape, pixel_size, defocus + z + 150, defocus + z - 150, 0.4)
        total = total + scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * transfer
    strength = ice * np.sqrt(thickness / 1000 / n_layers)
    total = total * (strength * np.exp(-envelope * k**2 / 4 - (k / 0.4) ** 2))
    background = 0.35 + 0.65 * np.sinc(k * pixel_size) ** 2 + 0.8 * np.exp(-k / 0.025) + 0.3 * np.exp(-k / 0.08)
    total += scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32)) * np.sqrt(background)
    return scipy.fft.irfft2(total.astype(np.complex64), s=shape).astype(np.float32)


def draw_case(seed, low=3_000.0, high=30_000.0, astigmatism_max=2_000.0):
    """One random micrograph's parameters: `(rng, u, v, angle, pixel_size, recipe)`.

    Per area the rings are fainter than those of EMPIAR-10146, whose evidence is 120 to 400 per 10⁶ Å².
    """
    rng = np.random.default_rng(seed)
    mean = np.exp(rng.uniform(np.log(low), np.log(high)))
    astigmatism = rng.uniform(0, min(astigmatism_max, mean))
    recipe = {
        "envelope": rng.uniform(50, 150),
        "ice": rng.uniform(0.15, 0.4),
        "particles": rng.uniform(0.3, 0.9),
        "coverage": rng.uniform(0.02, 0.3),
        "rise": rng.uniform(0.3, 1.5),
        "diameter": rng.uniform(80, 200),
    }
    angle, pixel_size = rng.uniform(0, np.pi), rng.uniform(1.0, 1.5)
    return rng, mean + astigmatism / 2, mean - astigmatism / 2, angle, pixel_size, recipe


def cramer_rao(case, size, fold=4):
    """Smallest standard errors of U and V that an unbiased estimate can have, all else known: `(2,)` Å.

    Every coefficient of the micrograph is exponentially distributed about its expected power; sums over
    coefficients are taken on a grid coarser by `fold`.
    """
    _, u, v, angle, pixel_size, recipe = case
    n = size // fold
    ky, kx = np.fft.fftfreq(n, pixel_size)[:, None], np.fft.rfftfreq(n, pixel_size)[None, :]
    transfer, k = textbook_ctf((n, n), pixel_size, u, v, angle)
    step = 1.0
    ahead, _ = textbook_ctf((n, n), pixel_size, u + step, v + step, angle)
    x = np.pi * k * recipe["diameter"] + 1e-9
    ball = (3 * (np.sin(x) - x * np.cos(x)) / x**3) ** 2
    signal = recipe["ice"] ** 2 * np.exp(-2 * (k / 0.35) ** 2)
    signal = signal + recipe["particles"] ** 2 * np.exp(-20 * k**2) * (1 + 300 * ball)
    signal = signal * np.exp(-recipe["envelope"] * k**2 / 2)
    rise = recipe["rise"]
    noise = (
        0.35 + 0.65 * np.sinc(k * pixel_size) ** 2 + 0.8 * rise * np.exp(-k / 0.025) + 0.3 * rise * np.exp(-k / 0.08)
    )
    slope = signal * (ahead.astype(float) ** 2 - transfer.astype(float) ** 2) / step / (signal * transfer**2 + noise)
    used = (k > 1 / 30) & (k < min(1 / 3.2, 0.47 / pixel_size)) & ~((kx == 0) & (ky < 0))
    theta2 = 2 * (np.arctan2(ky, kx + 0 * ky) - angle)
    rows = [(slope * part)[used] for part in (np.ones_like(theta2), np.cos(theta2), np.sin(theta2))]
    covariance = np.linalg.inv(fold**2 * np.asarray([[a @ b for a in rows] for b in rows]))
    both = np.asarray([[1, 1, 0], [1, -1, 0]])
    return np.sqrt(np.diag(both @ covariance @ both.T))


def slab_bound(defocus, thickness, *, size=2560, pixel_size=1.0, ice=0.9, envelope=30.0, fold=4, n_smooth=9):
    """Smallest standard error of the thickness of `simulate_slab`'s ice, Å (Cramér-Rao).

    Fitted beside it are defocus, astigmatism, and smooth curves of the background and of the depth of the rings, each a
    sum of `n_smooth` Legendre polynomials in the root of the frequency.
    """
    n = size // fold
    ky, kx = np.fft.fftfreq(n, pixel_size)[:, None], np.fft.rfftfreq(n, pixel_size)[None, :]
    k = np.hypot(ky, kx)
    used = (k > 1 / 30) & (k < 1 / 3.2) & ~((kx == 0) & (ky < 0))
    theta2, k = 2 * (np.arctan2(ky, kx + 0 * ky)[used] - 0.4), k[used]
    lam = wavelength(300.0)
    x = lam * k**2 * thickness
    chi2 = (
        2 * np.pi * lam * k**2 * (defocus + 150 * np.cos(theta2)) - np.pi * 2.7e7 * lam**3 * k**4 + 2 * np.arcsin(0.1)
    )
    signal = 0.5 * ice**2 * thickness / 1000 * np.exp(-envelope * k**2 / 2 - 2 * (k / 0.4) ** 2)
    noise = 0.35 + 0.65 * np.sinc(k * pixel_size) ** 2 + 0.8 * np.exp(-k / 0.025) + 0.3 * np.exp(-k / 0.08)
    model = noise + signal * (1 - np.sinc(x) * np.cos(chi2))
    phase = signal * np.sinc(x) * np.sin(chi2) * 2 * np.pi * lam * k**2 / model
    place = 2 * (np.sqrt(k) - np.sqrt(k.min())) / np.ptp(np.sqrt(k)) - 1
    smooth = np.polynomial.legendre.legvander(place, n_smooth - 1).T
    columns = [-signal * (np.cos(np.pi * x) - np.sinc(x)) / thickness * np.cos(chi2) / model]
    columns += [phase, phase * np.cos(theta2), phase * np.sin(theta2)]
    columns += [*(smooth * noise / model), *(smooth * signal * np.sinc(x) * np.cos(chi2) / model)]
    columns = np.asarray(columns)
    scale = np.sqrt((columns**2).sum(1))
    information = fold**2 * (columns @ columns.T) / np.outer(scale, scale)
    return float(np.sqrt(np.linalg.inv(information)[0, 0]) / scale[0])


RINGLESS = ("white", "coloured", "gradient", "ice")


def ringless_image(kind, seed, size, pixel_size):
    """An image without rings: white noise, coloured noise, noise under a gradient, counted ice without a CTF."""
    rng = np.random.default_rng([seed, RINGLESS.index(kind), size])
    white = rng.standard_normal((size, size), dtype=np.float32)
    k = np.hypot(np.fft.fftfreq(size, pixel_size)[:, None], np.fft.rfftfreq(size, pixel_size))
    if kind == "coloured":
        rise = 1 + rng.uniform(5, 30) / (1 + (k / rng.uniform(0.01, 0.05)) ** 2)
        spectrum = scipy.fft.rfft2(white) * np.exp(-rng.uniform(2, 10) * k**2) * np.sqrt(rise)
        return scipy.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    if kind == "gradient":
        place = np.linspace(-1, 1, size)
        ramp = place[:, None] * rng.normal() + place * rng.normal()
        return (white * (1 + 0.3 * np.tanh(ramp)) + 3 * ramp + 2 * np.cos(6 * ramp)).astype(np.float32)
    if kind == "ice":
        structure = 0.06 + 0.94 / (1 + np.exp(-(k - 0.21) / 0.025)) + 0.5 * np.exp(-(((k - 0.27) / 0.04) ** 2))
        rate = 8 + 2.8 * scipy.fft.irfft2(scipy.fft.rfft2(white) * np.sqrt(1 + 0.3 * structure), s=(size, size))
        return rng.poisson(np.maximum(rate, 0)).astype(np.float32)
    return white

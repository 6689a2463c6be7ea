"""A small movie generator with known truth, for the tests of this room only."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter1d, map_coordinates


@dataclass(frozen=True)
class SimulatedMovie:
    """Frames `(t, h, w)` and where the content sits in each of them."""

    frames: np.ndarray
    drift_px: np.ndarray  # (t, 2), zero for frame 0
    local_px: np.ndarray  # (6, t, 2), factors of 1, u, u², v, v², uv with u, v = x, y in [-0.5, 0.5]
    signal: np.ndarray  # (h, w), undamaged and unmoved, unit variance
    pixel_size: float

    def field(self, position_px: np.ndarray) -> np.ndarray:
        """True displacement `(n, t, 2)` of content that sits at `position_px` `(n, 2)` in frame 0."""
        h, w = self.signal.shape
        basis = quadratic_basis(position_px[:, 0] / h - 0.5, position_px[:, 1] / w - 0.5)
        return self.drift_px[None] + np.einsum("mn,mtc->ntc", basis, self.local_px)


def quadratic_basis(v, u):
    return np.stack([np.ones_like(u), u, u**2, v, v**2, u * v])


def specimen(h, w, pixel_size, rng, *, defocus=15_000.0, n_particles=None, bfactor=60.0):
    """Random globular molecules in ice, with a CTF; zero mean, unit variance, dark on bright."""
    n_particles = n_particles or max(8, int(h * w * pixel_size**2 / 150.0**2 / 1.6))
    image = np.zeros((h, w), np.float32)
    for _ in range(n_particles):
        centre = rng.uniform(0, 1, 2) * (h, w)
        n_atoms = 5000
        direction = rng.normal(size=(n_atoms, 3))
        radius = 60.0 * rng.uniform(0.15, 1, (n_atoms, 1)) ** (1 / 3)
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        # domains make low-frequency contrast
        atoms = direction * radius
        domain = rng.normal(0, 25, (6, 3))
        atoms = atoms * 0.45 + domain[rng.integers(0, 6, n_atoms)]
        yx = np.rint(centre + atoms[:, :2] / pixel_size).astype(int) % (h, w)
        np.add.at(image, (yx[:, 0], yx[:, 1]), 1.0)
    ky = scipy.fft.fftfreq(h, pixel_size)[:, None]
    kx = scipy.fft.rfftfreq(w, pixel_size)[None]
    k2 = ky**2 + kx**2
    wavelength = 0.0196875
    chi = -np.pi * wavelength * defocus * k2 + 0.5 * np.pi * 2.7e7 * wavelength**3 * k2**2 - np.arcsin(0.1)
    envelope = np.sin(chi) * np.exp(-bfactor / 4 * k2) * (k2 < (0.45 / pixel_size) ** 2)
    image = scipy.fft.irfft2(scipy.fft.rfft2(image) * envelope, s=(h, w)).astype(np.float32)
    return (image - image.mean()) / image.std()


def defocus_bound(image, snr, pixel_size, defocus):
    """Smallest standard errors of mean defocus and astigmatism (cos, sin), all else known (Cramér-Rao), `(3,)` Å.

    `image` is a specimen of unit variance, `snr` that of the sum it is found in. Its power without a CTF is taken from
    averages over rings.
    """
    h, w = image.shape
    ky, kx = np.fft.fftfreq(h, pixel_size)[:, None], np.fft.rfftfreq(w, pixel_size)[None]
    k, theta = np.hypot(ky, kx), np.arctan2(ky, kx + 0 * ky)
    chi = -np.pi * 0.0196875 * defocus * k**2 + 0.5 * np.pi * 2.7e7 * 0.0196875**3 * k**4 - np.arcsin(0.1)
    shell = np.rint(0.25 * k * max(h, w) * pixel_size).astype(int).ravel()
    power = np.abs(scipy.fft.rfft2(image)).ravel() ** 2 / image.size
    ring = np.bincount(shell, power) / np.maximum(np.bincount(shell, np.sin(chi).ravel() ** 2), 1e-9)
    signal = snr * gaussian_filter1d(ring, 3)[shell].reshape(k.shape)
    slope = -np.pi * 0.0196875 * k**2 * signal * np.sin(2 * chi) / (1 + signal * np.sin(chi) ** 2)
    used = (k > 1 / 30) & (k < min(1 / 3.2, 0.47 / pixel_size)) & ~((kx == 0) & (ky < 0))
    rows = [(slope * part)[used] for part in (np.ones_like(theta), np.cos(2 * theta), np.sin(2 * theta))]
    return np.sqrt(np.diag(np.linalg.inv([[a @ b for a in rows] for b in rows])))


def drift_curve(n, total_px, rng, *, jitter_px=0.1):
    """Fast at first, then slow and curved, with a little jitter; zero at frame 0."""
    t = np.arange(n)
    speed = 1 + 4 * np.exp(-t / 3.0)
    angle = rng.uniform(0, 2 * np.pi) + 0.8 * np.sin(2 * np.pi * t / n * rng.uniform(0.5, 1.2))
    step = speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    path = np.cumsum(step, 0)
    path *= total_px / max(np.linalg.norm(path[-1] - path[0]), 1e-9)
    path += rng.normal(0, jitter_px, path.shape)
    return path - path[0]


def doming(n, size_px, rng):
    """Quadratic local motion that saturates; `size_px` is the difference between centre and corner."""
    t = 1 - np.exp(-np.arange(n) / (n / 4))
    factors = np.zeros((6, n, 2))
    factors[1, :, 1] = rng.uniform(-0.5, 1) * size_px * t
    factors[3, :, 0] = rng.uniform(-0.5, 1) * size_px * t
    for m in (2, 4):
        factors[m] = rng.normal(0, 2.5 * size_px, 2) * t[:, None]
    factors[5] = rng.normal(0, 1.5 * size_px, 2) * t[:, None]
    return factors


def simulate(
    shape=(1024, 1024),
    n=30,
    *,
    pixel_size=1.0,
    snr=1e-3,
    drift_px=20.0,
    doming_px=0.0,
    dose_per_frame=1.0,
    counts=1.0,
    seed=0,
    damage=None,
    noise="poisson",
    signal=None,
    bfactor=60.0,
    jitter_px=0.1,
    spoiled=0.0,
    spoiled_snr=3e-3,
    fixed_pattern=0.0,
):
    """Movie of a moving specimen.

    `snr` is signal variance over noise variance per pixel of a frame. `spoiled` pairs of frames share a texture of
    their own that lies elsewhere in the second. `fixed_pattern` is the relative spread of a gain error per pixel.
    """
    rng = np.random.default_rng(seed)
    h, w = shape
    margin = 64
    big = (h + 2 * margin, w + 2 * margin)
    signal_big = specimen(*big, pixel_size, rng, bfactor=bfactor) if signal is None else signal
    drift = drift_curve(n, drift_px, rng, jitter_px=jitter_px)
    local = doming(n, doming_px, rng) if doming_px else np.zeros((6, n, 2))
    contrast = np.sqrt(snr / counts)
    dft = scipy.fft.rfft2(signal_big)
    ky = scipy.fft.fftfreq(big[0])[:, None]
    kx = scipy.fft.rfftfreq(big[1])[None]

    def moved_by(spectrum, shift):
        phase = np.exp(-2j * np.pi * ky * shift[0]) * np.exp(-2j * np.pi * kx * shift[1])
        return scipy.fft.irfft2(spectrum * phase.astype(np.complex64), s=big)

    k = np.hypot(ky, kx) / pixel_size
    grid_y, grid_x = np.mgrid[:h, :w].astype(np.float32)
    v, u = grid_y / h - 0.5, grid_x / w - 0.5
    frames = np.zeros((n, h, w), np.uint8 if noise == "poisson" else np.float32)
    extra = _spoil(n, shape, pixel_size, spoiled, np.sqrt(spoiled_snr / counts), rng) if spoiled else None
    gain_error = 1 + fixed_pattern * rng.standard_normal(shape, dtype=np.float32)
    for t in range(n):
        frame_dft = dft if damage is None else dft * damage(k, (t + 0.5) * dose_per_frame).astype(np.float32)
        if doming_px:
            still = moved_by(frame_dft, drift[t])
            # content at p moves to p + local(p): read at p - local(p - local(p))
            dy, dx = (np.tensordot(local[:, t, c], quadratic_basis(v, u), 1) for c in range(2))
            vy, ux = v - (dy + drift[t, 0]) / h, u - (dx + drift[t, 1]) / w
            dy, dx = (np.tensordot(local[:, t, c], quadratic_basis(vy, ux), 1) for c in range(2))
            moved = map_coordinates(still, [grid_y - dy + margin, grid_x - dx + margin], order=5, mode="nearest")
        else:
            moved = moved_by(frame_dft, drift[t])[margin:-margin, margin:-margin]
        rate = counts * (1 + contrast * moved) * gain_error
        if extra is not None:
            rate = rate + counts * extra[t]
        if noise == "poisson":
            frames[t] = np.minimum(rng.poisson(np.maximum(rate, 0)), 255)
        else:
            frames[t] = rate + rng.normal(0, np.sqrt(counts), rate.shape)
    return SimulatedMovie(frames, drift, local, signal_big[margin:-margin, margin:-margin], pixel_size)


@dataclass(frozen=True)
class CorrelatedMovie:
    """Frames `(t, h, w)`, and displacement `(n, t, 2)` of the content of some places `(n, 2)`, zero in frame 0."""

    frames: np.ndarray
    position_px: np.ndarray
    track_px: np.ndarray


def simulate_correlated(seed, *, size=1024, n=24, pixel_size=3.0, snr=2e-3, length=4000.0, local_px=0.8, drift_px=8.0):
    """A movie whose tracks are a random field with the correlation `exp(-distance / length)` in place (Å).

    Steps are largest in the first frames; those of successive frames have a correlation of 0.7.
    """
    rng = np.random.default_rng(seed)
    margin, n_nodes = 64, 12
    signal = specimen(size + 2 * margin, size + 2 * margin, pixel_size, rng)
    node = np.linspace(0, size - 1, n_nodes)
    y, x = (a.ravel() for a in np.meshgrid(node, node, indexing="ij"))
    distance = np.hypot(y[:, None] - y, x[:, None] - x) * pixel_size
    root = np.linalg.cholesky(np.exp(-distance / length) + 1e-9 * np.eye(len(y)))
    step = np.zeros((n_nodes**2, n, 2))
    for t in range(1, n):
        step[:, t] = 0.7 * step[:, t - 1] + np.sqrt(1 - 0.49) * (root @ rng.standard_normal((n_nodes**2, 2)))
    step *= (1 + 3 * np.exp(-np.arange(n) / 3.0))[None, :, None]
    local = np.cumsum(step, 1)
    local *= local_px / np.std(local - local.mean(0), axis=(0, 2)).mean()
    track = local + drift_curve(n, drift_px, rng)[None]
    track -= track[:, :1]
    grid_y, grid_x = np.mgrid[:size, :size].astype(np.float32)
    frames = np.zeros((n, size, size), np.uint8)
    scale = (n_nodes - 1) / (size - 1)
    for t in range(n):
        d = [track[:, t, c].reshape(n_nodes, n_nodes) for c in range(2)]
        move = [map_coordinates(a, [grid_y * scale, grid_x * scale], order=1, mode="nearest") for a in d]
        # content at p moves to p + d(p): read at p - d(p - d(p))
        back = [(grid_y - move[0]) * scale, (grid_x - move[1]) * scale]
        move = [map_coordinates(a, back, order=1, mode="nearest") for a in d]
        moved = map_coordinates(signal, [grid_y - move[0] + margin, grid_x - move[1] + margin], order=3, mode="nearest")
        frames[t] = np.minimum(rng.poisson(np.maximum(1 + np.sqrt(snr) * moved, 0)), 255)
    return CorrelatedMovie(frames, np.stack([y, x], -1), track)


def _spoil(n, shape, pixel_size, fraction, contrast, rng):
    """Textures shared by pairs of frames, at another place in the second frame of each pair, `(n, h, w)`."""
    h, w = shape
    ky = scipy.fft.fftfreq(2 * h, pixel_size).astype(np.float32)[:, None]
    kx = scipy.fft.rfftfreq(2 * w, pixel_size).astype(np.float32)[None]
    k2 = ky**2 + kx**2
    envelope = np.exp(-30 * k2) * (k2 > (1 / 200) ** 2)
    noise = rng.standard_normal((2 * h, 2 * w), dtype=np.float32)
    texture = scipy.fft.irfft2(scipy.fft.rfft2(noise) * envelope, s=(2 * h, 2 * w))
    texture *= contrast / texture.std()
    first, second = np.triu_indices(n, 1)
    chosen = rng.permutation(len(first))[: round(fraction * len(first))]
    extra = np.zeros((n, *shape), np.float32)
    for a, b in zip(first[chosen], second[chosen], strict=True):
        y, x = rng.integers(16, (h - 16, w - 16))  # pieces of one large texture, another one for each pair
        dy, dx = rng.integers(-12, 13, 2)
        extra[a] += texture[y : y + h, x : x + w]
        extra[b] += texture[y + dy : y + dy + h, x + dx : x + dx + w]
    return extra

"""Micrographs with known particle positions, made apart from the package's own simulator.

A particle is a cloud of Gaussian beads; a micrograph is the sum of its projections in random orientations,
seen through a CTF, with noise that is white plus a rise at low frequency. SNR follows the table of
capabilities: variance of the CTF-modulated image inside the particle's circle over total noise variance
per pixel. Contrast is that of the microscope: particles are dark.
"""

from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from scipy.stats import rankdata

from cryoloom.data import MicrographSet, Optics
from cryoloom.io.mrc import write_mrc
from cryoloom.optics.ctf import ctf


@dataclass(frozen=True)
class Micrograph:
    """An image, where its particles are (pixels yx), and the masks of what is not particle."""

    image: np.ndarray
    position_px: np.ndarray
    defocus: float
    diameter: float
    junk: np.ndarray


def bead_cloud(mass_kda: float, axes: tuple[float, float, float], seed: int) -> np.ndarray:
    """Beads of a compact particle with the axis ratios `axes`, `(n, 3)` Å; 1.21 Å3 per dalton, one bead per kDa."""
    rng = np.random.default_rng(seed)
    ratio = np.asarray(axes) / np.prod(axes) ** (1 / 3)
    radius = (3 * 1210.0 * mass_kda * 1.15 / (4 * np.pi)) ** (1 / 3)
    n = int(max(60, mass_kda))
    lobes = rng.normal(size=(4, 3))
    lobes *= 0.75 / np.linalg.norm(lobes, axis=1, keepdims=True)
    beads = []
    while len(beads) < n:
        p = rng.uniform(-1, 1, 3)
        if np.linalg.norm(p) > 1 or (np.linalg.norm(p) > 0.6 and np.linalg.norm(lobes - p, axis=1).min() > 0.55):
            continue
        beads.append(p)
    beads = np.asarray(beads) * radius * ratio * 1.08
    return beads - beads.mean(0)


def bead_shell(mass_kda: float, outer: float, inner: float, seed: int) -> np.ndarray:
    """Beads of a hollow particle between two radii in Å, `(n, 3)`, one bead per kDa."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(int(mass_kda), 3))
    radius = rng.uniform(inner**3, outer**3, len(direction)) ** (1 / 3)
    return direction / np.linalg.norm(direction, axis=1, keepdims=True) * radius[:, None]


def extent(beads: np.ndarray) -> float:
    """Diameter in Å of the smallest centred sphere that holds nearly all beads."""
    return 2 * float(np.quantile(np.linalg.norm(beads, axis=1), 0.98)) + 10.0


def simulate(
    beads: np.ndarray,
    *,
    shape: tuple[int, int] = (2048, 2048),
    pixel_size: float = 1.5,
    n_particles: int = 150,
    snr: float = 0.05,
    defocus: float = 15_000.0,
    low_frequency_rise: float = 1.0,
    junk: bool = False,
    extra: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    n_aggregates: int = 0,
    gradient: float = 0.0,
    seed: int = 0,
    spacing: float = 1.05,
    of_particles: bool = False,
) -> Micrograph:
    """One micrograph; `snr <= 0` gives noise only, with no particles.

    The signal that `snr` speaks of is all that is seen where particles are, fringes of crystals too, or that of the
    particles alone if `of_particles`.
    """
    rng = np.random.default_rng(seed)
    h, w = shape
    diameter = extent(beads)
    position = _scatter(rng, shape, n_particles, spacing * diameter / pixel_size, 0.3 * diameter / pixel_size)
    signal = np.zeros(shape)
    for y, x in position:
        turned = beads @ Rotation.random(random_state=rng.integers(2**31)).as_matrix().T / pixel_size
        _splat(signal, turned[:, 1] + y, turned[:, 0] + x)
    signal = gaussian_filter(signal, 4.0 / pixel_size)
    inside = _discs(shape, position, diameter / 2 / pixel_size)
    grid_y = torch.fft.fftfreq(h, pixel_size)[:, None]
    grid_x = torch.fft.rfftfreq(w, pixel_size)[None, :]
    optics = dict(voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1)
    transfer = ctf(
        grid_y, grid_x, defocus_u=defocus, defocus_v=defocus, defocus_angle=0.0, bfactor=60.0, **optics
    ).numpy()
    junk_mask = np.zeros(shape, dtype=bool)
    signal_level = signal.max()
    alone = scipy.fft.irfft2(scipy.fft.rfft2(signal.astype(np.float32)) * transfer, s=shape) if of_particles else None
    if junk:
        contamination, junk_mask = _contamination(rng, shape, diameter / pixel_size, signal_level)
        signal = signal + contamination
    if extra is not None:  # carbon, crystals, and the texture of carbon
        carbon, crystals, texture = extra
        signal = signal + signal_level * (carbon * (1.5 + 1.2 * texture) + 8 * crystals)
        junk_mask = carbon | crystals
    if n_aggregates:
        clumps, clumps_mask = _aggregates(rng, shape, diameter / pixel_size, signal_level, n_aggregates)
        signal = signal + clumps
        junk_mask = junk_mask | clumps_mask
    seen = scipy.fft.irfft2(scipy.fft.rfft2(signal.astype(np.float32)) * transfer, s=shape)
    noise = _noise(rng, shape, low_frequency_rise, pixel_size)
    clean = inside & ~junk_mask
    if n_particles and snr > 0:
        noise *= np.sqrt((seen if alone is None else alone)[clean].var() / snr) / noise.std()
    image = noise - (seen if snr > 0 else 0.0)
    if gradient:
        image += gradient * noise.std() * (np.linspace(-1, 1, h)[:, None] + np.linspace(-1, 1, w)[None, :])
    if junk_mask.any() and len(position):
        position = position[~junk_mask[position[:, 0].astype(int), position[:, 1].astype(int)]]
    return Micrograph(image.astype(np.float32), position, defocus, diameter, junk_mask)


def score_picks(found: np.ndarray, truth: np.ndarray, radius_px: float) -> tuple[float, float]:
    """Recall and precision of one-to-one matches closer than `radius_px`."""
    if not len(found) or not len(truth):
        return 0.0, 0.0
    distance = np.linalg.norm(found[:, None] - truth[None], axis=-1)
    n_matched, used = 0, np.zeros(len(truth), dtype=bool)
    for i in np.argsort(distance.min(1)):
        row = np.where(used, np.inf, distance[i])
        j = int(row.argmin())
        if row[j] <= radius_px:
            used[j] = True
            n_matched += 1
    return n_matched / len(truth), n_matched / len(found)


def simulated_set(folder, mass, axes, n, snr, seed, n_micrographs=3, **options):
    """Micrographs of a particle in a folder, at different defocus, and their truth."""
    beads = bead_cloud(mass, axes, seed)
    truth = [
        simulate(
            beads,
            shape=(1792, 1792),
            n_particles=n,
            snr=snr,
            defocus=8_000 + 6_000 * i,
            gradient=0.5,
            seed=100 * seed + i,
            **options,
        )
        for i in range(n_micrographs)
    ]
    paths = []
    for i, micrograph in enumerate(truth):
        paths.append(str(folder / f"m{i}.mrc"))
        write_mrc(paths[-1], micrograph.image, 1.5)
    defocus = np.asarray([m.defocus for m in truth])
    micrographs = MicrographSet(
        path=np.asarray(paths),
        optics=(Optics(pixel_size=1.5),),
        optics_index=np.zeros(len(paths), int),
        defocus_u=defocus,
        defocus_v=defocus,
        defocus_angle=np.zeros(len(paths)),
    )
    return micrographs, truth


def average_precision(picks, micrographs, truth):
    """Area under precision over recall of picks ranked by score over all micrographs, each particle found once."""
    hit, n = _ranked_hits(picks, micrographs, truth)
    return float((hit * np.cumsum(hit) / np.arange(1, len(hit) + 1)).sum() / n)


def precision_at(picks, micrographs, truth, levels):
    """Precision of the best picks that reach each recall; 0 where none do."""
    hit, n = _ranked_hits(picks, micrographs, truth)
    found = np.cumsum(hit)
    needed = [int(np.searchsorted(found, np.ceil(level * n))) for level in levels]
    return np.asarray([found[i] / (i + 1) if i < len(found) else 0.0 for i in needed])


def _ranked_hits(picks, micrographs, truth):
    """Whether each pick, by falling score over all micrographs, is the first on a particle; number of particles."""
    names = np.asarray([str(m) for m in picks.micrograph])
    score, hit, n = [], [], 0
    for path, micrograph in zip(micrographs.path, truth, strict=True):
        own = np.flatnonzero(names == str(path))
        own = own[np.argsort(-picks.score[own], kind="stable")]
        score.append(picks.score[own])
        hit.append(first_hits(picks.position_px[own], micrograph.position_px, 0.35 * micrograph.diameter / 1.5))
        n += len(micrograph.position_px)
    return np.concatenate(hit)[np.argsort(-np.concatenate(score), kind="stable")], n


def auc(good, bad):
    """Chance that a random one of `good` is larger than a random one of `bad`."""
    both = np.concatenate([good, bad])
    rank = rankdata(both)
    return (rank[: len(good)].sum() - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad))


def first_hits(found, truth, radius_px):
    """For picks in falling order, whether each is the first one on a particle."""
    free = np.ones(len(truth), dtype=bool)
    hit = np.zeros(len(found), dtype=bool)
    for i, place in enumerate(found):
        distance = np.where(free, np.linalg.norm(truth - place, axis=-1), np.inf)
        j = int(distance.argmin())
        if distance[j] <= radius_px:
            hit[i], free[j] = True, False
    return hit


def pooled_score(picks, micrographs, truth):
    """Recall and precision over all micrographs."""
    matched = n_true = n_found = 0.0
    names = np.asarray([str(m) for m in picks.micrograph])
    for path, micrograph in zip(micrographs.path, truth, strict=True):
        own = picks.position_px[names == str(path)]
        recall, _ = score_picks(own, micrograph.position_px, 0.35 * micrograph.diameter / 1.5)
        matched += recall * len(micrograph.position_px)
        n_true += len(micrograph.position_px)
        n_found += len(own)
    return matched / n_true, matched / max(n_found, 1)


def _scatter(rng, shape, n, spacing_px, edge_px):
    placed: list[np.ndarray] = []
    for _ in range(40 * n):
        if len(placed) == n:
            break
        p = rng.uniform(edge_px, np.asarray(shape) - edge_px)
        if all(np.hypot(*(p - q)) > spacing_px for q in placed):
            placed.append(p)
    return np.asarray(placed).reshape(-1, 2)


def _splat(image, y, x):
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    fy, fx = y - y0, x - x0
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            ok = (y0 + dy >= 0) & (y0 + dy < image.shape[0]) & (x0 + dx >= 0) & (x0 + dx < image.shape[1])
            np.add.at(image, (y0[ok] + dy, x0[ok] + dx), (wy * wx)[ok])


def _discs(shape, position, radius_px):
    inside = np.zeros(shape, dtype=bool)
    r = int(np.ceil(radius_px))
    for y, x in position.astype(int):
        y0, y1, x0, x1 = max(0, y - r), min(shape[0], y + r + 1), max(0, x - r), min(shape[1], x + r + 1)
        yy, xx = np.mgrid[y0:y1, x0:x1]
        inside[y0:y1, x0:x1] |= (yy - y) ** 2 + (xx - x) ** 2 < radius_px**2
    return inside


def _noise(rng, shape, rise, pixel_size):
    white = rng.standard_normal(shape, dtype=np.float32)
    if not rise:
        return white
    k = np.hypot(scipy.fft.fftfreq(shape[0], pixel_size)[:, None], scipy.fft.rfftfreq(shape[1], pixel_size)[None])
    colour = np.sqrt(1 + rise * np.exp(-((k / 0.03) ** 2)) + rise * np.exp(-((k / 0.005) ** 2)))
    return scipy.fft.irfft2(scipy.fft.rfft2(white) * colour.astype(np.float32), s=shape)


def _contamination(rng, shape, diameter_px, level):
    """Carbon in one corner, ice crystals and aggregates, with the mask of what they cover."""
    h, w = shape
    yy, xx = np.mgrid[:h, :w]
    extra = np.zeros(shape)
    mask = np.zeros(shape, dtype=bool)
    cy, cx, radius = h * 1.15, w * 1.15, 0.42 * max(h, w)
    carbon = np.hypot(yy - cy, xx - cx) < radius
    texture = gaussian_filter(rng.standard_normal(shape), 4.0)
    extra += carbon * (1.5 * level + 1.2 * level * texture / texture.std())
    mask |= carbon
    for _ in range(6):
        y, x, r = rng.uniform(0, h), rng.uniform(0, w), rng.uniform(0.3, 1.0) * diameter_px
        inside = np.hypot(yy - y, xx - x) < r
        extra += 8 * level * inside
        mask |= np.hypot(yy - y, xx - x) < r + 0.3 * diameter_px
    clumps, clumps_mask = _aggregates(rng, shape, diameter_px, level, 3)
    return extra + clumps, mask | clumps_mask


def _aggregates(rng, shape, diameter_px, level, n):
    """Clumps of 25 blobs each, and the mask of where a blob has more than 0.3 of its height."""
    yy, xx = np.arange(shape[0]), np.arange(shape[1])
    extra, mask = np.zeros(shape), np.zeros(shape, dtype=bool)
    for _ in range(n):
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        for _ in range(25):
            dy, dx = rng.normal(scale=1.3 * diameter_px, size=2)
            across = [
                np.exp(-((axis - c) ** 2) / (2 * (0.3 * diameter_px) ** 2)) for axis, c in ((yy, y + dy), (xx, x + dx))
            ]
            spot = across[0][:, None] * across[1][None, :]
            extra += 1.5 * level * spot
            mask |= spot > 0.3
    return extra, mask

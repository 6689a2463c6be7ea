"""Micrographs with filaments whose axes are known: bent tubes of beads, crossing, in noise, beside carbon."""

from dataclasses import dataclass

import numpy as np
import picking_bed
import scipy.fft
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter

from cryoloom.optics.ctf import ctf

PIXEL, RIM = 1.5, 160
"""Å, and pixels that are cut off: what the optics bring in from the opposite edge does not belong there."""


@dataclass(frozen=True)
class FilamentMicrograph:
    """An image, the axes of its filaments (pixels yx), where its filaments are, and where nothing is asked."""

    image: np.ndarray
    curves: list
    mask: np.ndarray
    junk: np.ndarray
    defocus: float
    diameter: float


def curve_mask(shape, curves, radius_px):
    """Pixels within a radius of curves."""
    far = np.ones(shape, dtype=bool)
    for curve in curves:
        steps = max(2, int(4 * np.linalg.norm(np.diff(curve, axis=0), axis=1).sum()))
        arc = np.r_[0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))]
        at = np.linspace(0, arc[-1], steps)
        line = np.rint(np.stack([np.interp(at, arc, curve[:, i]) for i in range(2)], -1)).astype(int)
        line = line[((line >= 0) & (line < shape)).all(1)]
        far[line[:, 0], line[:, 1]] = False
    return distance_transform_edt(far) <= radius_px if not far.all() else ~far


def filament_micrograph(
    seed, *, diameter=100.0, n=5, shape=(1024, 1024), snr=0.05, defocus=15_000.0, carbon=False, rise=1.0
):
    """Tubes with walls of beads on a helix; SNR is that inside the filaments, off the carbon."""
    rng = np.random.default_rng(seed)
    px = diameter / PIXEL
    seen_shape, shape = shape, tuple(side + 2 * RIM for side in shape)
    h, w = shape
    junk = np.zeros(shape, dtype=bool)
    extra = np.zeros(shape)
    if carbon:
        yy, xx = np.mgrid[:h, :w]
        junk = np.hypot(yy - 1.02 * h, xx - 1.02 * w) < 0.5 * max(h, w)
    curves = []
    while len(curves) < n:
        curve = _curve(rng, shape, px, float(rng.uniform(5, 11)) * px)
        inside = ((curve > RIM + 0.6 * px) & (curve < np.array(shape) - RIM - 0.6 * px)).all()
        if not inside or junk[tuple(curve.astype(int).T)].any():
            continue
        if any(_parallel_overlap(curve, other, 1.6 * px) for other in curves):
            continue
        curves.append(curve)
    signal = np.zeros(shape)
    for curve in curves:
        y, x = _beads(rng, curve, px)
        picking_bed._splat(signal, y, x)
    signal = gaussian_filter(signal, 4.0 / PIXEL)
    mask = curve_mask(shape, curves, 0.5 * px)
    level = signal.max()
    if carbon:
        texture = gaussian_filter(rng.standard_normal(shape), 4.0)
        extra = level * junk * (1.5 + 1.2 * texture / texture.std())
    ky, kx = scipy.fft.fftfreq(h, PIXEL)[:, None], scipy.fft.rfftfreq(w, PIXEL)[None]
    transfer = ctf(
        torch.from_numpy(ky), torch.from_numpy(kx), defocus_u=defocus, defocus_v=defocus, defocus_angle=0.0,
        bfactor=60.0, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1,
    ).numpy()  # fmt: skip
    alone = scipy.fft.irfft2(scipy.fft.rfft2(signal) * transfer, s=shape)
    seen = scipy.fft.irfft2(scipy.fft.rfft2(signal + extra) * transfer, s=shape)
    noise = picking_bed._noise(rng, shape, rise, PIXEL).astype(np.float64)
    noise *= np.sqrt(alone[mask].var() / snr) / noise.std()
    crop = (slice(RIM, RIM + seen_shape[0]), slice(RIM, RIM + seen_shape[1]))
    image = (noise - seen)[crop].astype(np.float32)
    return FilamentMicrograph(image, [curve - RIM for curve in curves], mask[crop], junk[crop], defocus, diameter)


def _curve(rng, shape, px, length):
    """A smooth curve of given length; its direction wanders by up to some 12 degrees per diameter."""
    n = max(8, int(length / (0.1 * px)))
    bend = gaussian_filter(rng.standard_normal(n + 200), 40)[100:-100]
    bend *= np.deg2rad(rng.uniform(2, 12)) / px * length / n / max(np.abs(bend).max(), 1e-9)
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(bend)
    steps = length / n * np.stack([np.sin(angle), np.cos(angle)], -1)
    points = np.cumsum(steps, axis=0)
    return points - points.mean(0) + rng.uniform(0.1, 0.9, 2) * shape


def _parallel_overlap(curve, other, least):
    """Whether two curves come close to one another while they run in nearly one direction."""
    distance = np.linalg.norm(curve[:, None] - other[None], axis=-1)
    i, j = np.nonzero(distance < least)
    if not len(i):
        return False
    a = np.gradient(curve, axis=0)[i]
    b = np.gradient(other, axis=0)[j]
    cross = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    return bool((cross < np.sin(np.deg2rad(40)) * np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).any())


def _beads(rng, curve, px):
    """Projected places of beads that fill a tube from a half to the whole of its radius, one wall per turn."""
    arc = np.r_[0, np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))]
    n = int(arc[-1] * px / 25)
    at = rng.uniform(0, arc[-1], n)
    place = np.stack([np.interp(at, arc, curve[:, i]) for i in range(2)], -1)
    tangent = np.stack([np.interp(at, arc, np.gradient(curve[:, i], arc)) for i in range(2)], -1)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    radius = 0.5 * px * np.sqrt(rng.uniform(0.15, 0.92, n))
    turn = 2 * np.pi * (at / (0.6 * px) + rng.integers(0, 3, n) / 3) + rng.normal(0, 0.5, n)
    side = radius * np.cos(turn)
    return place[:, 0] + side * tangent[:, 1], place[:, 1] - side * tangent[:, 0]


def overlap(found, micrograph):
    """IoU of the traced filaments, drawn with the true diameter, with the planted ones, off the carbon and its rim."""
    intersection, union = areas(found, micrograph)
    return intersection / max(union, 1)


def areas(found, micrograph):
    """Pixels of intersection and union of traced and planted filaments, 100 Å and more away from carbon."""
    radius = 0.5 * micrograph.diameter / PIXEL
    traced = curve_mask(micrograph.image.shape, found, radius) if len(found) else np.zeros_like(micrograph.mask)
    seen = distance_transform_edt(~micrograph.junk) > 100 / PIXEL if micrograph.junk.any() else ~micrograph.junk
    return int((traced & micrograph.mask & seen).sum()), int((traced | micrograph.mask)[seen].sum())

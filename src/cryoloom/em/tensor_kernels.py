"""The inner loops of `em/kernels.py` in plain torch: on GPUs, and in double precision on the CPU.

Each function does what the compiled one of the same name does, candidate by candidate in the same order of steps, for
many candidates at once; results differ by rounding alone. Poses come and go as NumPy arrays in float64, images are
moved to the device of the spectrum chunk by chunk. Sums of insertion on a GPU are added in no fixed order: they are the
same to rounding, not to the bit.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryoloom.em.images import ImageChunk
from cryoloom.em.points import PlanePoints
from cryoloom.fourier.slices import PADDING, PaddedSpectrum, insert_points
from cryoloom.geometry import axis_angle_to_matrix

POINTS_AT_ONCE = 1 << 21
"""Points of all candidates of a block; each thread holds one, and it takes some hundred bytes for each point."""


class Images:
    """Images of a chunk on the device of a spectrum, up to a number of points.

    Attributes
    ----------
    kx, ky
        Frequencies in Fourier pixels, `(n,)`.
    data
        `(b, n)` complex.
    ctf
        `(b, n)`.
    """

    def __init__(self, chunk: ImageChunk, points: PlanePoints, n_points: int, like: Tensor) -> None:
        self.like, self.n, self.box = like, n_points, points.box
        self.kx, self.ky = self.moved(points.kx[:n_points]), self.moved(points.ky[:n_points])
        data = self.moved(chunk.data[:, :, :n_points])
        self.data, self.ctf = torch.complex(data[:, 0], data[:, 1]), self.moved(chunk.ctf[:, :n_points])

    def moved(self, values: np.ndarray) -> Tensor:
        """Real numbers in the precision and on the device of the spectrum."""
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.like.device, self.like.real.dtype)

    def centred(self, at: Tensor, shift: Tensor) -> Tensor:
        """Images `at` brought to the centre by their shifts, pixels yx `(m, 2)`, `(m, n)` complex."""
        turn = (2.0 * math.pi / self.box) * shift.to(self.kx.dtype)
        phase = turn[:, 1:] * self.kx + turn[:, :1] * self.ky
        return self.data[at] * torch.polar(torch.ones_like(phase), phase)

    def blocks(self, m: int, *, each: int = 1) -> Iterator[slice]:
        """Candidates that are held together when each of their points takes `each` times the memory."""
        size = max(1, POINTS_AT_ONCE // (each * self.n))
        return (slice(start, min(start + size, m)) for start in range(0, m, size))


@dataclass(frozen=True)
class Slices:
    """Slices of a volume and how they change, `(m, n)` complex each: along the normal, and with a turn in the plane."""

    value: Tensor
    normal: Tensor
    turned: Tensor


def gather(spectrum: PaddedSpectrum, rotation: Tensor, kx: Tensor, ky: Tensor) -> Slices:
    """Slices at points and their derivatives; rotations `(m, 3, 3)`."""
    values = spectrum.values
    turn = (PADDING * rotation).to(kx.dtype)
    place = [turn[:, i, :1] * kx + turn[:, i, 1:2] * ky for i in range(3)]
    along = [turn[:, i, 1:2] * kx - turn[:, i, :1] * ky for i in range(3)]
    sign = torch.where(place[0] < 0, -1.0, 1.0).to(kx.dtype)
    base, fraction = [], []
    for i, axis in enumerate(place):
        upright = axis * sign + (spectrum.centre if i else 0)
        floor = upright.floor()
        base.append(floor.to(torch.int64))
        fraction.append(upright - floor)
    fx, fy, fz = fraction
    row, plane = values.shape[2], values.shape[1] * values.shape[2]
    at = base[2] * plane + base[1] * row + base[0]
    flat = values.reshape(-1)
    corners = []
    for step in (0, row, plane, plane + row):
        start = flat[at + step]
        rise = flat[at + (step + 1)] - start
        corners.append((start + fx * rise, rise))
    (a, da), (b, db), (c, dc), (d, dd) = corners
    ab, cd = a + fy * (b - a), c + fy * (d - c)
    slope_z = cd - ab
    slope_y = (b - a) + fz * ((d - c) - (b - a))
    low = da + fy * (db - da)
    slope_x = low + fz * ((dc + fy * (dd - dc)) - low)
    value = ab + fz * slope_z
    normal = slope_x * turn[:, 0, 2:] + slope_y * turn[:, 1, 2:] + slope_z * turn[:, 2, 2:]
    turned = slope_x * along[0] + slope_y * along[1] + slope_z * along[2]
    # a mirrored point takes the conjugate: the value's imaginary part changes sign, its derivative's twice
    return Slices(
        torch.complex(value.real, sign * value.imag),
        torch.complex(sign * normal.real, normal.imag),
        torch.complex(sign * turned.real, turned.imag),
    )


def fit_poses(
    spectrum: PaddedSpectrum,
    images: Images,
    at: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
    prior_rotation: np.ndarray,
    prior_shift: np.ndarray,
    precision: np.ndarray,
    weights: np.ndarray,
    *,
    n_steps: int,
    largest_turn: float,
    largest_shift: float,
) -> tuple[np.ndarray, ...]:
    """Damped Gauss-Newton steps of all candidates.

    Parameters
    ----------
    at
        Image of each candidate, `(m,)`.
    rotation, shift, scale
        Where to start, `(m, 3, 3)`, `(m, 2)` yx pixels, `(m,)`.
    prior_rotation, prior_shift, precision
        Centres of the priors, as the poses, and precision of turn, shift and scale, `(3,)`.
    weights
        `2 / σ²` of each image at the points, `(b, n)`.

    Returns
    -------
    rotation, shift, scale, cost, information
        The last of the likelihood alone, `(m, 6, 6)`.
    """
    device = spectrum.values.device
    weight = images.moved(weights)
    parts = []
    for block in images.blocks(len(at)):
        r, t, s, pr, pt = (
            torch.from_numpy(column[block].copy()).to(device, torch.float64)
            for column in (rotation, shift, scale, prior_rotation, prior_shift)
        )
        problem = _Problem(spectrum, images, torch.from_numpy(at[block]).to(device), weight, pr, pt, precision)
        parts.append([c.cpu().numpy() for c in _descend(problem, r, t, s, n_steps, largest_turn, largest_shift)])
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


class _Problem:
    """Cost, Gauss-Newton matrix and descent direction of a block of candidates."""

    def __init__(
        self,
        spectrum: PaddedSpectrum,
        images: Images,
        at: Tensor,
        weight: Tensor,
        prior_rotation: Tensor,
        prior_shift: Tensor,
        precision: np.ndarray,
    ) -> None:
        self.spectrum, self.images, self.at, self.weight = spectrum, images, at, weight
        self.prior_rotation, self.prior_shift = prior_rotation, prior_shift
        self.turn_precision, self.shift_precision, self.scale_precision = (float(p) for p in precision)

    def equations(self, which: Tensor, r: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cost `(k,)`, matrix with priors, matrix of the likelihood `(k, 6, 6)`, and direction `(k, 6)`, float64."""
        images, at = self.images, self.at[which]
        found = gather(self.spectrum, r, images.kx, images.ky)
        ctf, root = images.ctf[at], self.weight[at].sqrt()
        scale = s.to(ctf.dtype)[:, None]
        model = ctf * found.value
        residual = (images.centred(at, t) - scale * model) * root
        out_of_plane = scale * ctf * found.normal
        along_ramp = -1j * (2.0 * math.pi / images.box) * scale * model
        columns = torch.stack(
            [
                images.ky * out_of_plane, -images.kx * out_of_plane, scale * ctf * found.turned,
                images.kx * along_ramp, images.ky * along_ramp, model,
            ],
            dim=1,
        ) * root[:, None]  # fmt: skip
        jacobian = torch.view_as_real(columns).flatten(2)  # (k, 6, 2 n)
        rest = torch.view_as_real(residual).flatten(1)[:, :, None]
        likelihood = (jacobian @ jacobian.mT).double()
        direction = (jacobian @ rest)[..., 0].double()
        cost = 0.5 * (rest[..., 0] ** 2).sum(1).double()
        return self._with_priors(which, cost, likelihood, direction, r, t, s)

    def _with_priors(
        self, which: Tensor, cost: Tensor, likelihood: Tensor, direction: Tensor, r: Tensor, t: Tensor, s: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        added = torch.zeros(6, dtype=torch.float64, device=cost.device)
        added[5] = self.scale_precision
        cost = cost + 0.5 * self.scale_precision * (1.0 - s) ** 2
        direction[:, 5] += self.scale_precision * (1.0 - s)
        if self.shift_precision > 0:
            off = self.prior_shift[which] - t
            cost = cost + 0.5 * self.shift_precision * (off**2).sum(1)
            direction[:, 3:5] += self.shift_precision * off.flip(1)
            added[3:5] = self.shift_precision
        if self.turn_precision > 0:
            off = r.mT @ self.prior_rotation[which]
            skew = torch.stack(
                [off[:, 2, 1] - off[:, 1, 2], off[:, 0, 2] - off[:, 2, 0], off[:, 1, 0] - off[:, 0, 1]], 1
            )
            sine = 0.5 * skew.norm(dim=1)
            angle = torch.atan2(sine, 0.5 * (off.diagonal(dim1=1, dim2=2).sum(1) - 1.0))
            factor = torch.where(sine > 1e-9, 0.5 * angle / sine.clamp_min(1e-9), torch.full_like(sine, 0.5))
            direction[:, :3] += self.turn_precision * factor[:, None] * skew
            cost = cost + 0.5 * self.turn_precision * angle**2
            added[:3] = self.turn_precision
        return cost, likelihood + torch.diag(added), likelihood, direction


def _descend(
    problem: _Problem, r: Tensor, t: Tensor, s: Tensor, n_steps: int, largest_turn: float, largest_shift: float
) -> tuple[Tensor, ...]:
    """The damped steps; each candidate keeps its own damping and stops by itself."""
    going = torch.arange(len(s), device=s.device)
    cost, matrix, likelihood, direction = problem.equations(going, r, t, s)
    damping = torch.full_like(cost, 1e-2)
    for _ in range(n_steps):
        if not len(going):
            break
        some = matrix[going]
        diagonal = some.diagonal(dim1=1, dim2=2)
        damped = some + torch.diag_embed(diagonal * damping[going, None] + 1e-9)
        step = torch.linalg.solve(damped, direction[going])
        step[:, :5] *= (largest_turn / step[:, :3].norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)[:, None]
        step[:, :5] *= (largest_shift / step[:, 3:5].norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)[:, None]
        trial_r = r[going] @ axis_angle_to_matrix(step[:, :3])
        trial_t = t[going] + step[:, 3:5].flip(1)
        trial_s = (s[going] + step[:, 5]).clamp(0.2, 5.0)
        trial_cost, *trial = problem.equations(going, trial_r, trial_t, trial_s)
        gain = cost[going] - trial_cost
        better = gain > 0
        taken = going[better]
        for kept, new in zip(
            (r, t, s, cost, matrix, likelihood, direction),
            (trial_r, trial_t, trial_s, trial_cost, *trial),
            strict=True,
        ):
            kept[taken] = new[better]
        before = damping[going]
        damping[going] = torch.where(better, (0.2 * before).clamp_min(1e-4), (8.0 * before).clamp_min(0.1))
        going = going[torch.where(better, gain >= 0.01, damping[going] <= 50.0)]
    return r, t, s, cost, likelihood


def insert_particles(
    sums: Tensor,
    images: Images,
    at: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
    posterior: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Insert candidates into `sums`; `weights` are `1 / σ²` of each image at the points, `(b, n)`."""
    weight = images.moved(weights)
    points = torch.stack([images.kx, images.ky], dim=1)
    for block in images.blocks(len(at), each=8):  # each point has eight corners
        image = torch.from_numpy(at[block]).to(sums.device)
        grey, share = images.moved(scale[block])[:, None], images.moved(posterior[block])[:, None]
        model = grey * images.ctf[image]
        factor = share * weight[image] * model
        centred = images.centred(image, torch.from_numpy(shift[block]).to(sums.device))
        insert_points(sums, torch.from_numpy(rotation[block]), points, factor * centred, factor * model)


def residual_power(
    spectrum: PaddedSpectrum,
    images: Images,
    at: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
    shell: np.ndarray,
    n_shells: int,
) -> np.ndarray:
    """Sum of `|X - s C V exp(-2πi k·t)|²` over the points of each shell, `(m, n_shells)` float64."""
    device = spectrum.values.device
    where = torch.from_numpy(shell[: images.n].astype(np.int64)).to(device)
    parts = []
    for block in images.blocks(len(at)):
        image = torch.from_numpy(at[block]).to(device)
        value = gather(spectrum, torch.from_numpy(rotation[block]).to(device), images.kx, images.ky).value
        centred = images.centred(image, torch.from_numpy(shift[block]).to(device))
        rest = centred - images.moved(scale[block])[:, None] * images.ctf[image] * value
        power = (rest.real**2 + rest.imag**2).double()
        parts.append(_per_ring(power, where, n_shells).cpu().numpy())
    return np.concatenate(parts)


def ring_sums(
    spectrum: PaddedSpectrum,
    images: Images,
    at: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    ctf: np.ndarray,
    quarter: np.ndarray,
    weights: np.ndarray,
    ring: np.ndarray,
    n_rings: int,
) -> np.ndarray:
    """The five sums per ring of `em/defocus.py`, `(m, n_rings, 5)` float64; `ctf` and `quarter` are `(b, n)`."""
    device = spectrum.values.device
    where = torch.from_numpy(ring[: images.n]).to(device)
    weight, base, moved = images.moved(weights), images.moved(ctf), images.moved(quarter)
    parts = []
    for block in images.blocks(len(at)):
        image = torch.from_numpy(at[block]).to(device)
        value = gather(spectrum, torch.from_numpy(rotation[block]).to(device), images.kx, images.ky).value
        centred = images.centred(image, torch.from_numpy(shift[block]).to(device))
        cross = weight[image] * (value.conj() * centred).real
        power = weight[image] * (value.real**2 + value.imag**2)
        c, q = base[image], moved[image]
        five = (cross * c, cross * q, power * c * c, power * c * q, power * q * q)
        parts.append(torch.stack([_per_ring(v.double(), where, n_rings) for v in five], dim=-1).cpu().numpy())
    return np.concatenate(parts)


def _per_ring(values: Tensor, where: Tensor, n: int) -> Tensor:
    """Sums of `(m, k)` over the points of each ring, `(m, n)`."""
    return torch.zeros(len(values), n, dtype=values.dtype, device=values.device).index_add_(1, where, values)

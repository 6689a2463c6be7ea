"""Motion of simulated movies: a common drift and a local field, smooth in place and time.

As in real movies the motion is fast in the first electrons and slow later (`1 - exp(-t / τ)`), with a steady drift
and a little jitter of the stage. The local field bends like a drum (doming) about a point that is not the centre of the
frame, with random terms up to third order in place, each with a course in time of its own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

DEGREE = 3


@dataclass(frozen=True)
class TrueMotion:
    """Where content sits in each frame.

    Attributes
    ----------
    modes
        Å, `(m, t, 2)` yx: coefficients of `P_a(y) P_b(x)`, `a + b <= DEGREE`, by rising degree; y and x run from -1
        to 1 over the frame. Zero in the first frame.
    shape
        Rows and columns of a frame.
    """

    modes: np.ndarray
    shape: tuple[int, int]

    @property
    def trajectory(self) -> np.ndarray:
        """Motion averaged over the frame, Å, `(t, 2)` yx."""
        return self.modes[0]

    def at(self, position_px: np.ndarray) -> np.ndarray:
        """Displacement in Å of what sits at `position_px` `(n, 2)` yx in the first frame, `(n, t, 2)`."""
        return np.einsum("nm,mtc->ntc", mode_values(position_px, self.shape), self.modes, optimize=True)


def mode_orders() -> list[tuple[int, int]]:
    """Orders in y and x of the modes."""
    return [(total - b, b) for total in range(DEGREE + 1) for b in range(total + 1)]


def mode_values(position_px: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Values of the modes at positions `(n, 2)` yx, `(n, m)`."""
    in_y = legendre.legvander(2 * (position_px[:, 0] + 0.5) / shape[0] - 1, DEGREE)
    in_x = legendre.legvander(2 * (position_px[:, 1] + 0.5) / shape[1] - 1, DEGREE)
    return np.stack([in_y[:, a] * in_x[:, b] for a, b in mode_orders()], axis=1)


def random_motion(
    n_frames: int,
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    drift: float,
    doming: float,
    dose_per_frame: float,
) -> TrueMotion:
    """Draw the motion of one movie.

    Parameters
    ----------
    drift
        Typical length of the common motion over the exposure, Å.
    doming
        Typical local displacement at the edge of the frame at the end, Å.
    dose_per_frame
        e-/Å2; the fast motion settles within about 4 e-/Å2.
    """
    dose = np.arange(n_frames) * dose_per_frame
    modes = np.zeros((len(mode_orders()), n_frames, 2))
    length = drift * rng.lognormal(0, 0.35)
    turn = rng.uniform(0, 2 * np.pi)
    fast, slow = _direction(turn), _direction(turn + rng.normal(0, 0.8))
    share = rng.uniform(0.4, 0.7)
    settle = rng.uniform(2.0, 6.0)
    steady = dose / max(dose[-1], 1e-9)
    jitter = np.cumsum(rng.normal(0, 0.012 * drift, (n_frames, 2)), axis=0)
    modes[0] = length * (share * _settling(dose, settle)[:, None] * fast + (1 - share) * steady[:, None] * slow)
    modes[0] += jitter - jitter[0]
    amplitude = doming * rng.lognormal(0, 0.3)
    centre = rng.uniform(-0.5, 0.5, 2)
    sign = rng.choice([-1.0, 1.0])
    course = _settling(dose, rng.uniform(3.0, 9.0))
    # Doming: content moves along the gradient of a paraboloid, u = amplitude (x - c) (1 + |x - c|^2 / 4), projected
    # on the modes
    nodes, weights = legendre.leggauss(8)
    y, x = np.meshgrid(nodes, nodes, indexing="ij")
    away = np.stack([y - centre[0], x - centre[1]], axis=-1)
    field = sign * amplitude * 0.6 * away * (1 + 0.25 * (away**2).sum(-1, keepdims=True))
    for m, (a, b) in enumerate(mode_orders()):
        pa, pb = legendre.Legendre.basis(a)(nodes), legendre.Legendre.basis(b)(nodes)
        norm = (2 * a + 1) * (2 * b + 1) / 4
        coefficient = norm * np.einsum("y,x,yxc->c", weights * pa, weights * pb, field)
        if m:
            modes[m] += course[:, None] * coefficient
            own = _settling(dose, rng.uniform(3.0, 25.0))
            modes[m] += own[:, None] * rng.normal(0, 0.15 * amplitude / (a + b), 2)
    return TrueMotion(modes - modes[:, :1], shape)


def _settling(dose: np.ndarray, settle: float) -> np.ndarray:
    course = 1 - np.exp(-dose / settle)
    return course / max(float(course[-1]), 1e-9)


def _direction(angle: float) -> np.ndarray:
    return np.array([np.sin(angle), np.cos(angle)])

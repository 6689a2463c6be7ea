"""The motion field: where content sits in each frame, as a smooth function of place and frame.

`d(y, x, t) = Σ_m P_m(y, x) θ_m(t)` with products of Legendre polynomials in place, `P_0 = 1`, so that `θ_0` is the
motion of the whole frame. The field is zero in the first frame. Frames are summed along `at_mean_shape()` of it: an ice
that bulges stretches distances by up to a hundredth, and frames laid on the first one would carry that stretch into the
rings of the CTF (a defocus that is off by twice as much) and into the particles; laid on the mean shape they do not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre


def mode_orders(degree: int) -> np.ndarray:
    """Orders in y and x of the products of total degree up to `degree`, lowest degree first, `(m, 2)` int64."""
    return np.asarray([(total - b, b) for total in range(degree + 1) for b in range(total + 1)], dtype=np.int64)


def mode_values(position_px: np.ndarray, shape: tuple[int, int], degree: int) -> np.ndarray:
    """`P_m` at positions `(n, 2)` in pixels yx of a frame of `shape`, `(n, m)` float64."""
    by_y, by_x = _axis_values(position_px[:, 0], position_px[:, 1], shape, degree)
    return by_y * by_x


def _axis_values(y: np.ndarray, x: np.ndarray, shape: tuple[int, int], degree: int) -> tuple[np.ndarray, np.ndarray]:
    orders = mode_orders(degree)
    in_y = legendre.legvander(2 * (np.asarray(y) + 0.5) / shape[0] - 1, degree)
    in_x = legendre.legvander(2 * (np.asarray(x) + 0.5) / shape[1] - 1, degree)
    return in_y[:, orders[:, 0]], in_x[:, orders[:, 1]]


@dataclass(frozen=True)
class MotionField:
    """Motion of one movie in pixels of its frames.

    Attributes
    ----------
    modes_px
        `θ`, `(m, t, 2)` yx, zero at `t = 0`.
    shape
        Rows and columns of a frame.
    degree
        Total degree of the polynomials in place; `m = (degree + 1) (degree + 2) / 2`.
    covariance_px2
        Posterior covariance of `θ` of one axis (both have the same), `(m t, m t)`, or None.
    """

    modes_px: np.ndarray
    shape: tuple[int, int]
    degree: int
    covariance_px2: np.ndarray | None = None

    @property
    def trajectory_px(self) -> np.ndarray:
        """Motion of the whole frame, averaged over it, `(t, 2)` yx."""
        return self.modes_px[0]

    def at(self, position_px: np.ndarray) -> np.ndarray:
        """Displacement of the content that sits at `position_px` `(n, 2)` in the first frame, `(n, t, 2)`."""
        values = mode_values(position_px, self.shape, self.degree)
        return np.einsum("nm,mtc->ntc", values, self.modes_px, optimize=True)

    def on_grid(self, y_px: np.ndarray, x_px: np.ndarray, t: int) -> np.ndarray:
        """Displacement in frame `t` on the grid of `y_px` `(h,)` and `x_px` `(w,)`: `(2, h, w)` float32."""
        n = max(len(y_px), len(x_px))
        y, x = np.resize(y_px, n), np.resize(x_px, n)
        by_y, by_x = _axis_values(y, x, self.shape, self.degree)
        by_y, by_x = by_y[: len(y_px)], by_x[: len(x_px)]
        return np.stack([(by_y * self.modes_px[:, t, c]) @ by_x.T for c in range(2)]).astype(np.float32)

    def standard_error_px(self, position_px: np.ndarray) -> np.ndarray:
        """Standard error of the displacement, the same for both axes, `(n, t)`."""
        if self.covariance_px2 is None:
            raise ValueError("covariance_px2: expected a covariance, got None")
        n_modes, n_frames = self.modes_px.shape[:2]
        values = mode_values(position_px, self.shape, self.degree)
        blocks = self.covariance_px2.reshape(n_modes, n_frames, n_modes, n_frames)
        by_frame = np.einsum("atbt->tab", blocks)
        return np.sqrt(np.maximum(np.einsum("na,tab,nb->nt", values, by_frame, values, optimize=True), 0))

    def at_mean_shape(self) -> "MotionField":
        """The field to the shape that the specimen has in the mean over the frames, instead of that in the first.

        The local modes then average to zero, and with them the mean stretch of the corrected frames; the motion of the
        whole frame still begins at zero.
        """
        modes = self.modes_px.copy()
        modes[1:] -= modes[1:].mean(axis=1, keepdims=True)
        return MotionField(modes, self.shape, self.degree)

    def scaled(self, factor: float, shape: tuple[int, int]) -> "MotionField":
        """The same field on frames with `factor` times the sampling."""
        covariance = None if self.covariance_px2 is None else self.covariance_px2 * factor**2
        return MotionField(self.modes_px * factor, shape, self.degree, covariance)


def still_field(n_frames: int, shape: tuple[int, int]) -> MotionField:
    """No motion."""
    return MotionField(np.zeros((1, n_frames, 2)), shape, 0)


def rigid_field(trajectory_px: np.ndarray, shape: tuple[int, int]) -> MotionField:
    """Whole-frame motion `(t, 2)`, moved so that the first frame is at zero."""
    return MotionField((trajectory_px - trajectory_px[:1])[None].astype(np.float64), shape, 0)

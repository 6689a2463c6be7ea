"""Inner loops of the engine on the CPU (Numba, single-threaded, lock released).

`fit_poses_kernel` maximises the likelihood of `em/gauss_newton.py`; `insert_particles_kernel` and
`residual_power_kernel` serve `em/accumulate.py` and `em/noise.py`. Frequencies are in Fourier pixels of the image,
shifts in pixels yx, `columns` are rotations times the padding of the spectrum.
"""

import math

import numpy as np
from numba import njit

from cryoloom.fourier.slice_kernels import insert_points_kernel

f32 = np.float32
two_u = np.uint64(2)


@njit(nogil=True, cache=True, fastmath=True, inline="always")
def _phase_tables(shift_y: float, shift_x: float, box: int, table: np.ndarray) -> None:
    """Cos and sin of `2π k s / box` for k = -box/2 ... box/2, x in rows 0 and 1, y in rows 2 and 3."""
    half = table.shape[1] // 2
    for i in range(table.shape[1]):
        a = 2.0 * math.pi * (i - half) * shift_x / box
        b = 2.0 * math.pi * (i - half) * shift_y / box
        table[0, i] = math.cos(a)
        table[1, i] = math.sin(a)
        table[2, i] = math.cos(b)
        table[3, i] = math.sin(b)


@njit(nogil=True, cache=True, fastmath=True)
def _gather(
    flat: np.ndarray,
    row: np.uint64,
    plane: np.uint64,
    centre: int,
    rotation: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    n: int,
    table: np.ndarray,
    out: np.ndarray,
) -> None:
    """Slice and its derivatives at `n` points.

    Rows of `out` `(8, n)`: slice (re, im), derivative along the slice's normal (re, im), derivative along a turn in the
    plane (re, im), and the phase factor that centres the data (re, im).
    """
    two = f32(2)
    r00, r01, n0 = two * f32(rotation[0, 0]), two * f32(rotation[0, 1]), two * f32(rotation[0, 2])
    r10, r11, n1 = two * f32(rotation[1, 0]), two * f32(rotation[1, 1]), two * f32(rotation[1, 2])
    r20, r21, n2 = two * f32(rotation[2, 0]), two * f32(rotation[2, 1]), two * f32(rotation[2, 2])
    half = table.shape[1] // 2
    shift = f32(centre)
    e1, e2, e3 = np.uint64(1), np.uint64(2), np.uint64(3)
    for k in range(n):
        kxk = kx[k]
        kyk = ky[k]
        x = r00 * kxk + r01 * kyk
        y = r10 * kxk + r11 * kyk
        z = r20 * kxk + r21 * kyk
        sign = f32(1)
        if x < 0:
            x = -x
            y = -y
            z = -z
            sign = f32(-1)
        y += shift
        z += shift
        ix = np.uint32(x)
        iy = np.uint32(y)
        iz = np.uint32(z)
        fx = x - f32(ix)
        fy = y - f32(iy)
        fz = z - f32(iz)
        at = two_u * (iz * plane + iy * row + np.uint64(ix))
        up = at + two_u * row
        back = at + two_u * plane
        last = back + two_u * row
        # real parts
        a = flat[at]
        b = flat[up]
        c = flat[back]
        d = flat[last]
        da = flat[at + e2] - a
        db = flat[up + e2] - b
        dc = flat[back + e2] - c
        dd = flat[last + e2] - d
        a += fx * da
        b += fx * db
        c += fx * dc
        d += fx * dd
        ab = a + fy * (b - a)
        cd = c + fy * (d - c)
        value = ab + fz * (cd - ab)
        gz = cd - ab
        gy = (b - a) + fz * ((d - c) - (b - a))
        g0 = da + fy * (db - da)
        gx = g0 + fz * ((dc + fy * (dd - dc)) - g0)
        p0 = r01 * kxk - r00 * kyk
        p1 = r11 * kxk - r10 * kyk
        p2 = r21 * kxk - r20 * kyk
        out[0, k] = value
        out[2, k] = sign * (gx * n0 + gy * n1 + gz * n2)
        out[4, k] = sign * (gx * p0 + gy * p1 + gz * p2)
        # imaginary parts; a mirrored point takes the conjugate: the value changes sign, its derivative twice
        a = flat[at + e1]
        b = flat[up + e1]
        c = flat[back + e1]
        d = flat[last + e1]
        da = flat[at + e3] - a
        db = flat[up + e3] - b
        dc = flat[back + e3] - c
        dd = flat[last + e3] - d
        a += fx * da
        b += fx * db
        c += fx * dc
        d += fx * dd
        ab = a + fy * (b - a)
        cd = c + fy * (d - c)
        gz = cd - ab
        gy = (b - a) + fz * ((d - c) - (b - a))
        g0 = da + fy * (db - da)
        gx = g0 + fz * ((dc + fy * (dd - dc)) - g0)
        out[1, k] = sign * (ab + fz * (cd - ab))
        out[3, k] = gx * n0 + gy * n1 + gz * n2
        out[5, k] = gx * p0 + gy * p1 + gz * p2
        i = int(kxk) + half
        j = int(kyk) + half
        out[6, k] = table[0, i] * table[2, j] - table[1, i] * table[3, j]
        out[7, k] = table[1, i] * table[2, j] + table[0, i] * table[3, j]


@njit(nogil=True, cache=True, fastmath=True)
def _normal_equations(
    model: np.ndarray,
    data: np.ndarray,
    ctf: np.ndarray,
    weight: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    n: int,
    box: int,
    scale: float,
    matrix: np.ndarray,
    gradient: np.ndarray,
) -> np.floating:
    """Half the weighted squared residual, its Gauss-Newton matrix and its descent direction.

    Parameters are a turn about the image's x, y and z axes, the shift in x and y, and the scale.
    """
    turn = f32(2.0 * math.pi / box)
    s = f32(scale)
    zero = f32(0)
    cost = zero
    g0 = zero
    g1 = zero
    g2 = zero
    g3 = zero
    g4 = zero
    g5 = zero
    a00 = zero
    a01 = zero
    a02 = zero
    a03 = zero
    a04 = zero
    a05 = zero
    a11 = zero
    a12 = zero
    a13 = zero
    a14 = zero
    a15 = zero
    a22 = zero
    a23 = zero
    a24 = zero
    a25 = zero
    a33 = zero
    a34 = zero
    a44 = zero
    a55 = zero
    vr, vi, nr, ni, ir, ii, co, si = (
        model[0], model[1], model[2], model[3], model[4], model[5], model[6], model[7],
    )  # fmt: skip
    xr, xi = data[0], data[1]
    for k in range(n):
        x = kx[k]
        y = ky[k]
        c = ctf[k]
        sw = weight[k]
        mr = c * vr[k]
        mi = c * vi[k]
        # the residual is turned back to the centred model
        er = xr[k] * co[k] - xi[k] * si[k] - s * mr
        ei = xi[k] * co[k] + xr[k] * si[k] - s * mi
        sc = s * c
        pr = sc * nr[k]
        pi = sc * ni[k]
        qr = sc * ir[k]
        qi = sc * ii[k]
        hr = turn * s * mi
        hi = -turn * s * mr
        e0 = sw * er
        e1 = sw * ei
        pe = pr * e0 + pi * e1
        he = hr * e0 + hi * e1
        cost += e0 * er + e1 * ei
        g0 += y * pe
        g1 -= x * pe
        g2 += qr * e0 + qi * e1
        g3 += x * he
        g4 += y * he
        g5 += mr * e0 + mi * e1
        pp = sw * (pr * pr + pi * pi)
        pq = sw * (pr * qr + pi * qi)
        ph = sw * (pr * hr + pi * hi)
        pm = sw * (pr * mr + pi * mi)
        qh = sw * (qr * hr + qi * hi)
        hh = sw * (hr * hr + hi * hi)
        a00 += y * y * pp
        a01 -= x * y * pp
        a11 += x * x * pp
        a02 += y * pq
        a12 -= x * pq
        a03 += x * y * ph
        a04 += y * y * ph
        a13 -= x * x * ph
        a14 -= x * y * ph
        a05 += y * pm
        a15 -= x * pm
        a22 += sw * (qr * qr + qi * qi)
        a23 += x * qh
        a24 += y * qh
        a25 += sw * (qr * mr + qi * mi)
        a33 += x * x * hh
        a34 += x * y * hh
        a44 += y * y * hh
        a55 += sw * (mr * mr + mi * mi)
    gradient[0] = g0
    gradient[1] = g1
    gradient[2] = g2
    gradient[3] = g3
    gradient[4] = g4
    gradient[5] = g5
    matrix[0, 0] = a00
    matrix[0, 1] = a01
    matrix[0, 2] = a02
    matrix[0, 3] = a03
    matrix[0, 4] = a04
    matrix[0, 5] = a05
    matrix[1, 1] = a11
    matrix[1, 2] = a12
    matrix[1, 3] = a13
    matrix[1, 4] = a14
    matrix[1, 5] = a15
    matrix[2, 2] = a22
    matrix[2, 3] = a23
    matrix[2, 4] = a24
    matrix[2, 5] = a25
    matrix[3, 3] = a33
    matrix[3, 4] = a34
    matrix[3, 5] = 0.0
    matrix[4, 4] = a44
    matrix[4, 5] = 0.0
    matrix[5, 5] = a55
    for i in range(6):
        for j in range(i):
            matrix[i, j] = matrix[j, i]
    return 0.5 * cost


@njit(nogil=True, cache=True)
def _turn_matrix(w: np.ndarray) -> np.ndarray:
    """Rotation by the vector `w` (Rodrigues)."""
    out = np.eye(3)
    angle = math.sqrt(w[0] ** 2 + w[1] ** 2 + w[2] ** 2)
    if angle < 1e-12:
        return out
    x, y, z = w[0] / angle, w[1] / angle, w[2] / angle
    c, s = math.cos(angle), math.sin(angle)
    d = 1.0 - c
    out[0, 0] = c + x * x * d
    out[0, 1] = x * y * d - z * s
    out[0, 2] = x * z * d + y * s
    out[1, 0] = x * y * d + z * s
    out[1, 1] = c + y * y * d
    out[1, 2] = y * z * d - x * s
    out[2, 0] = x * z * d - y * s
    out[2, 1] = y * z * d + x * s
    out[2, 2] = c + z * z * d
    return out


@njit(nogil=True, cache=True)
def _add_priors(
    matrix: np.ndarray,
    gradient: np.ndarray,
    rotation: np.ndarray,
    shift_y: float,
    shift_x: float,
    scale: float,
    prior_rotation: np.ndarray,
    prior_shift: np.ndarray,
    precision: np.ndarray,
) -> float:
    """Gaussian priors on turn, shift and scale (`precision` of each), added to the normal equations."""
    cost = 0.5 * precision[2] * (1.0 - scale) ** 2
    gradient[5] += precision[2] * (1.0 - scale)
    matrix[5, 5] += precision[2]
    if precision[1] > 0:
        dx, dy = prior_shift[1] - shift_x, prior_shift[0] - shift_y
        cost += 0.5 * precision[1] * (dx * dx + dy * dy)
        gradient[3] += precision[1] * dx
        gradient[4] += precision[1] * dy
        matrix[3, 3] += precision[1]
        matrix[4, 4] += precision[1]
    if precision[0] > 0:
        off = rotation.T @ prior_rotation
        skew = np.array([off[2, 1] - off[1, 2], off[0, 2] - off[2, 0], off[1, 0] - off[0, 1]])
        sine = 0.5 * math.sqrt((skew**2).sum())
        cosine = 0.5 * (off[0, 0] + off[1, 1] + off[2, 2] - 1.0)
        angle = math.atan2(sine, cosine)
        factor = 0.5 * angle / sine if sine > 1e-9 else 0.5
        for i in range(3):
            gradient[i] += precision[0] * factor * skew[i]
            matrix[i, i] += precision[0]
        cost += 0.5 * precision[0] * angle * angle
    return cost


@njit(nogil=True, cache=True)
def fit_poses_kernel(
    spectrum: np.ndarray,
    centre: int,
    index: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
    prior_rotation: np.ndarray,
    prior_shift: np.ndarray,
    precision: np.ndarray,
    data: np.ndarray,
    ctf: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    n: int,
    box: int,
    n_steps: int,
    largest_turn: float,
    largest_shift: float,
    cost: np.ndarray,
    information: np.ndarray,
    accepted: np.ndarray,
) -> None:
    """Damped Gauss-Newton steps for each candidate; `rotation`, `shift` (yx) and `scale` are changed in place.

    `information` receives the Gauss-Newton matrix of the likelihood alone at the end, priors left out.
    """
    flat = spectrum.reshape(-1)
    row = np.uint64(spectrum.shape[2])
    plane = np.uint64(spectrum.shape[1]) * row
    model = np.empty((8, n), f32)
    table = np.empty((4, 2 * (box // 2 + 1) + 1), f32)
    likelihood = np.zeros((6, 6))
    trial_likelihood = np.zeros((6, 6))
    matrix = np.zeros((6, 6))
    trial_matrix = np.zeros((6, 6))
    gradient = np.zeros(6)
    trial_gradient = np.zeros(6)
    for i in range(index.shape[0]):
        p = index[i]
        w = weight[group[p]]
        r = rotation[i].copy()
        ty, tx, s = shift[i, 0], shift[i, 1], scale[i]
        damping = 1e-2
        _phase_tables(ty, tx, box, table)
        _gather(flat, row, plane, centre, r, kx, ky, n, table, model)
        f = _normal_equations(model, data[p], ctf[p], w, kx, ky, n, box, s, likelihood, gradient)
        matrix[:] = likelihood
        f += _add_priors(matrix, gradient, r, ty, tx, s, prior_rotation[i], prior_shift[i], precision)
        for _ in range(n_steps):
            damped = matrix.copy()
            for j in range(6):
                damped[j, j] = damped[j, j] * (1.0 + damping) + 1e-9
            step = np.linalg.solve(damped, gradient)
            turn = math.sqrt(step[0] ** 2 + step[1] ** 2 + step[2] ** 2)
            if turn > largest_turn:
                step[:5] *= largest_turn / turn
            move = math.sqrt(step[3] ** 2 + step[4] ** 2)
            if move > largest_shift:
                step[:5] *= largest_shift / move
            trial_r = r @ _turn_matrix(step[:3])
            trial_s = min(max(s + step[5], 0.2), 5.0)
            _phase_tables(ty + step[4], tx + step[3], box, table)
            _gather(flat, row, plane, centre, trial_r, kx, ky, n, table, model)
            trial = _normal_equations(
                model, data[p], ctf[p], w, kx, ky, n, box, trial_s, trial_likelihood, trial_gradient
            )
            trial_matrix[:] = trial_likelihood
            trial += _add_priors(
                trial_matrix, trial_gradient, trial_r, ty + step[4], tx + step[3], trial_s,
                prior_rotation[i], prior_shift[i], precision,
            )  # fmt: skip
            if trial < f:
                gain = f - trial
                r = trial_r
                tx += step[3]
                ty += step[4]
                s = trial_s
                f = trial
                matrix[:] = trial_matrix
                likelihood[:] = trial_likelihood
                gradient[:] = trial_gradient
                damping = max(0.2 * damping, 1e-4)
                accepted[i] += 1
                if gain < 0.01:
                    break
            else:
                damping = max(8.0 * damping, 0.1)
                if damping > 50.0:
                    break
        rotation[i] = r
        shift[i, 0] = ty
        shift[i, 1] = tx
        scale[i] = s
        cost[i] = f
        information[i] = likelihood


@njit(nogil=True, cache=True, fastmath=True)
def insert_particles_kernel(
    sums: np.ndarray,
    centre: int,
    z_low: int,
    z_high: int,
    index: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
    posterior: np.ndarray,
    data: np.ndarray,
    ctf: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    n: int,
    box: int,
) -> None:
    """Insert `p s C X exp(+2πi k·t) / σ²` and `p s² C² / σ²` of each candidate into a slab of `sums`."""
    values = np.empty((1, n, 2), f32)
    weights = np.empty((1, n), f32)
    columns = np.empty((1, 3, 2), f32)
    table = np.empty((4, 2 * (box // 2 + 1) + 1), f32)
    half = table.shape[1] // 2
    for i in range(index.shape[0]):
        p = index[i]
        w = weight[group[p]]
        for a in range(3):
            columns[0, a, 0] = 2.0 * rotation[i, a, 0]
            columns[0, a, 1] = 2.0 * rotation[i, a, 1]
        _phase_tables(shift[i, 0], shift[i, 1], box, table)
        s = f32(scale[i])
        share = f32(posterior[i])
        for k in range(n):
            a = int(kx[k]) + half
            b = int(ky[k]) + half
            co = table[0, a] * table[2, b] - table[1, a] * table[3, b]
            si = table[1, a] * table[2, b] + table[0, a] * table[3, b]
            model = s * ctf[p, k]
            factor = share * w[k] * model
            values[0, k, 0] = factor * (data[p, 0, k] * co - data[p, 1, k] * si)
            values[0, k, 1] = factor * (data[p, 0, k] * si + data[p, 1, k] * co)
            weights[0, k] = factor * model
        insert_points_kernel(sums, centre, z_low, z_high, columns, kx[:n], ky[:n], values, weights)


@njit(nogil=True, cache=True, fastmath=True)
def residual_power_kernel(
    spectrum: np.ndarray,
    centre: int,
    index: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
    data: np.ndarray,
    ctf: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    shell: np.ndarray,
    n: int,
    box: int,
    out: np.ndarray,
) -> None:
    """Sum of `|X - s C V exp(-2πi k·t)|²` over the points of each shell, `out` `(candidates, shells)` float64."""
    flat = spectrum.reshape(-1)
    row = np.uint64(spectrum.shape[2])
    plane = np.uint64(spectrum.shape[1]) * row
    model = np.empty((8, n), f32)
    table = np.empty((4, 2 * (box // 2 + 1) + 1), f32)
    for i in range(index.shape[0]):
        p = index[i]
        _phase_tables(shift[i, 0], shift[i, 1], box, table)
        _gather(flat, row, plane, centre, rotation[i], kx, ky, n, table, model)
        s = f32(scale[i])
        for k in range(n):
            c = s * ctf[p, k]
            er = data[p, 0, k] * model[6, k] - data[p, 1, k] * model[7, k] - c * model[0, k]
            ei = data[p, 1, k] * model[6, k] + data[p, 0, k] * model[7, k] - c * model[1, k]
            out[i, shell[k]] += er * er + ei * ei


@njit(nogil=True, cache=True, fastmath=True)
def ring_sums_kernel(
    spectrum: np.ndarray,
    centre: int,
    index: np.ndarray,
    rotation: np.ndarray,
    shift: np.ndarray,
    data: np.ndarray,
    ctf: np.ndarray,
    quarter: np.ndarray,
    weight: np.ndarray,
    group: np.ndarray,
    kx: np.ndarray,
    ky: np.ndarray,
    ring: np.ndarray,
    n: int,
    box: int,
    out: np.ndarray,
) -> None:
    """The five sums per ring of `em/defocus.py`, `out` `(candidates, rings, 5)` float64."""
    flat = spectrum.reshape(-1)
    row = np.uint64(spectrum.shape[2])
    plane = np.uint64(spectrum.shape[1]) * row
    model = np.empty((8, n), f32)
    table = np.empty((4, 2 * (box // 2 + 1) + 1), f32)
    for i in range(index.shape[0]):
        p = index[i]
        w = weight[group[p]]
        _phase_tables(shift[i, 0], shift[i, 1], box, table)
        _gather(flat, row, plane, centre, rotation[i], kx, ky, n, table, model)
        for k in range(n):
            xr = data[p, 0, k] * model[6, k] - data[p, 1, k] * model[7, k]
            xi = data[p, 1, k] * model[6, k] + data[p, 0, k] * model[7, k]
            vr, vi = model[0, k], model[1, k]
            cross = w[k] * (vr * xr + vi * xi)
            power = w[k] * (vr * vr + vi * vi)
            c, q, r = ctf[p, k], quarter[p, k], ring[k]
            out[i, r, 0] += cross * c
            out[i, r, 1] += cross * q
            out[i, r, 2] += power * c * c
            out[i, r, 3] += power * c * q
            out[i, r, 4] += power * q * q

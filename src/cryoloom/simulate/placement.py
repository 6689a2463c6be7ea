"""Where particles lie on a micrograph: at random, not on each other, not on dirt or carbon."""

import numpy as np

from cryoloom.simulate.ice import Surroundings


def place_particles(
    n: int, shape: tuple[int, int], distance_px: float, around: Surroundings, rng: np.random.Generator
) -> np.ndarray:
    """Centres `(m, 2)` yx in pixels, at most `n`, at least `distance_px` apart; random sequential addition."""
    cell = max(distance_px, 1.0)
    grid: dict[tuple[int, int], list[np.ndarray]] = {}
    found: list[np.ndarray] = []
    tries = rng.uniform([0, 0], shape, size=(60 * max(n, 1), 2))
    for point in tries[around.is_free(tries, 0.5 * distance_px)]:
        if len(found) == n:
            break
        gy, gx = int(point[0] // cell), int(point[1] // cell)
        near = [q for a in (-1, 0, 1) for b in (-1, 0, 1) for q in grid.get((gy + a, gx + b), [])]
        if any((q[0] - point[0]) ** 2 + (q[1] - point[1]) ** 2 < distance_px**2 for q in near):
            continue
        grid.setdefault((gy, gx), []).append(point)
        found.append(point)
    return np.asarray(found).reshape(-1, 2)

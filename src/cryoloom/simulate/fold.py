"""Protein-like atoms that fill a given space: helices and strands in small bundles, side chains, and loops between.

What alignment and picking see of a protein is its shape, helices and sheets at 10 and 5 Å, and the Wilson
fall-off of its atoms. The space of each domain is divided into cells of about 9 kDa, the size of a supersecondary
unit, each with a direction of its own; a cell is crossed by ideal helices (10 Å apart, 1.5 Å rise per residue) or
strands (4.8 by 10 Å apart, 3.3 Å rise) that lean from it by about 12 degrees. Loops are random walks through what is
left, until the mass is right. Neglected: the chain is not continuous, and there are no true folds.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from cryoloom.simulate.domains import VOLUME_PER_DALTON, Domain, Space, random_rotation

_CELL_MASS = 9_000.0
_ORDERED = 0.70  # largest share of the mass in helices and strands
_CLASH = 2.4  # Å, atoms of different elements do not come closer
_VOID = 2.2  # Å, distance of loop atoms from all others
_BOND = 1.5
_SPACING = {"helix": (10.0, 10.0 * math.sqrt(3) / 2), "strand": (4.8, 10.0)}
_RISE, _TURN = {"helix": 1.5, "strand": 3.3}, {"helix": math.radians(100), "strand": math.pi}
_SHORTEST = {"helix": 6, "strand": 3}  # residues
# Backbone in cylinder coordinates of an ideal helix and strand: radius Å, angle rad, height Å, element.
_BACKBONE = {
    "helix": np.array([(1.55, -0.49, -0.87, 7), (2.28, 0.0, 0.0, 6), (1.66, 0.46, 1.10, 6), (1.90, 0.60, 2.30, 8)]),
    "strand": np.array([(0.5, -0.5, -1.2, 7), (0.9, 0.0, 0.0, 6), (0.5, 0.5, 1.2, 6), (1.6, 0.7, 1.6, 8)]),
}
_SIDE_LENGTHS = [0.08, 0.13, 0.12, 0.15, 0.17, 0.13, 0.11, 0.08, 0.03]  # share of side chains of 0, 1, 2 ... atoms
_ELEMENTS, _SHARES = np.array([6, 7, 8, 16]), [0.79, 0.09, 0.11, 0.01]
_MASSES = {6: 12.011, 7: 14.007, 8: 15.999, 16: 32.06}


@dataclass
class Fragment:
    """Atoms of one or more elements: xyz, atomic number, steps along the side chain (10 in loops), element number."""

    position: np.ndarray
    element: np.ndarray
    side: np.ndarray
    number: np.ndarray

    def keep(self, rows: np.ndarray) -> "Fragment":
        """Some of the atoms."""
        return Fragment(self.position[rows], self.element[rows], self.side[rows], self.number[rows])

    @property
    def mass(self) -> float:
        """Da."""
        return float(sum(mass * (self.element == z).sum() for z, mass in _MASSES.items()))


def fill(
    space: Space, domains: list[Domain], operators: np.ndarray, mass: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Atoms of an asymmetric unit.

    Parameters
    ----------
    space
        Where they may be.
    domains
        Whose folds and names they take.
    operators
        Of the point group, the identity first; atoms keep their distance from copies.
    mass
        Da, hydrogens not counted.
    rng
        Random numbers.

    Returns
    -------
    position, element, bfactor, chain
        `(n, 3)`, `(n,)`, `(n,)`, `(n,)`.
    """
    ordered = _join(_ordered(space, domains, rng))
    inside = space.find(ordered.position)
    ordered = ordered.keep((inside >= 0) | (ordered.side > 0))
    ordered = _without_clashes(ordered, operators)
    numbers = rng.permutation(np.unique(ordered.number))
    weights = np.bincount(ordered.number) * (ordered.mass / max(len(ordered.number), 1))
    kept = numbers[np.cumsum(weights[numbers]) <= _ORDERED * mass]
    ordered = ordered.keep(np.isin(ordered.number, kept))
    atoms = _with_loops(ordered, space, operators, mass, rng)
    nearest = cKDTree(space.points).query(atoms.position)[1]
    depth = space.depth[nearest]
    # B-factors rise towards the surface, along side chains and in loops, as in well resolved structures
    bfactor = 10 + 18 * np.exp(-depth / 5.0) + 2.5 * np.minimum(atoms.side, 6) + rng.gamma(2.0, 3.0, len(depth))
    names = np.array([d.chain for d in domains])
    return atoms.position, atoms.element, bfactor, names[space.owner[nearest]]


def _ordered(space: Space, domains: list[Domain], rng: np.random.Generator) -> list[Fragment]:
    """Helices and strands of all cells."""
    parts: list[Fragment] = []
    for i, domain in enumerate(domains):
        rows = np.flatnonzero(space.owner == i)
        if not len(rows):
            continue
        points = space.points[rows]
        n_cells = max(1, round(len(rows) * 8.0 / VOLUME_PER_DALTON / _CELL_MASS))
        cell = cKDTree(_spread(points, n_cells, rng)).query(points)[1]
        label = np.full(len(space.points) + 1, -1)  # the last one answers for index -1
        label[rows] = cell
        for c in range(n_cells):
            fold = domain.fold if rng.random() < 0.75 else ("strand" if domain.fold == "helix" else "helix")
            parts += _bundle(space, label, c, points[cell == c], fold, rng, len(parts))
    return parts


def _spread(points: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` of the points about equally far from one another: Lloyd's centres of a random sample."""
    sample = points[rng.permutation(len(points))[:2000]]
    centres = sample[:n].copy()
    for _ in range(8):
        owner = cKDTree(centres).query(sample)[1]
        centres = np.array([sample[owner == i].mean(0) if (owner == i).any() else centres[i] for i in range(n)])
    return centres


def _bundle(
    space: Space, label: np.ndarray, cell: int, points: np.ndarray, fold: str, rng: np.random.Generator, start: int
) -> list[Fragment]:
    """Elements side by side along one direction through a cell, cut where they leave it."""
    if len(points) < 8:
        return []
    frame = random_rotation(rng)
    middle = points.mean(0)
    reach = float(np.linalg.norm(points - middle, axis=1).max()) + 1
    a, b = _SPACING[fold]
    rise = _RISE[fold]
    parts: list[Fragment] = []
    n = int(reach / min(a, b)) + 1
    heights = np.arange(-reach, reach, rise)
    for row in range(-n, n + 1):
        for column in range(-n, n + 1):
            x = (column + (0.5 * (row % 2) if fold == "helix" else 0.0)) * a + rng.normal(0, 0.7)
            y = row * b + rng.normal(0, 0.7)
            if math.hypot(x, y) > reach:
                continue
            lean = rng.normal(0, 0.15, 2)
            axis = np.array([lean[0], lean[1], 1.0])
            line = middle + (np.array([x, y, 0.0]) + heights[:, None] * axis) @ frame.T
            inside = label[space.find(line)] == cell
            for first, length in _runs(inside, fold, rng):
                local = _element(fold, length, rng)
                local[:, 2] += heights[first]
                local[:, :2] += np.array([x, y]) + local[:, 2:3] * lean
                parts.append(
                    Fragment(
                        middle + local[:, :3] @ frame.T,
                        local[:, 3].astype(np.int64),
                        local[:, 4],
                        np.full(len(local), start + len(parts)),
                    )
                )
    return parts


def _runs(inside: np.ndarray, fold: str, rng: np.random.Generator) -> list[tuple[int, int]]:
    """First residue and length of stretches inside, long ones broken by turns."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
    found = []
    for first, stop in zip(edges[::2], edges[1::2], strict=True):
        at = int(first)
        while stop - at >= _SHORTEST[fold]:
            length = min(int(rng.uniform(10, 28) if fold == "helix" else rng.uniform(4, 10)), int(stop) - at)
            if length >= _SHORTEST[fold]:
                found.append((at, length))
            at += length + (3 if fold == "helix" else 2)
    return found


def _element(fold: str, n: int, rng: np.random.Generator) -> np.ndarray:
    """One helix or strand of `n` residues that starts at the origin along z: xyz, atomic number, side chain step."""
    backbone = _BACKBONE[fold]
    up = 1.0 if rng.random() < 0.5 else -1.0
    angle = rng.uniform(0, 2 * math.pi) + np.arange(n) * _TURN[fold]
    height = np.arange(n) * _RISE[fold]
    turn = angle[:, None] + backbone[:, 1]
    main = np.stack(
        [backbone[:, 0] * np.cos(turn), backbone[:, 0] * np.sin(turn), height[:, None] + backbone[:, 2]], -1
    )
    outward = np.stack([np.cos(angle), np.sin(angle), np.full(n, 0.3)], 1)
    steps = outward[:, None] + rng.normal(0, 0.55, (n, 8, 3))
    steps *= _BOND / np.linalg.norm(steps, axis=-1, keepdims=True)
    side = main[:, 1:2] + np.cumsum(steps, axis=1)
    used = np.arange(8) < rng.choice(9, n, p=_SIDE_LENGTHS)[:, None]
    position = np.concatenate([main.reshape(-1, 3), side[used]])
    element = np.concatenate([np.tile(backbone[:, 3], n), rng.choice(_ELEMENTS, int(used.sum()), p=_SHARES)])
    step = np.concatenate([np.zeros(4 * n), np.broadcast_to(np.arange(1.0, 9.0), used.shape)[used]])
    if up < 0:  # run down: turned by half a turn about x, still right-handed
        position = position * np.array([1.0, -1.0, -1.0])
        position[:, 2] += height[-1]
    return np.column_stack([position, element, step])


def _without_clashes(atoms: Fragment, operators: np.ndarray) -> Fragment:
    """Of two atoms of different elements too close together, the one farther along its side chain goes."""
    bad = np.zeros(len(atoms.position), dtype=bool)
    tree = cKDTree(atoms.position)
    pairs = tree.query_pairs(_CLASH, output_type="ndarray")
    pairs = pairs[atoms.number[pairs[:, 0]] != atoms.number[pairs[:, 1]]]
    bad[np.where(atoms.side[pairs[:, 0]] > atoms.side[pairs[:, 1]], pairs[:, 0], pairs[:, 1])] = True
    for operator in operators[1:]:
        distance, other = tree.query(atoms.position @ operator.T, distance_upper_bound=_CLASH)
        close = np.flatnonzero(np.isfinite(distance))
        bad[np.where(atoms.side[close] > atoms.side[other[close]], close, other[close])] = True
    return atoms.keep(~bad)


def _clear_of_copies(positions: np.ndarray, atoms: np.ndarray, operators: np.ndarray) -> np.ndarray:
    """Which positions keep their distance from the copies of atoms, `(n,)` bool."""
    clear = np.ones(len(positions), dtype=bool)
    if not len(atoms):
        return clear
    tree = cKDTree(atoms)
    for operator in operators[1:]:
        clear &= ~np.isfinite(tree.query(positions @ operator.T, distance_upper_bound=_CLASH)[0])
    return clear


def _with_loops(
    atoms: Fragment, space: Space, operators: np.ndarray, mass: float, rng: np.random.Generator
) -> Fragment:
    """Random walks through what is empty, until the mass is reached; some parts are left emptier than others."""
    distance = _VOID
    number = int(atoms.number.max(initial=0)) + 1
    density = _random_field(space.points, rng)
    free = _distance(space.points, atoms.position)
    for _ in range(80):
        missing = (mass - atoms.mass) / 13.2
        if missing < 1:
            break
        room = np.flatnonzero(free > distance)
        if len(room) < 0.1 * missing:
            distance *= 0.94
        if not len(room):
            continue
        n = max(1, min(len(room), int(missing / 4)))
        order = np.argsort(density[room] + rng.gumbel(0, 0.3, len(room)))[::-1]
        start = space.points[room[order[:n]]] + rng.uniform(-1, 1, (n, 3))
        walk = _walks(start, 8, rng)
        flat = walk.reshape(-1, 3)
        good = (space.find(flat) >= 0) & (_distance(flat, atoms.position) > distance)
        good = np.logical_and.accumulate(good.reshape(n, 8), axis=1)
        part = Fragment(
            walk[good],
            rng.choice(_ELEMENTS, int(good.sum()), p=_SHARES),
            np.full(int(good.sum()), 10.0),
            np.repeat(number + np.arange(n), good.sum(1)),
        )
        part = _without_clashes(part, operators)
        part = part.keep(_clear_of_copies(part.position, atoms.position, operators))
        part = part.keep(np.arange(min(len(part.position), max(1, round(missing)))))
        number += n
        free = np.minimum(free, _distance(space.points, part.position))
        atoms = _join([atoms, part])
    return atoms


def _distance(points: np.ndarray, atoms: np.ndarray) -> np.ndarray:
    """Distance in Å from each point to the nearest atom, 4 where it is larger, `(n,)`."""
    if not len(atoms):
        return np.full(len(points), 4.0)
    return np.minimum(cKDTree(atoms).query(points, distance_upper_bound=4.0)[0], 4.0)


def _random_field(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth random function of unit variance that changes over about 15 Å, `(n,)`."""
    waves = rng.normal(0, 2 * math.pi / 30.0, (60, 3))
    phase = rng.uniform(0, 2 * math.pi, 60)
    return np.cos(points @ waves.T + phase).sum(1) / math.sqrt(30.0)


def _walks(start: np.ndarray, n_steps: int, rng: np.random.Generator) -> np.ndarray:
    """Chains of atoms 1.5 Å apart that bend by about 70 degrees at each, `(n, n_steps, 3)`."""
    direction = rng.standard_normal(start.shape)
    place = [start]
    for _ in range(n_steps - 1):
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        turn = rng.standard_normal(start.shape)
        turn -= (turn * direction).sum(1, keepdims=True) * direction
        turn /= np.linalg.norm(turn, axis=1, keepdims=True)
        direction = math.cos(math.radians(70)) * direction + math.sin(math.radians(70)) * turn
        place.append(place[-1] + _BOND * direction)
    return np.stack(place, axis=1)


def _join(parts: list[Fragment]) -> Fragment:
    if not parts:
        return Fragment(np.zeros((0, 3)), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))
    return Fragment(
        np.concatenate([p.position for p in parts]),
        np.concatenate([p.element for p in parts]),
        np.concatenate([p.side for p in parts]),
        np.concatenate([p.number for p in parts]),
    )

"""Protein-like structures that need no file: domains of packed helices and strands with side chains.

Real proteins differ from blobs in what alignment sees: helices and sheets give features at 10 and 5 Å, atoms a Wilson
fall-off down to Nyquist. Each domain here is an ellipsoid filled with ideal helices (hexagonal, 9.5 Å apart, 1.5 Å
rise per residue) or strands (4.8 by 10 Å, 3.3 Å rise), each residue with its backbone and a side chain of a random
walk. Shapes of several domains are joined with or without symmetry.
"""

import math

import numpy as np
from scipy.spatial import cKDTree

from cryoloom.geometry import symmetry_matrices
from cryoloom.simulate.atoms import Atoms

SHAPES = {
    "globule": "C1",
    "fork": "C1",
    "rod": "D2",
    "tripod": "C3",
    "ring": "D7",
    "shell": "O",
}
"""Built-in shapes and the symmetry each has unless another is asked for."""

_VOLUME_PER_RESIDUE = {"helix": 0.5 * math.sqrt(3) * 9.5**2 * 1.5, "strand": 4.8 * 10.0 * 3.3}
# Backbone in cylinder coordinates of an ideal helix and strand: radius Å, angle rad, height Å, element.
_HELIX = [(1.55, -0.49, -0.87, 7), (2.28, 0.0, 0.0, 6), (1.66, 0.46, 1.10, 6), (1.90, 0.60, 2.30, 8)]
_STRAND = [(0.5, -0.5, -1.2, 7), (0.9, 0.0, 0.0, 6), (0.5, 0.5, 1.2, 6), (1.6, 0.7, 1.6, 8)]


def phantom(shape: str = "globule", symmetry: str | None = None, *, mass_kda: float = 400.0, seed: int = 0) -> Atoms:
    """Atoms of a built-in shape, centred; symmetry axes in their conventional places.

    Parameters
    ----------
    shape
        One of `SHAPES`: `globule` (seven unequal domains), `fork` (a rod with two unequal arms), `rod`, `tripod`,
        `ring` and `shell` (protomers of three unequal domains around their axes).
    symmetry
        Point group; None for that of the shape.
    mass_kda
        Mass of the whole in kDa, hydrogens not counted.
    seed
        Another seed gives another molecule of the same kind.

    Raises
    ------
    ValueError
        If the shape is unknown.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape: expected one of {', '.join(SHAPES)}, got {shape!r}")
    symmetry = SHAPES[shape] if symmetry is None else symmetry
    operators = symmetry_matrices(symmetry).numpy()
    rng = np.random.default_rng([seed, sorted(SHAPES).index(shape), len(operators)])
    protomer_kda = mass_kda / len(operators)
    if len(operators) == 1:
        return _chain_of_domains(_plan_alone(shape, rng), protomer_kda, rng, spread=shape == "fork").centred()
    protomer = _chain_of_domains(_plan_protomer(shape), protomer_kda, rng).centred()
    turned = protomer.moved(_random_rotation(rng))
    return turned.moved(translation=_packing_offset(turned, operators, symmetry, shape)).copies(operators)


def hinged_phantom(
    opening: float, *, mass_kda: float = 120.0, share: float = 0.4, seed: int = 0
) -> tuple[Atoms, Atoms]:
    """Two domains joined by a hinge at the origin; the second is opened about a skew axis by `opening` radians."""
    rng = np.random.default_rng([seed, 77])
    body = _chain_of_domains([(1.0, 1.35, "helix"), (0.5, 1.0, "strand")], mass_kda * (1 - share), rng).centred()
    arm = _chain_of_domains([(1.0, 1.2, "strand"), (0.7, 1.5, "helix")], mass_kda * share, rng).centred()
    body = body.moved(translation=np.array([0.0, 0.0, -float(body.position[:, 2].max()) - 2.0]))
    arm = arm.moved(translation=np.array([0.0, 0.0, -float(arm.position[:, 2].min()) + 2.0]))
    return body, arm.moved(hinge_rotation(opening))


def hinge_rotation(opening: float) -> np.ndarray:
    """Turn of the second domain of `hinged_phantom` about its skew axis, `(3, 3)`."""
    axis = np.array([1.0, 0.45, 0.2])
    return _turn(axis / np.linalg.norm(axis), opening)


def _plan_alone(shape: str, rng: np.random.Generator) -> list[tuple[float, float, str]]:
    """Relative mass, elongation and fold of each domain."""
    if shape == "fork":
        return [(1.0, 2.2, "helix"), (0.55, 1.5, "strand"), (0.35, 1.3, "helix")]
    kinds = ["helix", "strand"]
    masses = [1.0, 0.8, 0.62, 0.5, 0.4, 0.3, 0.2]
    return [(m, float(rng.uniform(1.0, 1.7)), kinds[i % 2]) for i, m in enumerate(masses)]


def _plan_protomer(shape: str) -> list[tuple[float, float, str]]:
    if shape in ("rod", "tripod"):
        return [(1.0, 1.8, "helix"), (0.5, 1.2, "strand"), (0.25, 1.0, "helix")]
    return [(1.0, 1.4, "helix"), (0.5, 1.2, "strand"), (0.3, 1.0, "helix")]


def _chain_of_domains(
    plan: list[tuple[float, float, str]], mass_kda: float, rng: np.random.Generator, *, spread: bool = False
) -> Atoms:
    """Domains that touch one another; `spread` hangs each on an end of the first instead of packing them."""
    total = sum(m for m, _, _ in plan)
    placed: list[Atoms] = []
    for i, (mass, elongation, fold) in enumerate(plan):
        domain = _domain(1e3 * mass_kda * mass / total, elongation, fold, rng, chain=chr(65 + i % 26))
        domain = domain.moved(_random_rotation(rng))
        if placed:
            domain = _attach(domain, placed[0] if spread else None, Atoms.joined(placed), rng)
        placed.append(domain)
    return Atoms.joined(placed)


def _attach(domain: Atoms, anchor: Atoms | None, everything: Atoms, rng: np.random.Generator) -> Atoms:
    """Slide a domain in a straight line until it touches what is there; of several lines, the best.

    Without an anchor the best line ends nearest to the middle, with one it ends farthest from the middle of the anchor.
    """
    tree = cKDTree(everything.position[::2])
    thin = domain.position[:: max(1, len(domain) // 300)]
    target = everything.centre_of_mass if anchor is None else anchor.centre_of_mass
    best, best_distance = np.zeros(3), math.inf
    for _ in range(12):
        direction = _unit(rng.standard_normal(3))
        low, high = 0.0, 400.0  # distance from the target: inside at low, free at high
        while high - low > 0.3:
            middle = 0.5 * (low + high)
            free = tree.query(thin + target + middle * direction)[0].min() >= 3.2
            low, high = (low, middle) if free else (middle, high)
        distance = high if anchor is None else -high
        if distance < best_distance:
            best, best_distance = target + high * direction, distance
    return domain.moved(translation=best)


def _domain(mass: float, elongation: float, fold: str, rng: np.random.Generator, *, chain: str) -> Atoms:
    """One ellipsoid of helices or strands, about `mass` Da, centred."""
    n_residues = mass / 82.0  # hydrogens not counted, packing losses allowed for
    radius = (3 / (4 * math.pi) * n_residues * _VOLUME_PER_RESIDUE[fold]) ** (1 / 3)
    axes = radius * np.array([elongation ** (-1 / 3) * 1.12, elongation ** (-1 / 3) / 1.12, elongation ** (2 / 3)])
    spacing = (9.5, 9.5 * math.sqrt(3) / 2) if fold == "helix" else (4.8, 10.0)
    parts = []
    reach = int(radius * 1.5 / min(spacing)) + 2
    lean = rng.uniform(-0.004, 0.004)  # twist of the bundle per Å of height
    for row in range(-reach, reach + 1):
        for column in range(-reach, reach + 1):
            stagger = 0.5 * (row % 2) if fold == "helix" else 0.0
            x = (column + stagger) * spacing[0] + rng.normal(0, 0.8)
            y = row * spacing[1] + rng.normal(0, 0.8)
            inside = 1 - (x / axes[0]) ** 2 - (y / axes[1]) ** 2
            if inside <= 0:
                continue
            length = axes[2] * math.sqrt(inside)
            z = rng.uniform(-2, 2) - length
            while z < length - 4:
                stop = min(z + rng.uniform(18, 45) * (1.0 if fold == "helix" else 0.7), length)
                parts.append(_element(x, y, z, stop, fold, rng, lean))
                z = stop + rng.uniform(4, 7)
    position = np.concatenate([p for p, _, _ in parts])
    element = np.concatenate([e for _, e, _ in parts])
    side = np.concatenate([s for _, _, s in parts])
    keep = ((position / (axes + 4.0)) ** 2).sum(1) < 1
    position, element, side = position[keep], element[keep], side[keep]
    # B-factors rise towards the surface and along side chains, as in well resolved structures
    depth = np.sqrt(((position / axes) ** 2).sum(1))
    bfactor = 10 + 18 * np.clip(depth, 0, 1.3) ** 3 + 3.0 * side + rng.gamma(2.0, 3.0, len(position))
    n = len(position)
    return Atoms(position - position.mean(0), element, bfactor, np.ones(n), np.full(n, chain))


def _element(
    x: float, y: float, z0: float, z1: float, fold: str, rng: np.random.Generator, lean: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One helix or strand along z: positions, atomic numbers and distance along the side chain."""
    rise, turn = (1.5, math.radians(100)) if fold == "helix" else (3.3, math.pi)
    backbone = _HELIX if fold == "helix" else _STRAND
    n = max(2, int((z1 - z0) / rise))
    up = rng.random() < 0.5
    phase = rng.uniform(0, 2 * math.pi) if fold == "helix" else 0.5 * math.pi
    tilt = rng.normal(0, 0.2, 2)
    position, element, side = [], [], []
    for i in range(n):
        height, angle = i * rise, phase + i * turn
        for r, a, h, z in backbone:
            position.append((r * math.cos(angle + a), r * math.sin(angle + a), height + h))
            element.append(z)
            side.append(0.0)
        outward = np.array([math.cos(angle), math.sin(angle), 0.3])
        point = np.array([backbone[1][0] * math.cos(angle), backbone[1][0] * math.sin(angle), height])
        for step in range(int(rng.choice(9, p=[0.08, 0.14, 0.12, 0.16, 0.18, 0.12, 0.1, 0.07, 0.03]))):
            point = point + 1.5 * _unit(outward + rng.normal(0, 0.55, 3))
            position.append(tuple(point))
            element.append(int(rng.choice([6, 6, 6, 6, 7, 8, 16], p=[0.2, 0.2, 0.2, 0.19, 0.09, 0.11, 0.01])))
            side.append(step + 1.0)
    p = np.asarray(position)
    p[:, 2] -= 0.5 * (n - 1) * rise
    if not up:
        p = p * np.array([1.0, -1.0, -1.0])
    p[:, :2] += p[:, 2:3] * tilt
    middle = 0.5 * (z0 + z1)
    twist = lean * (p[:, 2] + middle)
    px, py = p[:, 0] + x, p[:, 1] + y
    out = np.stack(
        [px * np.cos(twist) - py * np.sin(twist), px * np.sin(twist) + py * np.cos(twist), p[:, 2] + middle], 1
    )
    return out, np.asarray(element), np.asarray(side)


def _packing_offset(protomer: Atoms, operators: np.ndarray, symmetry: str, shape: str) -> np.ndarray:
    """Where to put a protomer so that it just touches its copies."""
    if shape == "rod":
        direction = np.array([0.5, 0.5, 0.6])
    elif shape == "ring":
        direction = np.array([1.0, 0.12, 0.55])
    elif shape == "tripod":
        direction = np.array([1.0, 0.0, 0.35])
    else:
        direction = _most_separated(operators)
    if symmetry.upper().startswith("C"):
        direction[2] = 0.0
    direction = direction / np.linalg.norm(direction)
    thin = protomer.position[:: max(1, len(protomer) // 800)]
    low, high = 0.0, 300.0
    while high - low > 0.3:
        middle = 0.5 * (low + high)
        here = thin + middle * direction
        tree = cKDTree(here)
        nearest = min(float(tree.query(here @ g.T)[0].min()) for g in operators[1:])
        low, high = (low, middle) if nearest > 3.2 else (middle, high)
    return high * direction


def _most_separated(operators: np.ndarray) -> np.ndarray:
    """Direction whose images under the group lie farthest apart."""
    points = np.random.default_rng(5).standard_normal((2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    distances = np.stack([np.linalg.norm(points @ g.T - points, axis=1) for g in operators[1:]])
    return points[distances.min(0).argmax()]


def _unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v)


def _random_rotation(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, [1, 0, 2]]


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * (k @ k)

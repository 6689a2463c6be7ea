"""Protein-like structures that need no file: compact molecules of packed domains, with or without symmetry.

A shape is a plan of domains (see `domains.py`) packed against each other and, with symmetry, against their copies;
their space is filled with helices, strands and loops (see `fold.py`). Density, radius of gyration and the structure
factors from 50 to 6 Å are close to those of proteins of the same mass (`tests/simulate/test_phantom.py`); the order of
a true fold is missing.
"""

import math
from functools import partial

import numpy as np

from cryoloom.geometry import symmetry_matrices
from cryoloom.simulate.atoms import Atoms
from cryoloom.simulate.domains import (
    VOLUME_PER_DALTON,
    Domain,
    attach,
    buried,
    near_copies,
    random_rotation,
    share_space,
    slide,
    touches,
)
from cryoloom.simulate.fold import fill

SHAPES = {
    "globule": "C1",
    "fork": "C1",
    "rod": "D2",
    "tripod": "C3",
    "ring": "D7",
    "shell": "O",
}
"""Built-in shapes and the symmetry each has unless another is asked for."""

_N_TRIALS = 32  # ways to pack a protomer that are compared
_N_NEIGHBOURS = 8  # nearest copies that packing looks at


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
    operators = _identity_first(symmetry_matrices(symmetry).numpy())
    rng = np.random.default_rng([seed, sorted(SHAPES).index(shape), len(operators)])
    mass = 1e3 * mass_kda / len(operators)
    if len(operators) == 1:
        return _build(_pack(_plan_alone(shape, rng), mass, rng, spread=shape == "fork"), operators, mass, rng).centred()
    protomer = _around_axes(_pack(_plan_protomer(shape), mass, rng), operators, symmetry, shape, rng)
    return _build(protomer, operators, mass, rng).copies(operators).centred()


def hinged_phantom(
    opening: float, *, mass_kda: float = 120.0, share: float = 0.4, seed: int = 0
) -> tuple[Atoms, Atoms]:
    """Two domains joined by a hinge at the origin; the second is opened about a skew axis by `opening` radians."""
    rng = np.random.default_rng([seed, 77])
    alone = np.eye(3)[None]
    parts = []
    for mass, plan in (
        (1e3 * mass_kda * (1 - share), [(1.0, 1.35, "helix"), (0.5, 1.0, "strand")]),
        (1e3 * mass_kda * share, [(1.0, 1.2, "strand"), (0.7, 1.5, "helix")]),
    ):
        parts.append(_build(_pack(plan, mass, rng), alone, mass, rng).centred())
    body, arm = parts
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


def _pack(
    plan: list[tuple[float, float, str]], mass: float, rng: np.random.Generator, *, spread: bool = False
) -> list[Domain]:
    """Domains packed against one another; `spread` hangs each on an end of the first instead."""
    total = sum(m for m, _, _ in plan)
    placed: list[Domain] = []
    for i, (part, elongation, fold) in enumerate(plan):
        domain = Domain.of_mass(mass * part / total, elongation, fold, chr(65 + i % 26))
        placed.append(attach(domain, placed, rng, far=spread) if placed else domain.moved(random_rotation(rng)))
    return placed


def _build(domains: list[Domain], operators: np.ndarray, mass: float, rng: np.random.Generator) -> Atoms:
    space = share_space(domains, operators, mass * VOLUME_PER_DALTON)
    position, element, bfactor, chain = fill(space, domains, operators, mass, rng)
    return Atoms(position, element, bfactor, np.ones(len(position)), chain)


def _around_axes(
    protomer: list[Domain], operators: np.ndarray, symmetry: str, shape: str, rng: np.random.Generator
) -> list[Domain]:
    """A protomer where it packs against its copies: of many turns, the one that suits the shape best."""
    middle = np.mean([d.centre for d in protomer], axis=0)
    protomer = [d.moved(translation=-middle) for d in protomer]
    best, best_rank = protomer, -math.inf
    for _ in range(_N_TRIALS):
        turn = random_rotation(rng)
        direction = _direction(operators, symmetry, shape, rng)
        turned = [d.moved(turn) for d in protomer]
        distance = slide(partial(_meets_copies, turned, operators, direction), 300.0)
        here = [d.moved(translation=distance * direction) for d in turned]
        rank = buried(here, near_copies(here, operators, _N_NEIGHBOURS)) * _likeness(here, operators, shape)
        rank *= _connected(here, operators)
        if rank > best_rank:
            best, best_rank = here, rank
    return best


def _meets_copies(protomer: list[Domain], operators: np.ndarray, direction: np.ndarray, distance: float) -> bool:
    here = [d.moved(translation=distance * direction) for d in protomer]
    return touches(here, near_copies(here, operators, _N_NEIGHBOURS))


def _connected(protomer: list[Domain], operators: np.ndarray) -> float:
    """Share of all copies that hang together through contacts."""
    contacts = [g for g in operators[1:] if buried(protomer, [d.moved(g) for d in protomer], 2.0) > 0.01]
    reached, front = [operators[0]], [operators[0]]
    while front:
        found = [h @ g for h in front for g in contacts]
        front = []
        for new in found:
            if min(float(np.abs(new - old).max()) for old in reached) > 1e-3:
                reached.append(new)
                front.append(new)
    return len(reached) / len(operators)


def _direction(operators: np.ndarray, symmetry: str, shape: str, rng: np.random.Generator) -> np.ndarray:
    """From the centre to the protomer, `(3,)`."""
    if symmetry.upper().startswith("C"):
        return np.array([1.0, 0.0, 0.0])
    if symmetry.upper().startswith("D"):
        height = rng.uniform(0.7, 1.4) if shape == "rod" else rng.uniform(0.25, 0.8)
        angle = rng.uniform(0, 4 * math.pi / len(operators))
        direction = np.array([math.cos(angle), math.sin(angle), height])
    else:
        direction = _most_separated(operators) + rng.normal(0, 0.08, 3)
    return direction / np.linalg.norm(direction)


def _likeness(domains: list[Domain], operators: np.ndarray, shape: str) -> float:
    """How much a way to pack looks like its shape: long for a rod, wide for a tripod."""
    if shape not in ("rod", "tripod"):
        return 1.0
    points = np.concatenate([d.surface() for d in domains])
    points = np.concatenate([points @ g.T for g in operators])
    moments = np.sort(np.linalg.eigvalsh(np.cov(points.T)))
    if shape == "rod":
        return min(2 * float(moments[2] / (moments[0] + moments[1])), 3.0)
    return min(float((moments[1] + moments[2]) / (2 * moments[0])), 3.0)


def _identity_first(operators: np.ndarray) -> np.ndarray:
    return operators[np.argsort(-np.trace(operators, axis1=1, axis2=2), kind="stable")]


def _most_separated(operators: np.ndarray) -> np.ndarray:
    """Direction whose images under the group lie farthest apart."""
    points = np.random.default_rng(5).standard_normal((2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    distances = np.stack([np.linalg.norm(points @ g.T - points, axis=1) for g in operators[1:]])
    return points[distances.min(0).argmax()]


def _turn(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * (k @ k)

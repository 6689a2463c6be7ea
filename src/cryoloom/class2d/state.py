"""What is fixed over a classification, what changes from one iteration to the next, and how that survives a kill."""

from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.class2d.sums import ClassSums


@dataclass(frozen=True)
class Plan:
    """What is fixed over a classification.

    Attributes
    ----------
    n_classes
        Classes.
    diameter_px
        Diameter of the mask in pixels of the images.
    n_iterations, batch_size
        Iterations, and particles in each at the end; the first use fewer.
    shift_range_px
        Largest distance of a particle from the centre of its box.
    first_radius
        Rings of the first iterations.
    robust
        Images that do not look like their class count less.
    top
        Classes that share an image, at most.
    dtype
        Of the operands of the search.
    """

    n_classes: int
    diameter_px: float
    n_iterations: int
    batch_size: int
    shift_range_px: float
    first_radius: int
    robust: bool = True
    top: int = 4
    dtype: torch.dtype = torch.float32


@dataclass
class State:
    """What changes.

    Attributes
    ----------
    iteration
        Iterations done; one more than asked for after the last pass.
    radius
        Rings used for alignment.
    sums
        Class sums.
    noise
        `σ²` per noise group and ring, `(groups, rings)` float64.
    half
        Half of each particle, `(n,)` int64.
    order, cursor
        Shuffled order of the particles, and where in it the next batch starts.
    random
        State of the random generator, `(bytes,)` uint8.
    class_index
        Class of each particle from 0, -1 unknown, `(n,)` int64.
    psi, shift_px
        In the convention of `em/rings.py`, `(n,)` and `(n, 2)` yx.
    gain
        Log-likelihood that the best class gains over no particle, scale solved out, `(n,)`.
    scale, norm
        Grey-scale factor against the class average and its information `1 / variance` from the noise, `(n,)`.
    member
        Probability of showing what its class shows, the weight in the averages, `(n,)`.
    posterior
        Share of the best class, `(n,)`.
    sharers
        Effective number of classes that share the image, `(n,)`.
    history
        One line of figures per iteration.
    """

    iteration: int
    radius: int
    sums: ClassSums
    noise: Tensor
    half: np.ndarray
    order: np.ndarray
    cursor: int
    random: np.ndarray
    class_index: np.ndarray
    psi: np.ndarray
    shift_px: np.ndarray
    gain: np.ndarray
    scale: np.ndarray
    norm: np.ndarray
    member: np.ndarray
    posterior: np.ndarray
    sharers: np.ndarray
    history: list[dict[str, float]] = field(default_factory=list)


_APART = ("sums", "noise", "history")


def save_state(path: Path, state: State) -> None:
    """Write the state beside its place, then rename: a kill leaves the former one whole."""
    columns = {f.name: getattr(state, f.name) for f in fields(State) if f.name not in _APART}
    keys = sorted(state.history[0]) if state.history else []
    history = np.array([[line[k] for k in keys] for line in state.history]).reshape(len(state.history), len(keys))
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(
            file,
            numerator=state.sums.numerator.numpy(),
            weight=state.sums.weight.numpy(),
            count=state.sums.count.numpy(),
            noise=state.noise.numpy(),
            history=history,
            history_keys=np.array(keys, dtype=np.str_),
            **columns,
        )
    part.replace(path)


def load_state(path: Path) -> State:
    """Read what `save_state` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        data = {k: stored[k] for k in stored.files}
    keys = [str(k) for k in data["history_keys"]]
    columns = {f.name: data[f.name] for f in fields(State) if f.name not in _APART}
    for name in ("iteration", "radius", "cursor"):
        columns[name] = int(columns[name])
    return State(
        sums=ClassSums(*(torch.from_numpy(data[k]) for k in ("numerator", "weight", "count"))),
        noise=torch.from_numpy(data["noise"]),
        history=[dict(zip(keys, map(float, line), strict=True)) for line in data["history"]],
        **columns,
    )

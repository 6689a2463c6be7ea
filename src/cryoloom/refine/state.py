"""Where a refinement stands: all that the next iteration needs, in memory and in one file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.halves import HalfPair, ball_mask
from cryoloom.em.images import ImageSource
from cryoloom.em.noise import NoiseModel, estimate_image_power
from cryoloom.em.poses import Candidates, PoseTable, empty_poses
from cryoloom.em.solve import SolvableSums, box_for_radius
from cryoloom.fourier import fourier_crop
from cryoloom.refine.plan import Plan


@dataclass
class State:
    """Where a refinement stands; everything the next iteration needs.

    Attributes
    ----------
    iteration
        Iterations done.
    n_global
        Global searches done.
    radius
        Last shell that counts in the next iteration.
    grid_radius
        Rings of the last global search.
    poses
        Best pose of each particle.
    modes
        All poses that share particles, or None before the first iteration.
    noise
        Noise spectra.
    volumes
        Reference volume of each half, or of each fold of the first half and then of the second.
    origin
        The reference of the start, in a box just large enough: the result keeps its frame. None: the frame is free.
    finished, last, rescued
        Whether the schedule has ended; whether the next iteration is the last; whether the safety net was out.
    weak
        Whether images are too noisy to choose their poses from the start: each meets a map without itself.
    marginal
        Whether all poses share each image in the next iteration, as they did in `n_marginal` ones.
    shift_sd_px
        Spread of the shifts that those iterations found, pixels along one axis.
    history
        One dict of numbers per iteration.
    """

    iteration: int
    n_global: int
    radius: int
    grid_radius: int
    poses: PoseTable
    modes: Candidates | None
    noise: NoiseModel
    volumes: list[Tensor]
    origin: Tensor | None = None
    finished: bool = False
    last: bool = False
    rescued: bool = False
    weak: bool = False
    marginal: bool = False
    n_marginal: int = 0
    shift_sd_px: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    curves: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What the last iteration leaves behind."""

    halves: tuple[SolvableSums, SolvableSums]
    pair: HalfPair
    state: State


def begin(source: ImageSource, reference: Tensor, half: np.ndarray, plan: Plan, executor: Executor) -> State:
    """State before the first iteration: the low-passed reference in both halves."""
    rows = np.arange(len(source))
    pixel_size = source.field / reference.shape[0]
    volume = reference * ball_mask(reference.shape[0], pixel_size, plan.diameter)
    poses = empty_poses(len(source), half)
    if plan.local and source.particles.rotation is not None:
        p = source.particles
        poses.rotation[:] = p.rotation
        poses.shift_px[:] = 0.0 if p.shift is None else p.shift / source.pixel_size
        poses.scale[:] = 1.0 if p.scale is None else np.where(np.isfinite(p.scale), p.scale, 1.0)
        poses.known[:] = True
        poses.moved[:] = 0.0
    return State(
        iteration=0,
        n_global=0,
        radius=clip_radius(source, 1.2 * source.field / plan.initial_lowpass, low=4),
        grid_radius=0,
        poses=poses,
        modes=None,
        noise=estimate_image_power(source, executor, rows),
        volumes=[volume, volume],
        origin=None if plan.local else _shrunk(volume, clip_radius(source, source.field / plan.initial_lowpass, low=4)),
    )


def _shrunk(volume: Tensor, radius: int) -> Tensor:
    """The volume in the smallest box that holds its shells up to `radius`."""
    box = box_for_radius(radius + 1, volume.shape[0])
    return fourier_crop(volume, (box, box, box))


def clip_radius(source: ImageSource, radius: float, low: int = 4) -> int:
    """The nearest shell that the images have, at least `low`."""
    return int(np.clip(round(radius), low, source.points.radius))


def save_state(path: Path, state: State) -> None:
    """Write the state beside its place, then rename."""
    columns: dict[str, Any] = {f"poses_{k}": v for k, v in state.poses.arrays().items()}
    if state.modes is not None:
        m = state.modes
        columns |= {
            "modes_row": m.row, "modes_rotation": m.rotation, "modes_shift_px": m.shift_px, "modes_scale": m.scale,
            "modes_reference": m.reference, "modes_log_likelihood": m.log_likelihood, "modes_posterior": m.posterior,
        }  # fmt: skip
    if state.origin is not None:
        columns["origin"] = state.origin.numpy()
    columns |= {f"curve_{i}": c for i, c in enumerate(state.curves)}
    numbers = np.array(
        [
            state.iteration, state.n_global, state.radius, state.grid_radius, state.finished, state.last, state.rescued,
            state.weak, state.marginal, state.n_marginal,
        ],
        dtype=np.int64,
    )  # fmt: skip
    keys = sorted({k for h in state.history for k in h})
    history = np.array([[h.get(k, np.nan) for k in keys] for h in state.history]).reshape(len(state.history), len(keys))
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        np.savez(
            file,
            numbers=numbers,
            shift_sd_px=state.shift_sd_px,
            noise=state.noise.power,
            volumes=np.stack([v.numpy() for v in state.volumes]),
            history=history,
            history_keys=np.array(keys),
            n_curves=len(state.curves),
            **columns,
        )
    temporary.replace(path)


def load_state(path: Path) -> State:
    """Read what `save_state` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        data = {k: stored[k] for k in stored.files}
    numbers = [int(v) for v in data["numbers"]]
    iteration, n_global, radius, grid_radius, finished, last, rescued, weak, marginal, n_marginal = numbers
    poses = PoseTable(**{k[len("poses_") :]: v for k, v in data.items() if k.startswith("poses_")})
    modes = None
    if "modes_row" in data:
        modes = Candidates(**{k[len("modes_") :]: v for k, v in data.items() if k.startswith("modes_")})
    keys = [str(k) for k in data["history_keys"]]
    history = [{k: float(v) for k, v in zip(keys, row, strict=True) if np.isfinite(v)} for row in data["history"]]
    return State(
        iteration,
        n_global,
        radius,
        grid_radius,
        poses,
        modes,
        NoiseModel(data["noise"]),
        [torch.from_numpy(v) for v in data["volumes"]],
        torch.from_numpy(data["origin"]) if "origin" in data else None,
        bool(finished),
        bool(last),
        bool(rescued),
        bool(weak),
        bool(marginal),
        n_marginal,
        float(data["shift_sd_px"]),
        history,
        [data[f"curve_{i}"] for i in range(int(data["n_curves"]))],
    )

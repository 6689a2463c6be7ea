"""What a refinement is asked to do."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Plan:
    """What a refinement is asked to do; lengths in Å.

    Attributes
    ----------
    symmetry, diameter, initial_lowpass
        Point group, diameter of the particle's ball, resolution of the reference.
    max_iterations
        Most iterations, the last one included.
    global_passes
        Number of iterations with a global search, or None to decide by what still moves.
    search
        `exhaustive`, or `branch`: branch and bound on directions twice as fine.
    shift_range
        Largest shift of the first search.
    local
        Poses are given: no global search.
    relax
        Point group whose operators give other poses to try beside those at hand, or None.
    turn_sd
        Spread of the poses about those given, radians; 0 sets no limit.
    shift_sd
        Spread of the shifts about those given, Å; 0 sets no limit.
    soft
        Share particles among modes.
    own_masks
        Masks from the half maps; else the ball.
    local_filter
        Filter the references place by place.
    defocus_spread
        Spread of the particles' defocus about their micrograph's, Å; 0 keeps the values given.
    dtype
        Operands of the search.
    """

    symmetry: str
    diameter: float
    initial_lowpass: float = 40.0
    max_iterations: int = 18
    global_passes: int | None = None
    search: str = "exhaustive"
    shift_range: float = 20.0
    local: bool = False
    relax: str | None = None
    turn_sd: float = 0.0
    shift_sd: float = 0.0
    soft: bool = True
    own_masks: bool = True
    local_filter: bool = False
    defocus_spread: float = 300.0
    dtype: torch.dtype = torch.float32

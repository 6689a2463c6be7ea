"""Whether the particles know this map from maps that are false on purpose.

A decoy has the radial spectrum and outline of the map but random phases: what an alignment can make of noise, it
makes as well with a decoy. Particles of one half look for their pose anew, in all orientations, in the map of the
*other* half and in decoys of it. If the map is in the images it wins clearly; a map that was averaged out of noise with
a reference (Henderson 2013, doi:10.1073/pnas.1314449110), or one of another molecule, does not.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import Executor
from cryoloom.em.gauss_newton import refine_poses
from cryoloom.em.poses import Candidates, best_of, join_candidates
from cryoloom.em.search import search_directions, search_poses, shift_grid
from cryoloom.fourier.slices import prepare_volume
from cryoloom.geometry import pose_distance
from cryoloom.maps.filter import filter_map, shell_gain
from cryoloom.maps.randomise import randomise_phases
from cryoloom.maps.spectrum import radial_power
from cryoloom.validation.held_out import fit_grey_scale
from cryoloom.validation.posed import PosedParticles


@dataclass(frozen=True)
class FreshSearch:
    """What particles gain from a map when they look for their pose anew.

    Attributes
    ----------
    gain
        Log-likelihood of the best pose, `(n,)`.
    rotation
        Of the best pose, `(n, 3, 3)`.
    given_gain
        Log-likelihood of the pose that each particle came with, after a small local fit, `(n,)`.
    elsewhere_gain
        Of the best pose far from the given one, `(n,)`.
    angle
        Between the given and the best pose, radians, `(n,)`.
    """

    gain: np.ndarray
    rotation: np.ndarray
    given_gain: np.ndarray
    elsewhere_gain: np.ndarray
    angle: np.ndarray

    @property
    def alignability(self) -> np.ndarray:
        """How much better the given pose is than the best one elsewhere, `(n,)`; negative where it is not."""
        return self.given_gain - self.elsewhere_gain


@dataclass(frozen=True)
class DecoyTest:
    """Map against decoys.

    Attributes
    ----------
    z
        Mean over particles of the gain of the map over the mean of the decoys, in standard errors.
    auc
        Probability that a particle gains more from the map than from a decoy.
    advantage
        Mean gain of the map over the decoys, as a fraction of that of the decoys.
    n_particles, n_decoys
        How many were asked.
    """

    z: float
    auc: float
    advantage: float
    n_particles: int
    n_decoys: int


def make_decoy(volume: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    """A map of the same radial spectrum within the same outline, with random phases from the second shell on.

    Masking changes the spectrum, so it is set back after each of a few rounds.
    """
    shape = tuple(volume.shape)
    wanted = radial_power(volume * mask)
    decoy = randomise_phases(volume * mask, 2, generator)
    for _ in range(4):
        decoy = decoy * mask
        ratio = (wanted / radial_power(decoy).clamp_min(1e-30)).clamp(0.0, 1e6).sqrt()
        decoy = filter_map(decoy, shell_gain(ratio, shape))
    return decoy * mask


def search_anew(
    posed: PosedParticles,
    volume: Tensor,
    poses: Candidates,
    executor: Executor,
    *,
    radius: int,
    symmetry: str = "C1",
    apart_deg: float = 20.0,
    spacing: int = 5,
) -> FreshSearch:
    """Search all orientations for each particle against one map, and score the given pose beside it.

    Parameters
    ----------
    posed
        Images and noise.
    volume
        On the grey scale of the images, cube over their field.
    poses
        Given poses; rows ascending, one each.
    radius
        Shells that count.
    apart_deg
        A pose further than this from the given one is elsewhere.
    spacing
        Fineness of the grid of directions (`direction_grid`).
    """
    source = posed.source
    reference = prepare_volume(volume.float(), radius)
    every = np.ones(len(source), np.int64)
    centre = np.zeros((len(source), 2))
    centre[poses.row] = poses.shift_px
    step = max(1.0, source.box / (4.0 * radius))
    found = search_poses(
        source,
        [reference],
        every,
        poses.row,
        posed.noise,
        executor,
        n_rings=radius,
        rotations=search_directions(spacing, symmetry),
        shifts_px=shift_grid(2 * step, step),
        centre_px=centre,
        top=8,
    )
    found = replace(found, scale=np.ones(len(found)))
    fitted = refine_poses(source, [reference], every, found, posed.noise, executor, radius=radius, n_steps=4)
    given = replace(poses, scale=np.ones(len(poses)), reference=np.zeros(len(poses), np.int64))
    own = refine_poses(
        source, [reference], every, given, posed.noise, executor, radius=radius, n_steps=3, largest_turn=0.03
    )
    best = best_of(fitted, fitted.log_likelihood)
    place = np.searchsorted(poses.row, fitted.row)
    away = pose_distance(
        torch.from_numpy(fitted.rotation), torch.from_numpy(own.rotation[place]), symmetry
    ).numpy() > np.deg2rad(apart_deg)
    elsewhere = np.full(len(poses), -np.inf)
    np.maximum.at(elsewhere, place[away], fitted.log_likelihood[away])
    # Where all that the search kept lies near the given pose, the worst of it bounds what lies elsewhere.
    lowest = np.full(len(poses), np.inf)
    np.minimum.at(lowest, place, fitted.log_likelihood)
    elsewhere = np.where(np.isfinite(elsewhere), elsewhere, lowest)
    angle = pose_distance(torch.from_numpy(fitted.rotation[best]), torch.from_numpy(own.rotation), symmetry).numpy()
    return FreshSearch(
        gain=fitted.log_likelihood[best],
        rotation=fitted.rotation[best],
        given_gain=own.log_likelihood,
        elsewhere_gain=elsewhere,
        angle=angle,
    )


def compare_with_decoys(
    posed: PosedParticles,
    maps: tuple[Tensor, Tensor],
    mask: Tensor,
    executor: Executor,
    generator: torch.Generator,
    *,
    radius: int,
    symmetry: str = "C1",
    largest_number: int = 400,
    n_decoys: int = 2,
) -> tuple[DecoyTest, FreshSearch, Candidates]:
    """Particles of each half against the map of the other half and its decoys.

    Parameters
    ----------
    posed
        Images, noise, given poses and halves.
    maps
        Map of half 1 and of half 2, filtered as they deserve, cubes over the field of the images.
    mask
        Outline, like the maps.
    radius
        Shells that count: those of low resolution, where a search of all poses is reliable.
    largest_number
        Particles that are asked, spread over the set.

    Returns
    -------
    test, search, poses
        The test, what the particles gained from the map itself, and the poses they came with, in the same order.
    """
    real, false, asked = [], [], []
    for half in (1, 2):
        poses = posed.of_half(half)
        if len(poses) > largest_number // 2:
            poses = poses.select(np.linspace(0, len(poses) - 1, largest_number // 2).astype(np.int64))
        other = maps[2 - half] * mask
        scale = fit_grey_scale(posed, other, poses, executor, radius)
        if scale <= 0:
            scale = 1.0 / max(float(other.std()), 1e-30)
        real.append(search_anew(posed, other * scale, poses, executor, radius=radius, symmetry=symmetry))
        gains = [
            search_anew(
                posed, make_decoy(other, mask, generator) * scale, poses, executor, radius=radius, symmetry=symmetry
            ).gain
            for _ in range(n_decoys)
        ]
        false.append(np.stack(gains))
        asked.append(poses)
    gain = np.concatenate([r.gain for r in real])
    decoy = np.concatenate(false, axis=1)  # (decoys, particles)
    difference = gain - decoy.mean(0)
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    # A decoy may suit all images better or worse by chance, as any map may: its spread counts as error too.
    error = np.hypot(error, decoy.mean(1).std(ddof=1)) if n_decoys > 1 else error
    test = DecoyTest(
        z=float(difference.mean() / max(error, 1e-12)),
        auc=float(np.mean((gain[None] > decoy) + 0.5 * (gain[None] == decoy))),
        advantage=float(difference.mean() / max(abs(decoy.mean()), 1e-12)),
        n_particles=len(gain),
        n_decoys=n_decoys,
    )
    order = np.argsort(np.concatenate([poses.row for poses in asked]), kind="stable")
    columns = {f.name: np.concatenate([getattr(r, f.name) for r in real])[order] for f in fields(FreshSearch)}
    return test, FreshSearch(**columns), join_candidates(asked)

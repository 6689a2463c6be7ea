"""A domain of 80 kDa on a hinge, in another place on its 400 kDa body in every image."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from cryoloom.data import ParticleSet, VolumeMap
from cryoloom.io.mrc import write_mrc
from cryoloom.maps.mask import soft_mask_from_map
from cryoloom.simulate.atoms import Atoms
from cryoloom.simulate.particles import ParticleRecipe, Specimen, observed, particle_images
from cryoloom.simulate.phantom import phantom
from cryoloom.simulate.potential import potential_map

BOX, PIXEL_SIZE = 144, 1.8
SWING = np.deg2rad(12.0)


@dataclass(frozen=True)
class HingeBed:
    """The images, what a microscope without the body would see, and the truth of both.

    Attributes
    ----------
    particles
        What a pipeline may see.
    domain_alone
        The same images, noise included, without the body, at the true poses of the domain: its own oracle.
    domain
        Map of the domain at rest.
    mean
        Map of body and domain, over all places of the domain.
    mask
        Soft mask around all places of the domain.
    """

    particles: ParticleSet
    domain_alone: ParticleSet
    domain: VolumeMap
    mean: VolumeMap
    mask: VolumeMap


def make_hinge_bed(folder: Path, *, n: int, snr: float, seed: int) -> HingeBed:
    """Simulate the bed into `folder`."""
    body = phantom("globule", "C1", mass_kda=400.0, seed=seed)
    domain, hinge = _beside(phantom("globule", "C1", mass_kda=80.0, seed=seed + 100), body)
    middle = 0.5 * (body.position.min(0) + body.position.max(0)) * 0.9 + 0.1 * domain.position.mean(0)
    body, domain, hinge = _moved(body, -middle), _moved(domain, -middle), hinge - middle

    def swing(coordinate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Body at rest, domain turned about the hinge along a closed curve of two angles."""
        turn = 2 * np.pi * coordinate
        vector = np.stack([np.sin(3 * turn), np.sin(4 * turn + 1.0), 0.3 * np.sin(7 * turn)], -1)
        matrix = Rotation.from_rotvec(SWING * vector).as_matrix()
        rest = np.broadcast_to(np.eye(3), matrix.shape)
        return np.stack([rest, matrix], 1), np.stack([np.zeros((len(turn), 3)), hinge - matrix @ hinge], 1)

    maps = [potential_map(atoms, BOX, PIXEL_SIZE) for atoms in (body, domain)]
    nothing = VolumeMap(np.zeros_like(maps[0].data), PIXEL_SIZE)
    both = Specimen((tuple(maps),), diameter=200.0, motion=swing)
    recipe = ParticleRecipe(n=n, snr=snr, junk=0.0, shift=4.0)
    images, truth = particle_images(both, recipe, seed=seed)
    noise, _ = particle_images(both, ParticleRecipe(n=n, snr=0.0, junk=0.0, shift=4.0), seed=seed)
    parts = []
    for kept in ((maps[0], nothing), (nothing, maps[1])):
        alone, _ = particle_images(Specimen((kept,), diameter=200.0, motion=swing), recipe, seed=seed)
        parts.append(alone - noise)
    # the simulator gave each part its own grey scale; their sum is exact in that of the whole
    columns = torch.stack([part.flatten() for part in parts], 1).double()
    grey = torch.linalg.lstsq(columns, (images - noise).flatten().double()[:, None]).solution[:, 0]
    for name, stack in (("whole", images), ("domain", noise + float(grey[1]) * parts[1])):
        write_mrc(folder / f"{name}.mrcs", stack.numpy(), PIXEL_SIZE, kind="stack")
    truth = truth.replace(image_path=np.full(n, str(folder / "whole.mrcs")), image_index=np.arange(n))
    turned, moved = (value[:, 1] for value in swing(truth.extra["cryoloomCoordinate"]))
    place = np.einsum("nij,ni->nj", truth.rotation, moved)[:, 1::-1]
    alone_truth = truth.replace(
        image_path=np.full(n, str(folder / "domain.mrcs")),
        rotation=np.einsum("nji,njk->nik", turned, truth.rotation),
        shift=truth.shift + place,
    )
    mean = np.mean([both.truth(coordinate=c).data for c in np.linspace(0, 1, 24, endpoint=False)], 0)
    reach = torch.from_numpy(np.ascontiguousarray(mean - maps[0].data))
    mask = soft_mask_from_map(reach, PIXEL_SIZE)
    return HingeBed(
        observed(truth), alone_truth, maps[1], VolumeMap(mean, PIXEL_SIZE), VolumeMap(mask.numpy(), PIXEL_SIZE)
    )


def _moved(atoms: Atoms, by: np.ndarray) -> Atoms:
    return replace(atoms, position=atoms.position + by)


def _beside(domain: Atoms, body: Atoms) -> tuple[Atoms, np.ndarray]:
    """The domain moved along x until it touches the body, and where it does."""
    start = body.position[:, 0].max() + np.ptp(domain.position[:, 0])
    placed = _moved(domain, np.array([start, 0.0, 0.0]) - domain.position.mean(0))
    tree = cKDTree(body.position)
    while tree.query(placed.position)[0].min() > 3.5:
        placed = _moved(placed, np.array([-1.0, 0.0, 0.0]))
    nearest = int(tree.query(placed.position)[0].argmin())
    return placed, placed.position[nearest]

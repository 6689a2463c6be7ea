"""Training of the network on small images, and what its answers mean on the scale of the background."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import softplus

from cryoloom.picking.learned.examples import OFF_CENTRE, PARTICLE, UNLABELLED, Examples, Labelled
from cryoloom.picking.learned.loss import positive_unlabelled_loss
from cryoloom.picking.learned.network import PickerNetwork, answer_map
from cryoloom.picking.networks import descend, initialise_layers
from cryoloom.picking.peaks import background_level

_RATE, _DECAY = 2e-3, 1e-2
_OFF_CENTRE_WEIGHT = 0.25


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes
    ----------
    network
        On the CPU.
    background
        Median and standard deviation of its log odds over the background of the micrographs it was trained on.
    losses
        Loss of each step, `(steps,)`.
    """

    network: PickerNetwork
    background: tuple[float, float]
    losses: np.ndarray


def train_network(
    micrographs: Sequence[Labelled],
    n_particles: float,
    extent_px: float,
    *,
    steps: int,
    seed: int,
    device: str = "cpu",
    batch_size: int = 24,
    advance: Callable[[], None] = lambda: None,
) -> Trained:
    """Train a network on labelled micrographs.

    Parameters
    ----------
    micrographs
        With labels; all other particles on them are unlabelled.
    n_particles
        Expected number of particles on all of them, labelled or not.
    extent_px
        Largest extent of a particle in pixels of their images.
    steps
        Number of steps.
    seed
        Equal seeds give equal networks on one kind of device.
    device
        Of the training.
    batch_size
        Small images per step.
    advance
        Called after each step.
    """
    generator = torch.Generator().manual_seed(seed)
    examples = Examples(micrographs, extent_px, np.random.default_rng(seed))
    prior = examples.prior(n_particles - float(sum(one.weight.sum() for one in micrographs)))
    network = PickerNetwork()
    initialise_layers(network, generator)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss() -> torch.Tensor:
        batch = examples.batch(batch_size)
        odds = network(batch.image.to(device, memory_format=torch.channels_last)).cpu()
        # places near labels are not like all other places
        free = (batch.known == UNLABELLED) & batch.anywhere[:, None, None]
        labelled, off_centre = odds[batch.known == PARTICLE], odds[batch.known == OFF_CENTRE]
        of_places = positive_unlabelled_loss(labelled, odds[free], prior)
        return of_places + _OFF_CENTRE_WEIGHT * softplus(off_centre).mean()

    losses = descend(network, loss, steps, rate=_RATE, decay=_DECAY, advance=advance)
    network.eval().to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    maps = [answer_map(network, torch.from_numpy(one.image)) for one in micrographs]
    levels = np.asarray(
        [background_level(odds, valid=torch.from_numpy(~one.excluded)) for odds, one in zip(maps, micrographs)]  # noqa: B905
    )
    return Trained(network, (float(np.median(levels[:, 0])), float(np.median(levels[:, 1]))), losses)

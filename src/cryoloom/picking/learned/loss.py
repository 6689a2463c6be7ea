"""Loss for learning from particles and places of which nobody has said what they are.

Of the unlabelled places a known share `prior` is particles. The risk of calling a true background place a particle is
what the unlabelled places say, less what the unlabelled particles among them add to it, which the labelled ones tell;
it cannot be negative, and where a finite sample makes it so, the network has begun to learn the sample by heart and the
step is turned back (Kiryo et al. 2017, arXiv:1703.00593). Particles are rare among all places, so both risks count the
same (Su, Chen and Xu 2021, doi:10.24963/ijcai.2021/412): this only shifts the log odds by a constant.
"""

import torch
from torch import Tensor
from torch.nn.functional import softplus

_BACK = 0.1  # size of a step that is turned back


def positive_unlabelled_loss(labelled: Tensor, unlabelled: Tensor, prior: float) -> Tensor:
    """Balanced non-negative risk.

    Parameters
    ----------
    labelled
        Log odds at labelled particles, `(n,)`.
    unlabelled
        Log odds at unlabelled places, `(m,)`.
    prior
        Share of particles among the unlabelled places, from 0 to below 1.

    Raises
    ------
    ValueError
        If the share is not from 0 to below 1.
    """
    if not 0 <= prior < 1:
        raise ValueError(f"prior: expected from 0 to below 1, got {prior}")
    missed = softplus(-labelled).mean()
    invented = (softplus(unlabelled).mean() - prior * softplus(labelled).mean()) / (1 - prior)
    return missed + torch.where(invented > 0, invented, -_BACK * invented)

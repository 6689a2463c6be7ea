"""Phase randomisation beyond a shell: the same amplitudes, no common signal (Chen et al. 2013)."""

import torch
from torch import Tensor

from cryoloom.fourier import irfftn, rfftn, shell_index


def randomise_phases(volume: Tensor, from_shell: int, generator: torch.Generator, ndim: int = 3) -> Tensor:
    """Replace the phases of shells `>= from_shell` by random ones; amplitudes and lower shells stay.

    The random phases are those of the transform of real white noise, so Friedel symmetry holds exactly. Corners
    beyond the last shell are randomised too.

    Parameters
    ----------
    volume
        Real, `(*batch, [d,] h, w)`; one noise per batch member.
    from_shell
        First shell that is randomised.
    generator
        CPU generator.
    """
    shape = volume.shape[-ndim:]
    dft = rfftn(volume, ndim)
    noise = torch.randn(volume.shape, generator=generator, dtype=torch.float32)
    random_dft = rfftn(noise, ndim).to(dft.device)
    phase = random_dft / random_dft.abs().clamp_min(1e-30)
    keep = shell_index(shape, device=dft.device) < from_shell
    return irfftn(torch.where(keep, dft, dft.abs() * phase), shape)

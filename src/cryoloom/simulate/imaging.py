"""From projections to images: CTF with aberrations, envelope, shift, and the Ewald sphere.

Weak phase object: `dft_image = ctf * slice`. With the Ewald sphere the two side bands see two curved slices,
`i/2 (exp(iχ) F(k, +κ) - exp(-iχ) F(k, -κ))` with `κ = hand λ k² / 2`, which is `-sin(χ) F` on a flat sphere; a point at
height z then has exactly the defocus `defocus + hand * z` (`style.md`, Height).
"""

import torch
from torch import Tensor

from cryoloom.data import Optics
from cryoloom.fourier.exact import ExactSpectrum, project_dft
from cryoloom.fourier.shift import phase_ramp
from cryoloom.fourier.transform import frequency_grid
from cryoloom.optics.beam_tilt import beam_tilt_factor
from cryoloom.optics.ctf import ctf_phase, electron_wavelength


def image_dfts(
    bodies: list[ExactSpectrum],
    rotation: Tensor,
    *,
    optics: Optics,
    box: int,
    defocus_u: Tensor,
    defocus_v: Tensor,
    defocus_angle: Tensor,
    phase_shift: Tensor,
    shift: Tensor,
    bfactor: float = 0.0,
    body_rotation: Tensor | None = None,
    body_translation: Tensor | None = None,
    ewald: bool = False,
) -> Tensor:
    """Noise-free images of one molecule at given poses, as half spectra `(p, box, box // 2 + 1)`.

    Parameters
    ----------
    bodies
        Rigid parts of the molecule, each in the frame of the whole.
    rotation
        Image frame to volume frame, `(p, 3, 3)`.
    optics
        Pixel size, voltage, Cs, amplitude contrast, beam tilt, hand.
    box
        Side of the images.
    defocus_u, defocus_v, defocus_angle, phase_shift
        Å and radians, `(p,)`.
    shift
        Where the centre of the molecule sits, Å, yx, `(p, 2)`.
    bfactor
        Envelope `exp(-B k² / 4)`.
    body_rotation, body_translation
        A point of body b moves to `Q p + t` in the frame of the whole; `(p, b, 3, 3)` and `(p, b, 3)` xyz in Å.
    ewald
        Curve the Ewald sphere.
    """
    shape = (box, box)
    grid = frequency_grid(shape, optics.pixel_size, device=rotation.device, dtype=torch.float64)
    ky, kx = grid.unbind(-1)
    k2 = ky**2 + kx**2
    chi = ctf_phase(
        ky,
        kx,
        defocus_u=defocus_u.double(),
        defocus_v=defocus_v.double(),
        defocus_angle=defocus_angle.double(),
        voltage_kv=optics.voltage_kv,
        cs_mm=optics.cs_mm,
        amplitude_contrast=optics.amplitude_contrast,
        phase_shift=phase_shift.double(),
    )
    if ewald:
        field = bodies[0].box * optics.pixel_size
        curvature = 0.5 * optics.hand * electron_wavelength(optics.voltage_kv) / field
        wave = torch.polar(torch.ones_like(chi), chi)
        upper = _slices(bodies, rotation, box, optics.pixel_size, body_rotation, body_translation, curvature)
        lower = _slices(bodies, rotation, box, optics.pixel_size, body_rotation, body_translation, -curvature)
        dft = 0.5j * (wave * upper - wave.conj() * lower)
    else:
        flat = _slices(bodies, rotation, box, optics.pixel_size, body_rotation, body_translation, 0.0)
        dft = -torch.sin(chi).to(torch.float32) * flat
    if bfactor:
        dft = dft * torch.exp(-0.25 * bfactor * k2)
    if optics.beam_tilt_mrad != (0.0, 0.0):
        tilt = beam_tilt_factor(
            ky, kx, beam_tilt_mrad=optics.beam_tilt_mrad, voltage_kv=optics.voltage_kv, cs_mm=optics.cs_mm
        )
        dft = dft * tilt
    dft = dft * phase_ramp(shift.double() / optics.pixel_size, shape)
    return dft.to(torch.complex64)


def _slices(
    bodies: list[ExactSpectrum],
    rotation: Tensor,
    box: int,
    pixel_size: float,
    body_rotation: Tensor | None,
    body_translation: Tensor | None,
    curvature: float,
) -> Tensor:
    total: Tensor | None = None
    rotation = rotation.double()
    for b, body in enumerate(bodies):
        pose = rotation if body_rotation is None else body_rotation[:, b].double().transpose(-1, -2) @ rotation
        part = project_dft(body, pose, box, curvature=curvature)
        if body_translation is not None:
            moved = (rotation.transpose(-1, -2) @ body_translation[:, b].double()[..., None])[..., 0]  # image frame xyz
            part = part * phase_ramp(moved[:, :2].flip(-1) / pixel_size, (box, box)).to(part.dtype)
        total = part if total is None else total + part
    assert total is not None
    return total

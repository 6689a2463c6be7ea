"""The contrast transfer function, aberrations, dose and detector."""

from cryoloom.optics.ctf import ctf, ctf_phase, electron_wavelength

__all__ = ["ctf", "ctf_phase", "electron_wavelength"]

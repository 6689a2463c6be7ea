"""Defocus, astigmatism and quality of a micrograph from the rings in its power spectrum (stage `ctf`)."""

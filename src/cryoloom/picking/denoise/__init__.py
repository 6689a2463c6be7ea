"""Micrographs for the eye and for pickers: a network that learns from the two halves of the exposure."""

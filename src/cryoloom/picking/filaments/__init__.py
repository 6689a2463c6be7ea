"""Filaments on micrographs: oriented templates, curves, and segments with what is known of their poses."""

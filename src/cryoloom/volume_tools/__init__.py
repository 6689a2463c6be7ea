"""Stages `volume ...` and `mask ...`: everyday operations on maps and masks."""

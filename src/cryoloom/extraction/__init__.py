"""Stage `extract`: particle images cut from micrographs."""

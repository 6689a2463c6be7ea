"""Stage `pick`: where the particles are on the micrographs."""

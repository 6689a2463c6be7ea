"""Stage `rerun`: results made again from their records."""

"""Stage `subtract`: particles without the part of the map that is of no interest."""

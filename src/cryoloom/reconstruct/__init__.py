"""Stage `reconstruct`: a map and its halves from particles whose poses are known."""

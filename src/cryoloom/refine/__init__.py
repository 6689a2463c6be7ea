"""Stage `refine`: gold-standard refinement of one structure from a reference map."""

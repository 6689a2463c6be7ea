"""Stage `class3d`: sorting particles into states, with or without alignment."""

"""Stages `particles merge`, `split`, `subset`, `unique` and `recentre`: sets taken apart and put together."""

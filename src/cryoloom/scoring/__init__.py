"""Scores of any result against the truth of a simulation; pure functions, and the stage `score`."""

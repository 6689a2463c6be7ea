"""Check of an installation: a known structure rebuilt from simulated movies, with the error of every step."""

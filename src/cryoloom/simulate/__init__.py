"""Simulated particles and movies with stored truth."""

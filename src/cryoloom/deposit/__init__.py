"""Stages `deposit` and `check-deposit`: a folder that EMDB and EMPIAR take as it is, and what it lacks."""

"""Exhaustive search of micrographs with an atomic model or a map, at a set rate of false picks (2DTM)."""

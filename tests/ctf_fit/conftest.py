"""Fixtures of these tests: recipes of micrographs with known truth."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from micrographs import cramer_rao, draw_case, simulate_micrograph, simulate_slab, slab_bound, textbook_ctf


@pytest.fixture(scope="session")
def bound():
    return cramer_rao


@pytest.fixture(scope="session")
def textbook():
    return textbook_ctf


@pytest.fixture(scope="session")
def micrograph():
    return simulate_micrograph


@pytest.fixture(scope="session")
def slab():
    return simulate_slab


@pytest.fixture(scope="session")
def slab_error():
    return slab_bound


@pytest.fixture(scope="session")
def case():
    return draw_case

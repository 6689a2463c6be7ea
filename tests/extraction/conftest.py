"""Makes the simulated micrographs of the picking tests importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "picking"))

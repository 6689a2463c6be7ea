"""Restorations that are left out are named with their reason, and only those that are really absent."""

import pytest

import cryoloom.restoration
from cryoloom.project.registry import STAGES

OMITTED = ("blind deconvolution", "spherical deconvolution", "VISDEM", "Gaussians")


@pytest.mark.capability("RST-3")
def test_each_other_restoration_is_omitted_in_writing(measure):
    text = cryoloom.restoration.__doc__ or ""
    written = [name for name in OMITTED if f"\n- {name}" in text or f"by {name}" in text]
    reasons = [line for line in text.split("\n- ")[1:] if ":" in line and len(line) > 120]
    measure(
        len(written), "written omissions", "4 (one implementation each, or a written omission)", note="none is built"
    )
    assert len(written) == len(reasons) == len(OMITTED)
    assert not any(word in stage for stage in STAGES for word in ("deconvol", "visdem", "gaussian"))

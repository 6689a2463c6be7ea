"""A picker from another house: the network that `topaz-em` brings, where that program is installed.

Bepler et al. 2019, doi:10.1038/s41592-019-0575-8. The prepared micrograph and its inverse are written in the contrast
of the microscope, `topaz segment` gives a map of scores for each, and both are put on the scale of the background, so
that its picks are counted against decoys like those of any other picker. The network was trained on real micrographs
whose particles were some 20 pixels wide, as they are on prepared micrographs.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryoloom.contract import InputError, WorkFailed
from cryoloom.io.mrc import write_mrc
from cryoloom.io.tiff import read_tiff
from cryoloom.picking.finders import LOWEST, Finder, Peaks
from cryoloom.picking.peaks import find_peaks, normalise_by_background
from cryoloom.picking.prepare import Prepared

PROGRAM = "topaz"
_SIDES = ("seen", "inverted")


def topaz_finder() -> Finder:
    """Finder that asks the program.

    Raises
    ------
    InputError
        If it is not installed.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise InputError(f"--topaz: no program '{PROGRAM}' on the path; install topaz-em, or leave the option out.")

    def find(prepared: Prepared, reach_px: float) -> Peaks:
        score, decoy = normalise_by_background(*_score_maps(program, prepared), valid=prepared.valid)
        place, value = find_peaks(score, reach_px, lowest=LOWEST)
        return Peaks(place, value, decoy, {})

    return find


def _score_maps(program: str, prepared: Prepared) -> list[Tensor]:
    """Log odds of the prepared micrograph and of its inverse, `(h, w)` each."""
    flat = prepared.flat
    seen = flat if prepared.valid is None or not bool(prepared.valid.any()) else flat[prepared.valid]
    bright = (flat / seen.std().clamp_min(1e-6)).cpu().numpy().astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, sign in zip(_SIDES, (-1, 1), strict=True):  # particles are dark under the microscope
            write_mrc(folder / f"{side}.mrc", sign * bright, prepared.pixel_size)
        device = "0" if flat.is_cuda else "-1"
        command = [program, "segment", "-d", device, "-o", str(folder / "scores")]
        command += [str(folder / f"{side}.mrc") for side in _SIDES]
        done = subprocess.run(command, capture_output=True, text=True)
        maps = [folder / "scores" / f"{side}.tiff" for side in _SIDES]
        if done.returncode or not all(path.exists() for path in maps):
            words = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise WorkFailed(f"topaz failed: {' '.join(words)[:200]}")
        # the first row of these files is that of the micrograph, which `read_tiff` takes for the last
        return [torch.from_numpy(read_tiff(path)[0, ::-1].astype(np.float32)).to(flat.device) for path in maps]

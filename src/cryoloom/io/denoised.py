"""The mark of denoised images: they are for viewing and picking, and no reconstruction may read them.

A network that was trained on particles puts what it expects into what it denoises; averages of such images would show
its expectation and not the specimen. So the mark stands in the header of the image file itself, where renaming and
moving leave it, and whatever reads images for a reconstruction asks for it.
"""

from collections.abc import Iterable
from pathlib import Path

from cryoloom.contract import InputError
from cryoloom.io.images import TIFF_SUFFIXES
from cryoloom.io.mrc import read_mrc_header

DENOISED_LABEL = "cryoloom: denoised for viewing and picking, not for reconstruction"
"""Text label of the MRC header of every denoised image."""


def refuse_denoised(path: Path | str, labels: Iterable[str] | None = None) -> None:
    """Raise if an image file is marked as denoised.

    Parameters
    ----------
    path
        Image file. What cannot be read at all is left to whoever reads its pixels.
    labels
        Text labels of its header, where they are known; else they are read. TIFF files carry no mark.

    Raises
    ------
    InputError
        If it is marked.
    """
    if labels is None:
        labels = _labels_of(Path(path))
    if any(DENOISED_LABEL in label for label in labels):
        raise InputError(
            f"{path}: a denoised image, for viewing and picking only; take the micrograph that it was made from."
        )


def _labels_of(path: Path) -> tuple[str, ...]:
    if path.suffix.lower() in TIFF_SUFFIXES:
        return ()
    try:
        return read_mrc_header(path).labels
    except (InputError, OSError):
        return ()

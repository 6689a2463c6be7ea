"""The table of 2D classes beside their averages, with RELION's labels where it has them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cryoloom.io.star import write_star


def write_class_table(
    path: Path | str,
    *,
    averages: str,
    fraction: np.ndarray,
    resolution: np.ndarray,
    figures: Mapping[str, np.ndarray],
    reasons: Sequence[Sequence[str]],
) -> None:
    """Write `data_model_classes`, one row per class in the order of the averages.

    Parameters
    ----------
    path
        STAR file.
    averages
        Name of the stack with the averages; class `i` from 1 is its image `i`.
    fraction, resolution
        Share of the particles and resolution in Å, `(classes,)`.
    figures
        More columns by plain name such as `count`, each `(classes,)`; written as `cryoloomClassCount`.
    reasons
        What speaks against each class.
    """
    n = len(fraction)
    columns = {
        "rlnReferenceImage": np.asarray([f"{i + 1:06d}@{averages}" for i in range(n)]),
        "rlnClassNumber": np.arange(1, n + 1),
        "rlnClassDistribution": fraction,
        "rlnEstimatedResolution": resolution,
        **{f"cryoloomClass{name.capitalize()}": values for name, values in figures.items()},
        "cryoloomClassReasons": np.asarray(["; ".join(some) or "none" for some in reasons]),
    }
    write_star(path, {"model_classes": columns})

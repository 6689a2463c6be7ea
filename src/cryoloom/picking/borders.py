"""Borders of a micrograph that hold no image: padding with a constant, or with copies of the last row.

Programs that shift frames or shrink images leave such borders, and the bars of copied rows look like particles to any
filter. Along a border that is copied, neighbouring rows are alike, which noise never is.
"""

import numpy as np
from torch import Tensor

_ALIKE = 0.4  # of the usual difference of neighbouring rows, below which they are copies
_FEWEST, _RUN = 2, 8  # rows that repeat: at the edge, and where something else lies between them and the edge
_WIDEST = 0.2  # of the image
_SAMPLE = 512  # pixels of a row, about, that are compared


def copied_borders(image: Tensor) -> tuple[int, int, int, int]:
    """How many rows at the top and bottom, and columns at the left and right, repeat the next or hold nothing."""
    top, bottom = _copied(image)
    left, right = _copied(image.T)
    return top, bottom, left, right


def _copied(lines: Tensor) -> tuple[int, int]:
    n, width = lines.shape
    some = lines[:, :: max(1, width // _SAMPLE)].double()
    difference = (some[1:] - some[:-1]).square().mean(1).sqrt()
    limit = _ALIKE * float(difference.median()) if n > 1 else 0.0
    copied = (difference < limit).cpu().numpy()
    widest = int(_WIDEST * n)
    return _end(copied[:widest]), _end(copied[::-1][:widest])


def _end(copied: np.ndarray) -> int:
    """How many rows the border has, by which of them are like the next one, from the edge on."""
    steps = np.flatnonzero(np.diff(np.concatenate([[False], copied, [False]]).astype(int)))
    runs = [(start, end) for start, end in steps.reshape(-1, 2) if end - start >= (_FEWEST if start == 0 else _RUN)]
    # a run that does not end here is no border, but a smooth micrograph
    return int(runs[-1][1]) + 1 if runs and runs[-1][1] < len(copied) else 0  # the last one is copied too

"""Borders of a micrograph that hold no image: padding with a constant, or with copies of the last row.

Programs that shift frames or shrink images leave such borders, and the bars of copied rows look like particles to any
filter. Along a border that is copied, neighbouring rows are alike, which noise never is.
"""

import torch
from torch import Tensor

_ALIKE = 0.4  # of the usual difference of neighbouring rows, below which they are copies
_FEWEST = 2  # rows
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
    found = []
    for ordered in (difference, difference.flip(0)):
        (unlike,) = torch.nonzero(ordered >= limit, as_tuple=True)
        rows = int(unlike[0]) + 1 if limit > 0 and len(unlike) else 0  # the last one that is copied too
        found.append(rows if _FEWEST < rows <= _WIDEST * n else 0)
    return found[0], found[1]

"""Files that appear under their final name only when they are whole: written beside, flushed, renamed."""

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_COUNT = itertools.count()


def path_beside(path: Path) -> Path:
    """A name in the same folder, used by nobody else, for the time until the rename."""
    mark = f"{os.getpid()}-{threading.get_ident()}-{next(_COUNT)}"
    return path.with_name(f".{path.name[:150]}.{mark}.part")


@contextmanager
def write_whole(path: Path | str) -> Iterator[BinaryIO]:
    """Open a file for binary reading and writing; it takes its final name when the block ends without an error.

    Parameters
    ----------
    path
        Final name; its folder is created. An existing file is replaced.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path_beside(path)
    try:
        with beside.open("wb+") as file:
            yield file
            file.flush()
        beside.replace(path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise

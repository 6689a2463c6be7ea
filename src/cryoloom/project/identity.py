"""Identity of inputs: enough to know the same file again without reading terabytes."""

import hashlib
from pathlib import Path

_BLOCK = 4096
_N_BLOCKS = 64


def file_identity(path: Path, *, full: bool = False) -> str:
    """A hash of a file: of all of it when small or on request, else of size, time, header and 64 sampled blocks.

    Parameters
    ----------
    path
        The file.
    full
        Hash every byte.
    """
    stat = path.stat()
    digest = hashlib.sha256(str(stat.st_size).encode())
    with path.open("rb") as file:
        if full or stat.st_size <= _BLOCK * _N_BLOCKS:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        else:
            digest.update(str(stat.st_mtime_ns).encode())
            last = stat.st_size - _BLOCK
            for i in range(_N_BLOCKS):
                file.seek(last * i // (_N_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:32]


def folder_identity(folder: Path, *, leave_out: str = "") -> str:
    """A hash of a folder that changes when it does: of the records of jobs in it, or of its own files by name and size.

    Parameters
    ----------
    folder
        The folder.
    leave_out
        Jobs of this stage do not count (a job must not change the identity of its own input).
    """
    skipped = leave_out.replace(" ", "-")
    records = sorted(
        path for path in folder.glob("*/[0-9][0-9][0-9]*/job.json") if not skipped or path.parts[-3] != skipped
    )
    digest = hashlib.sha256()
    for path in records or sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != "."):
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]

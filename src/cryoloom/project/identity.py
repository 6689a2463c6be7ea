"""Identity of inputs: enough to know the same file again without reading terabytes.

Results of jobs are known by all of their bytes, so that a copy of a project knows its jobs whatever times the copy gave
its files. Data from elsewhere, movies above all, are too large for that: of those the time of modification counts and
64 sampled blocks.
"""

import hashlib
from pathlib import Path

_BLOCK = 4096
_N_BLOCKS = 64
_READ_WHOLE = 4 << 30  # bytes of a result up to which all of it is read
_LEVELS = 3  # folders between a result and its job, at most


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
    """A hash of a folder that changes when it does: of the records of jobs in it, or of its own files.

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
        digest.update(f"{path.relative_to(folder)} {input_identity(path, leave_out=leave_out)}\n".encode())
    return digest.hexdigest()[:32]


def input_identity(path: Path, *, leave_out: str = "") -> str:
    """The identity of an input, see above: of a file or of a folder."""
    if path.is_dir():
        return folder_identity(path, leave_out=leave_out)
    return file_identity(path, full=_is_result(path) and path.stat().st_size <= _READ_WHOLE)


def _is_result(path: Path) -> bool:
    """Whether a file lies in the folder of a job."""
    return any((folder / "job.json").is_file() for folder in path.parents[:_LEVELS])

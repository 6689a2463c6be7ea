"""Memory that this process may still take: what is free on the machine, and what its batch job or container allows."""

from pathlib import Path

import psutil

_LIMITS = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that can be taken before the machine swaps or the limit of the control group ends the process."""
    free = int(psutil.virtual_memory().available)
    own = _own_group()
    for group in (own, *own.parents):
        if not group.is_relative_to(_LIMITS):
            break
        limit = _read_number(group / "memory.max")
        used = _read_number(group / "memory.current")
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used + _reclaimable(group)))
    return free


def _own_group() -> Path:
    try:
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::/"):
                return _LIMITS / line[4:]
    except OSError:
        pass
    return _LIMITS


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no such limit, or "max"
        return None


def _reclaimable(group: Path) -> int:
    """Bytes of file cache in a group, which the kernel gives back when they are wanted."""
    try:
        for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":
                return int(value)
    except (OSError, ValueError):
        pass
    return 0

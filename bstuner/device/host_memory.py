"""How much host memory this process may still take, in a container too."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["available_host_memory"]


class _Files(NamedTuple):
    limit: str
    usage: str
    cache: str  # the line of memory.stat with the page cache the kernel gives up first


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")


def available_host_memory(cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Find the bytes of host memory that can be taken without swapping or being killed.

    >>> available_host_memory() > 0
    True

    What the system has available, or what is left under a container's limit (cgroup v1 or v2) where that is
    less. Page cache counts as available, since the kernel gives it up on demand.

    Args:
        cgroups: Where control groups are mounted.
        membership: The file that lists the groups of this process.
    """
    rooms = [_room(folder, files) for folder, files in _groups(cgroups, membership)]
    return min([psutil.virtual_memory().available, *(room for room in rooms if room is not None)])


def _groups(cgroups: Path, membership: Path) -> Iterator[tuple[Path, _Files]]:
    """Every folder whose limit binds this process: its group's and those of all groups above."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, files = cgroups, _V2
        elif "memory" in controllers.split(","):
            root, files = cgroups / "memory", _V1
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        # Inside a container the path may be the host's, which is not mounted: the root then is the group.
        for part in (group, *group.parents):
            yield root / part, files


def _room(folder: Path, files: _Files) -> int | None:
    try:
        limit = int((folder / files.limit).read_text())  # "max" is a ValueError: no limit
        usage = int((folder / files.usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return max(0, limit - usage + int(stat.get(files.cache, 0)))

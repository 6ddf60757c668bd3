"""What containers use, from the files of their cgroups.

v1 has a hierarchy for each controller, v2 one for all. The files are small, and the kernel makes
them when they are read: 20 to 100 microseconds each.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from warren import _cgroup
from warren.agent.runtime.base import Usage
from warren.agent.runtime.containerd import cgroups

__all__ = ["read", "read_all"]

# memory.stat is the longest, some 2 KiB.
_BYTES_MAX: Final = 1 << 16
_BLKIO: Final = "blkio.throttle.io_service_bytes_recursive"


def read_all(
    parent: str, container_ids: Iterable[str], root: Path = cgroups.ROOT
) -> dict[str, Usage]:
    """What each has used; without those that have no cgroup below ``parent`` (any more).

    Blocks for as long as the kernel takes. ValueError where a file is not what it should be.
    """
    reader = _v2 if cgroups.is_v2(root) else _v1
    found = {one: read(f"{parent.strip('/')}/{one}", root, reader) for one in container_ids}
    return {one: usage for one, usage in found.items() if usage is not None}


def read(
    relative: str, root: Path = cgroups.ROOT, reader: Callable[[str, str], Usage] | None = None
) -> Usage | None:
    """What the processes of one cgroup have used; None if it is not there."""
    reader = reader or (_v2 if cgroups.is_v2(root) else _v1)
    try:
        return reader(str(root), relative)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENODEV:  # it was removed after the file was opened
            return None
        raise


def _v1(root: str, relative: str) -> Usage:
    memory = f"{root}/memory/{relative}"
    stat = _file(f"{memory}/memory.stat")
    return _usage(
        cpu_ns=_cgroup.cpu_usage_ns_v1(_file(f"{root}/cpuacct/{relative}/cpuacct.usage")),
        memory_bytes=_cgroup.memory_usage_bytes_v1(_file(f"{memory}/memory.usage_in_bytes")),
        inactive_bytes=_cgroup.memory_inactive_file_bytes_v1(stat),
        pids=_cgroup.pids_current(_file(f"{root}/pids/{relative}/pids.current")),
        disk=_disk(f"{root}/blkio/{relative}/{_BLKIO}", _cgroup.io_bytes_v1),
    )


def _v2(root: str, relative: str) -> Usage:
    group = f"{root}/{relative}"
    return _usage(
        cpu_ns=_cgroup.cpu_usage_ns_v2(_file(f"{group}/cpu.stat")),
        memory_bytes=_cgroup.memory_usage_bytes_v2(_file(f"{group}/memory.current")),
        inactive_bytes=_cgroup.memory_inactive_file_bytes_v2(_file(f"{group}/memory.stat")),
        pids=_cgroup.pids_current(_file(f"{group}/pids.current")),
        disk=_disk(f"{group}/io.stat", _cgroup.io_bytes_v2),
    )


def _usage(
    *, cpu_ns: int, memory_bytes: int, inactive_bytes: int, pids: int, disk: tuple[int, int] | None
) -> Usage:
    read_bytes, written_bytes = disk or (None, None)
    return Usage(
        cpu_ns=cpu_ns,
        memory_bytes=memory_bytes,
        # Read one after the other, the two may contradict each other.
        working_set_bytes=max(0, memory_bytes - inactive_bytes),
        pids=pids,
        read_bytes=read_bytes,
        written_bytes=written_bytes,
    )


def _disk(path: str, parse: Callable[[bytes], tuple[int, int]]) -> tuple[int, int] | None:
    """Not every kernel has these files: the controller may be left out of it, or be disabled."""
    try:
        return parse(_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _file(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _BYTES_MAX)
    finally:
        os.close(file)

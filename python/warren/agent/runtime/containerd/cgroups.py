"""The cgroup of a container: whether memory ran out in it, and its removal.

Both hierarchies exist in the field. v1: one directory a controller; v2: one directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")


def is_v2(root: Path = ROOT) -> bool:
    """Whether this host has the unified hierarchy alone."""
    return (root / "cgroup.controllers").is_file()


def limits_swap(root: Path = ROOT) -> bool:
    """Whether a memory limit can count swap in."""
    return is_v2(root) or (root / "memory/memory.memsw.limit_in_bytes").is_file()


def oom_killed(cgroup: str, root: Path = ROOT) -> bool:
    """Whether the kernel killed a process in ``cgroup`` for memory; False once it is removed.

    The counter outlives the process, so that a daemon that was away learns of it as well.
    """
    for file in (
        root / cgroup.lstrip("/") / "memory.events",
        root / "memory" / cgroup.lstrip("/") / "memory.oom_control",
    ):
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        return any(key == "oom_kill" and value != "0" for key, value in map(_pair, lines))
    return False


def remove(cgroup: str, root: Path = ROOT) -> list[Path]:
    """Removes ``cgroup`` and what is below it, in every hierarchy; returns what stayed.

    runc removes it with the task. What is here is left by a shim that was killed.
    """
    relative = cgroup.lstrip("/")
    candidates = [root / relative]
    if not is_v2(root) and root.is_dir():
        # Names that are links (cpu → cpu,cpuacct) lead to the same directory.
        candidates += [entry / relative for entry in root.iterdir() if not entry.is_symlink()]
    stayed = []
    for top in candidates:
        if not top.is_dir():
            continue
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                pass
            except OSError:
                stayed.append(Path(directory))
    return stayed


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition(" ")
    return key, value.strip()

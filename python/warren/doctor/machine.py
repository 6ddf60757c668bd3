"""Cgroups, memory and the limit of open files."""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warren.doctor.verdict import FAILED, OK, SKIPPED, WARNING, Readings, Verdict

__all__ = [
    "Cgroups",
    "Memory",
    "OpenFiles",
    "cgroups",
    "memory",
    "open_files",
    "read_cgroups",
    "read_memory",
    "read_open_files",
]

_NEEDED: Final = ("cpu", "memory", "pids")
_USEFUL: Final = ("cpuset", "io")
_V1_NAMES: Final = {"blkio": "io"}

_MIB: Final = 1 << 20
_AVAILABLE_WARN: Final = 0.10
_AVAILABLE_MIN_BYTES: Final = 128 * _MIB
# A manager holds the cluster's state in memory, and a snapshot of it at times.
_TOTAL_WARN_BYTES: Final = 900 * _MIB
_STALLED_WARN_PERCENT: Final = 10.0

_FILES_WARN: Final = 65_536
_FILES_MIN: Final = 4_096


@dataclass(frozen=True, slots=True)
class Cgroups:
    """`version`: 1, 2, or 0 where nothing is mounted. `controllers` by version 2's names."""

    version: int
    controllers: tuple[str, ...]


def cgroups(found: Cgroups) -> Verdict:
    """Whether containers can be bounded and measured."""
    have = ", ".join(found.controllers) or "none"
    readings: Readings = {"version": found.version, "controllers": have}
    if not found.version:
        return Verdict(
            "cgroups",
            FAILED,
            "no cgroup hierarchy at /sys/fs/cgroup",
            "mount it (systemd does): mount -t cgroup2 none /sys/fs/cgroup",
            readings,
        )
    missing = [name for name in _NEEDED if name not in found.controllers]
    if missing:
        how = (
            "enable them in /sys/fs/cgroup/cgroup.controllers (cgroup_enable=memory, or no "
            "cgroup_disable=, on the kernel's command line)"
            if found.version == 2
            else "mount their hierarchies, or boot with systemd.unified_cgroup_hierarchy=1"
        )
        words = f"cgroups v{found.version} without {', '.join(missing)}; there: {have}"
        return Verdict("cgroups", FAILED, words, how, readings)
    words = f"v{found.version} with {have}"
    lacking = [name for name in _USEFUL if name not in found.controllers]
    if found.version == 1:
        return Verdict(
            "cgroups",
            WARNING,
            f"{words}: version 1, which systemd and kernels are giving up",
            "boot with systemd.unified_cgroup_hierarchy=1 for version 2",
            readings,
        )
    if lacking:
        return Verdict(
            "cgroups",
            WARNING,
            f"{words}; without {', '.join(lacking)}",
            "boot a kernel that has them; what is bounded by them is not",
            readings,
        )
    return Verdict("cgroups", OK, words, "", readings)


def read_cgroups(root: Path = Path("/")) -> Cgroups:
    """What is mounted below /sys/fs/cgroup. Raises OSError."""
    place = root / "sys/fs/cgroup"
    unified = place / "cgroup.controllers"
    if unified.exists():
        names = unified.read_text(encoding="ascii").split()
        return Cgroups(2, tuple(sorted(names)))
    found = set()
    for folder in place.iterdir() if place.is_dir() else ():
        if (folder / "cgroup.procs").exists():
            found |= {_V1_NAMES.get(word, word) for word in folder.name.split(",")}
    found -= {"unified", "systemd"}
    return Cgroups(1 if found else 0, tuple(sorted(found)))


@dataclass(frozen=True, slots=True)
class Memory:
    """`stalled_percent`: of the last ten seconds, time in which something waited for memory
    (PSI); None where the kernel does not say.
    """

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    stalled_percent: float | None


def memory(found: Memory) -> Verdict:
    """Whether there is enough for the daemon and what it starts."""
    share = found.available_bytes / found.total_bytes
    words = (
        f"{found.available_bytes // _MIB} of {found.total_bytes // _MIB} MiB available "
        f"({share:.0%})"
    )
    if found.swap_total_bytes:
        used = found.swap_total_bytes - found.swap_free_bytes
        words += f", {used // _MIB} of {found.swap_total_bytes // _MIB} MiB swap in use"
    stalled = found.stalled_percent or 0.0
    readings: Readings = {
        "total_bytes": found.total_bytes,
        "available_bytes": found.available_bytes,
        "swap_total_bytes": found.swap_total_bytes,
        "swap_free_bytes": found.swap_free_bytes,
        "stalled_percent": found.stalled_percent,
    }
    advice, status = "", OK
    if found.available_bytes < _AVAILABLE_MIN_BYTES:
        status, advice = FAILED, "end what uses it, or give the host more: the kernel kills next"
    elif stalled >= _STALLED_WARN_PERCENT:
        words += f"; {stalled:.1f} % of the last 10 s were spent waiting for it"
        status, advice = WARNING, "move containers away (warrenctl node drain), or add memory"
    elif share < _AVAILABLE_WARN:
        status, advice = WARNING, "move containers away, or keep some for the system: "
        advice += "reserved_memory in the configuration"
    elif found.total_bytes < _TOTAL_WARN_BYTES:
        status, advice = WARNING, "give a manager 1 GiB or more"
    return Verdict("memory", status, words, advice, readings)


def read_memory(root: Path = Path("/")) -> Memory:
    """From /proc/meminfo and /proc/pressure. Raises OSError."""
    text = (root / "proc/meminfo").read_text(encoding="ascii")
    rows = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))

    def size_bytes(name: str) -> int:
        return int(rows.get(name, 0)) * 1024

    stalled = None
    try:
        pressure = (root / "proc/pressure/memory").read_text(encoding="ascii")
    except OSError:  # the kernel can be built without, and a start can switch it off
        pressure = ""
    if match := re.search(r"^some avg10=([\d.]+)", pressure, re.MULTILINE):
        stalled = float(match[1])
    return Memory(
        size_bytes("MemTotal"),
        size_bytes("MemAvailable"),
        size_bytes("SwapTotal"),
        size_bytes("SwapFree"),
        stalled,
    )


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Limits; None: unlimited. `of_daemon`: the daemon's own, else those of this command.

    `used`: descriptors that the daemon has open; None where that cannot be seen.
    """

    soft: int | None
    hard: int | None
    used: int | None
    of_daemon: bool


def open_files(found: OpenFiles) -> Verdict:
    """Whether connections and containers would come up against the limit."""
    whose = "the daemon's" if found.of_daemon else "this shell's"
    limit = "unlimited" if found.soft is None else f"{found.soft:,}"
    words = f"{whose} limit is {limit}"
    readings: Readings = {
        "soft_limit": found.soft,
        "hard_limit": found.hard,
        "used": found.used,
        "of_daemon": found.of_daemon,
    }
    if found.used is not None:
        words += f", {found.used:,} in use"
    advice = "set LimitNOFILE=1048576 in warrend's unit, and restart it"
    if not found.of_daemon:
        note = f"{words}; no daemon whose limit could be read"
        return Verdict("open_files", SKIPPED, note, "", readings)
    if found.soft is not None and found.used is not None and found.used * 10 > found.soft * 8:
        return Verdict("open_files", FAILED, words, advice, readings)
    if found.soft is not None and found.soft < _FILES_MIN:
        return Verdict("open_files", FAILED, words, advice, readings)
    if found.soft is not None and found.soft < _FILES_WARN:
        return Verdict("open_files", WARNING, words, advice, readings)
    return Verdict("open_files", OK, words, "", readings)


def read_open_files(pid: int | None, root: Path = Path("/")) -> OpenFiles:
    """The limits of process `pid`, or of this one."""
    try:
        folder = root / "proc" / str(pid)
        text = (folder / "limits").read_text(encoding="ascii")
        match = re.search(r"^Max open files\s+(\w+)\s+(\w+)", text, re.MULTILINE)
    except OSError:
        match = None
    if match is None:
        soft, hard = (
            None if limit == resource.RLIM_INFINITY else limit
            for limit in resource.getrlimit(resource.RLIMIT_NOFILE)
        )
        return OpenFiles(soft, hard, None, of_daemon=False)
    try:
        used = len(list((folder / "fd").iterdir()))
    except OSError:  # another user's
        used = None
    limits = [int(word) if word.isdigit() else None for word in match.groups()]
    return OpenFiles(limits[0], limits[1], used, of_daemon=True)

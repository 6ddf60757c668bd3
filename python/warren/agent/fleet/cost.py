"""What a process costs: processor and memory, as the kernel counts them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["Cost", "Memory", "cpu_seconds", "memory"]

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


@dataclass(frozen=True)
class Memory:
    """In bytes. `shared_fairly`: what several processes map counts to each in equal parts."""

    resident: int
    shared_fairly: int


def memory(pid: int) -> Memory:
    """Of the process alone, not of its children."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return Memory(found["Rss"], found["Pss"])


@dataclass
class Cost:
    """Processor time of a process from here on."""

    pid: int
    began: float = field(default_factory=time.perf_counter)
    used: float = 0.0

    def __post_init__(self) -> None:
        self.used = cpu_seconds(self.pid)

    def percent(self) -> float:
        """Of one core, since the beginning."""
        seconds = time.perf_counter() - self.began
        return 100 * (cpu_seconds(self.pid) - self.used) / seconds if seconds else 0.0

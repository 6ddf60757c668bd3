"""What simulated containers use: a fixed share of what they reserve."""

from __future__ import annotations

import zlib
from typing import Final

from warren.agent.runtime.base import Usage

__all__ = ["SHARE_MAX", "SHARE_MIN", "share", "used"]

SHARE_MIN: Final = 200
SHARE_MAX: Final = 800
_NS_PER_MS: Final = 1_000_000


def share(container_id: str) -> int:
    """How much of its reservation it uses, in 1/1000: SHARE_MIN to SHARE_MAX, by its id alone."""
    return SHARE_MIN + zlib.crc32(container_id.encode()) % (SHARE_MAX - SHARE_MIN + 1)


def used(container_id: str, cpu_milli: int, memory_bytes: int, running_ms: int) -> Usage:
    """Of one that reserves so much and has run for so long."""
    of = share(container_id)
    memory = memory_bytes * of // 1000
    return Usage(
        cpu_ns=cpu_milli * of * max(running_ms, 0) * _NS_PER_MS // 1_000_000,
        memory_bytes=memory,
        working_set_bytes=memory,
        pids=1,
    )

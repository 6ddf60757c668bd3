"""Whether the core can do its work, read from its status without waiting on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["problem"]

STUCK_MS: Final = 800  # a probe tells of a fault that is a second old


def problem(status: Mapping[str, Any]) -> str:
    """Why this manager cannot serve; empty where it can."""
    if not status["is_member"]:
        return "this node belongs to no cluster; create one: warrenctl cluster init"
    if status["removed"]:
        return "this manager was removed from the cluster; it goes on as a worker"
    if not status["in_cluster"]:
        return "this manager has yet to learn the cluster's state from the others"
    # Alone, it is its own leader: once it serves.
    if not status["leader"] and (status["voters"] == 1 or not status["has_leader"]):
        return "the cluster has no leader at the moment"
    if status["no_space"]:
        return "no space left for the log; free some: writes resume by themselves"
    if status["stuck_ms"] >= STUCK_MS:
        return f"the log's disk has not answered for {status['stuck_ms'] / 1000:.1f} s"
    return ""

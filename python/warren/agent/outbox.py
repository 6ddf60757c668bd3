"""Statuses on their way to the manager: the newest per container, so bounded by their number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from warren.agent.converge import Memory

__all__ = ["Outbox"]


class Outbox:
    """A queue in which a newer status of a container takes the place of the older one."""

    def __init__(self) -> None:
        self._waiting: dict[str, Memory] = {}
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, container_id: str, memory: Memory) -> None:
        self._waiting[container_id] = memory
        self._filled.set()

    def take(self, limit: int) -> list[tuple[str, Memory]]:
        """Up to `limit` of those that wait longest."""
        taken = [
            (container_id, self._waiting.pop(container_id))
            for container_id in list(self._waiting)[:limit]
        ]
        if not self._waiting:
            self._filled.clear()
        return taken

    def clear(self) -> None:
        """Something else (a hello) tells everything."""
        self._waiting.clear()
        self._filled.clear()

    async def filled(self) -> None:
        """Wait until there is something to take."""
        await self._filled.wait()

    def holds(self, kind: Callable[[Memory], bool]) -> bool:
        """One of `kind` is among those that wait."""
        return any(kind(memory) for memory in self._waiting.values())

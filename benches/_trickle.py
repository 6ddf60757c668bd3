"""Writers that never stop, one through each manager, and when each write was acknowledged."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.client import Client, service
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2

#: A call that a stopped leader holds on to is repeated, under the same id, after so long.
TRY_TIMEOUT_S = 0.2
#: Between writes, and between tries of one: what a person notices is a multiple of it.
PAUSE_S = 0.005
#: Acknowledgements remembered; a round looks back a few seconds.
KEPT = 4096


@dataclass(frozen=True)
class Ack:
    """A write that was acknowledged: when its last try began, when the answer came, by whom."""

    begun_at: float
    at: float
    manager: str


@dataclass
class Writer:
    """Raises the version of a service of its own by one, again and again, through one manager."""

    manager: str
    client: Client
    acks: list[Ack] = field(default_factory=list)
    acknowledged: int = 0
    _service_id: bytes = b""

    @property
    def name(self) -> str:
        """Of its service."""
        return f"trickle-{self.manager}"

    async def begin(self) -> None:
        """Makes its service."""
        made = await self.client.create(self.name, replicas=0)
        self._service_id, self.acknowledged = made.service_id, made.version

    async def run(self) -> None:
        """Until it is cancelled; a write that is under way then may take effect after that."""
        self.acknowledged = (await self.client.service(self.name)).service.version
        while True:
            request = api_pb2.UpdateServiceRequest(
                request=self.client.request_id(),
                service_id=self._service_id,
                expected_version=self.acknowledged,
                spec=service(self.name, replicas=0),
            )
            await self._until_acknowledged(request)
            await asyncio.sleep(PAUSE_S)

    async def _until_acknowledged(self, request: Any) -> None:
        """The same request, until somebody says that it was applied: a repetition has no effect."""
        while True:
            begun_at = time.monotonic()
            try:
                answer = await self.client.call("UpdateService", request, timeout_s=TRY_TIMEOUT_S)
            except WarrenError as error:
                if error.code in ("version_conflict", "request_too_old"):
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            self.acknowledged = answer.version
            self.acks = [*self.acks[-KEPT:], Ack(begun_at, time.monotonic(), self.manager)]
            return

    async def lost(self) -> int:
        """How many writes were acknowledged that are not there now."""
        there = (await self.client.service(self.name)).service.version
        return max(0, self.acknowledged - int(there))


def last_before(writers: list[Writer], moment: float) -> float:
    """When the last write was acknowledged until `moment`, by any of them."""
    return max(ack.at for writer in writers for ack in writer.acks if ack.at <= moment)


def first_begun_after(writers: list[Writer], moment: float, but: str = "") -> Ack | None:
    """The first acknowledged of the writes whose last try began after `moment`.

    An answer that was under way already says nothing about who can write now. `but`: a manager
    whose writer does not count.
    """
    later = [
        ack
        for writer in writers
        if writer.manager != but
        for ack in writer.acks
        if ack.begun_at > moment
    ]
    return min(later, key=lambda ack: ack.at, default=None)

"""Clients that write and read services through all managers, and remember what they saw.

A service without containers is a register with versions: created once, updated by naming the
version that is expected. What came back is the history that `linearizability` judges.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.cluster.client import Client, service
from tests.cluster.linearizability import Operation, State
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, objects_pb2

TRY_TIMEOUT_S: Final = 3.0
TRIES: Final = 4
#: Between tries; a manager that refuses at once would be asked thousands of times a second.
PAUSE_S: Final = 0.05
#: After so many operations a key is left alone and another one begun: searches stay short.
OPERATIONS_PER_KEY: Final = 150
KEYS: Final = 5
VALUE: Final = "value"

#: Refusals that say what the register is like; any other leaves the outcome open.
_DEFINITE: Final = {"name_taken": "taken", "version_conflict": "conflict", "not_found": "absent"}


@dataclass
class _Key:
    """A register, as far as a client has heard of it."""

    name: str
    service_id: bytes = b""
    version: int = 0
    used: int = 0


@dataclass
class Load:
    """Runs until it is cancelled; `history` and `refusals` grow meanwhile."""

    clients: dict[str, Client]
    rng: random.Random
    history: list[Operation] = field(default_factory=list)
    #: How often which refusal was met, over all tries.
    refusals: Counter[str] = field(default_factory=Counter)
    _keys: list[_Key] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)

    async def run(self, callers: int = 6) -> None:
        """So many callers, each with one call at a time."""
        self._keys = [self._new_key() for _ in range(KEYS)]
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(self._call_on(f"c{number}"))

    def _new_key(self) -> _Key:
        return _Key(f"key-{next(self._numbers)}")

    async def _call_on(self, caller: str) -> None:
        while True:
            index = self.rng.randrange(len(self._keys))
            key = self._keys[index]
            key.used += 1
            if key.used > OPERATIONS_PER_KEY:
                self._keys[index] = self._new_key()
            if not key.service_id:
                await self._create(caller, key)
            elif self.rng.random() < 0.5:
                await self._get(caller, key)
            else:
                await self._update(caller, key)

    async def _create(self, caller: str, key: _Key) -> None:
        value = f"{next(self._numbers)}"
        spec = _spec(key.name, value)
        doing = Operation(key.name, "create", time.monotonic(), client=caller, value=value)
        request = api_pb2.CreateServiceRequest(spec=spec)
        answer, refusal = await self._written(doing, "CreateService", request)
        if answer is not None:
            key.service_id, key.version = answer.service_id, answer.version
            self._done(doing, "ok", (answer.version, value))
        else:
            self._done(doing, refusal)
        if not key.service_id:
            await self._get(caller, key)

    async def _update(self, caller: str, key: _Key) -> None:
        value, expected = f"{next(self._numbers)}", key.version
        doing = Operation(
            key.name, "update", time.monotonic(), client=caller, value=value, expected=expected
        )
        request = api_pb2.UpdateServiceRequest(
            service_id=key.service_id, expected_version=expected, spec=_spec(key.name, value)
        )
        answer, refusal = await self._written(doing, "UpdateService", request)
        if answer is not None:
            key.version = max(key.version, answer.version)
            self._done(doing, "ok", (answer.version, value))
        else:
            self._done(doing, refusal)
            await self._get(caller, key)

    async def _get(self, caller: str, key: _Key) -> None:
        doing = Operation(key.name, "get", time.monotonic(), client=caller)
        request = api_pb2.GetServiceRequest(ref=key.name)
        answer, refusal = await self._tried("GetService", request, writes=False)
        if answer is not None:
            seen = answer.service.service
            key.service_id, key.version = seen.id, max(key.version, seen.version)
            self._done(doing, "ok", (seen.version, seen.spec.labels[VALUE]))
        elif refusal:  # a read whose answer was lost says nothing
            self._done(doing, refusal)

    def _done(self, operation: Operation, outcome: str, answer: State = None) -> None:
        returned_at = time.monotonic() if outcome else math.inf
        self.history.append(
            replace(operation, returned_at=returned_at, outcome=outcome, answer=answer)
        )

    async def _written(self, doing: Operation, method: str, request: Any) -> tuple[Any, str]:
        """`_tried`; a write that is under way when the load ends may take effect all the same."""
        try:
            return await self._tried(method, request, writes=True)
        except asyncio.CancelledError:
            self._done(doing, "")
            raise

    async def _tried(self, method: str, request: Any, *, writes: bool) -> tuple[Any, str]:
        """The answer, or what a definite refusal means, or neither; by several managers if need be.

        A write keeps its request id, so that a repetition has no second effect; a read that is
        repeated is another read, and begins anew.
        """
        if writes:
            request.request.CopyFrom(self._any_client().request_id())
        for _ in range(TRIES if writes else 1):
            client = self._any_client()
            try:
                return await client.call(method, request, timeout_s=TRY_TIMEOUT_S), ""
            except WarrenError as error:
                self.refusals[error.code] += 1
                if error.code in _DEFINITE:
                    return None, _DEFINITE[error.code]
                await asyncio.sleep(PAUSE_S)
        return None, ""

    def _any_client(self) -> Client:
        return self.clients[self.rng.choice(sorted(self.clients))]


def _spec(name: str, value: str) -> objects_pb2.ServiceSpec:
    spec = service(name, replicas=0)
    spec.labels[VALUE] = value
    return spec

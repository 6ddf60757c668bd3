"""What happens to tasks, across restarts of containerd.

An event is trusted only while a subscription is known to be in place: containerd does not say
when it is, so an event of our own is published until it comes back. Whatever happens before that
is found by listing, which the reader does on `Back`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from google.protobuf import any_pb2

from warren.agent.runtime.base import Back, Lost, RuntimeEvent, RuntimeUnavailable
from warren.agent.runtime.containerd import api
from warren.agent.runtime.containerd.client import CallFailed, Client
from warren.pb.containerd import events_pb2

EVENTS_MAX: Final = 4096
"""Events that wait for the reader; beyond it they are dropped and the reader lists again."""

_TOPICS: Final = ("/tasks/exit", "/tasks/oom")
_MARKER_TOPIC: Final = "/warren/subscribed"
_MARKER_INTERVAL_S: Final = 0.05
_MARKER_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.2


class EventQueue:
    """Bounded, for one reader. `depth` and `dropped` are for the metrics."""

    def __init__(self, bound: int = EVENTS_MAX) -> None:
        self.dropped = 0
        self._bound = bound
        self._events: deque[RuntimeEvent] = deque()
        self._there = asyncio.Event()

    @property
    def depth(self) -> int:
        """Events that wait."""
        return len(self._events)

    def put(self, event: RuntimeEvent) -> None:
        """Adds an event; a full queue is emptied and tells the reader to list again."""
        if len(self._events) >= self._bound:
            self.dropped += len(self._events)
            away = isinstance(self._events[-1], Lost)
            self._events.clear()
            self._events.append(Lost())
            if not away:
                self._events.append(Back())
        self._events.append(event)
        self._there.set()

    def clear(self) -> None:
        """Forgets what waits."""
        self._events.clear()

    async def get(self) -> RuntimeEvent:
        """The next event; waits for it."""
        while not self._events:
            self._there.clear()
            await self._there.wait()
        return self._events.popleft()


class Subscription:
    """Follows containerd's events for as long as `run` runs.

    ``translate`` turns an envelope into an event of ours, or None.
    """

    def __init__(
        self,
        client: Client,
        translate: Callable[[events_pb2.Envelope], RuntimeEvent | None],
        on_back: Callable[[], Any],
    ) -> None:
        self.queue = EventQueue()
        self._client = client
        self._translate = translate
        self._on_back = on_back
        self._back = False
        self._was_read = False

    async def run(self) -> None:
        """Until cancelled: subscribe, `Back`, events, `Lost`, and again."""
        while True:
            with contextlib.suppress(RuntimeUnavailable, CallFailed, TimeoutError):
                await self._follow()
            await asyncio.sleep(_RETRY_S)

    async def _follow(self) -> None:
        here = f'namespace=="{self._client.namespace}"'
        filters = [f'topic=="{topic}",{here}' for topic in (*_TOPICS, _MARKER_TOPIC)]
        request = events_pb2.SubscribeRequest(filters=filters)
        stream = self._client.stream(api.EVENT_SUBSCRIBE, request)
        marking = asyncio.create_task(self._mark())
        try:
            async with asyncio.timeout(_MARKER_TIMEOUT_S) as bound:
                async for envelope in stream:
                    if envelope.topic != _MARKER_TOPIC:
                        self._take(envelope, self._back)
                    elif not self._back:
                        self._back = True
                        marking.cancel()
                        bound.reschedule(None)
                        self._on_back()
                        self.queue.put(Back())
        finally:
            marking.cancel()
            await stream.aclose()
            if self._back:
                self._back = False
                self.queue.put(Lost())

    def _take(self, envelope: events_pb2.Envelope, trusted: bool) -> None:
        event = self._translate(envelope) if trusted else None
        if event is not None:
            self.queue.put(event)

    async def _mark(self) -> None:
        """Publishes the marker until cancelled, as the first may come before the subscription."""
        event = any_pb2.Any(type_url="warren.Subscribed")
        request = events_pb2.PublishRequest(topic=_MARKER_TOPIC, event=event)
        with contextlib.suppress(RuntimeUnavailable, CallFailed):
            while True:
                await self._client.unary(api.EVENT_PUBLISH, request)
                await asyncio.sleep(_MARKER_INTERVAL_S)

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        """Events as they come, without end. A second reader begins anew."""
        if self._was_read:
            self.queue.clear()
            if self._back:
                yield Back()
        self._was_read = True
        while True:
            yield await self.queue.get()

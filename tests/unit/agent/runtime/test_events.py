"""The queue of events: bounded, and a reader that fell behind lists again."""

from __future__ import annotations

import asyncio

import pytest

from warren.agent.runtime.base import Back, Lost, Oom
from warren.agent.runtime.containerd import api
from warren.agent.runtime.containerd.events import EventQueue


async def drained(queue: EventQueue) -> list[object]:
    return [await queue.get() for _ in range(queue.depth)]


async def test_events_keep_their_order() -> None:
    queue = EventQueue(bound=4)
    for event in (Back(), Oom("a"), Oom("b")):
        queue.put(event)
    assert await drained(queue) == [Back(), Oom("a"), Oom("b")]
    assert queue.dropped == 0


async def test_a_full_queue_makes_the_reader_list_again() -> None:
    queue = EventQueue(bound=4)
    for name in "abcdef":
        queue.put(Oom(name))
    assert await drained(queue) == [Lost(), Back(), Oom("e"), Oom("f")]
    assert queue.dropped == 4


async def test_a_full_queue_that_ends_in_lost_stays_lost() -> None:
    queue = EventQueue(bound=3)
    for event in (Oom("a"), Oom("b"), Lost(), Back()):
        queue.put(event)
    assert await drained(queue) == [Lost(), Back()]


async def test_a_reader_waits() -> None:
    queue = EventQueue()
    reading = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    assert not reading.done()
    queue.put(Back())
    assert await asyncio.wait_for(reading, 5) == Back()


def calls() -> list[api.Call]:  # type: ignore[type-arg]
    return [value for value in vars(api).values() if isinstance(value, api.Call)]


@pytest.mark.parametrize("call", calls(), ids=lambda call: f"{call.service}.{call.method}")
def test_every_call_is_in_the_schema(call: api.Call) -> None:  # type: ignore[type-arg]
    from google.protobuf import descriptor_pool

    service = descriptor_pool.Default().FindServiceByName(f"containerd.services.{call.service}")
    method = service.methods_by_name[call.method]
    assert method.input_type is call.request.DESCRIPTOR
    assert method.output_type is call.response.DESCRIPTOR

"""A seeded life of a worker's store; as a program, lives it and says what is acknowledged.

A life is a row of rounds. Each round is put through the journal as the worker does, and is
acknowledged once the journal says that it is durable.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from warren.agent.converge import Memory
from warren.agent.store import Fence, Journal, Meta, Store, Stored
from warren.datadir import DataDir
from warren.pb.v1 import objects_pb2, session_pb2

CONTAINERS = 32
SPECS = 8
SPEC_SIZES_MAX = (200, 6_000, 90_000)  # some rows need many pages


@dataclass(frozen=True)
class Round:
    """What is put at once. None deletes."""

    containers: dict[str, tuple[session_pb2.Assignment | None, Memory | None]]
    specs: dict[bytes, objects_pb2.ContainerSpec | None]
    meta: Meta


def round_of(seed: int, number: int) -> Round:
    """Round `number`; no two rounds of a seed leave the same behind."""
    rng = random.Random(f"{seed}:{number}")
    chosen = rng.sample(range(CONTAINERS), rng.randrange(1, 7))
    return Round(
        containers={f"{index:032x}": _container(rng, index) for index in chosen},
        specs={
            bytes([rng.randrange(SPECS)]) * 32: _spec(rng) for _ in range(rng.choice((0, 0, 1, 2)))
        },
        meta=Meta(fence=Fence(1, number), revision=rng.randbytes(12), complete=True),
    )


def _container(
    rng: random.Random, index: int
) -> tuple[session_pb2.Assignment | None, Memory | None]:
    assignment = session_pb2.Assignment(container_id=bytes([index]) * 16, slot=rng.randrange(99))
    memory = Memory(attempt=rng.randrange(1, 9), state=3, message="m" * rng.randrange(300))
    return rng.choice(((assignment, memory), (None, memory), (assignment, None), (None, None)))


def _spec(rng: random.Random) -> objects_pb2.ContainerSpec | None:
    text = rng.randbytes(rng.randrange(1, rng.choice(SPEC_SIZES_MAX) // 2)).hex()
    return rng.choice((objects_pb2.ContainerSpec(image=text), None))


def nothing() -> Stored:
    """What a new store holds."""
    return Stored(meta=Meta(), assignments={}, memory={}, specs={})


def after(stored: Stored, done: Round) -> Stored:
    """What a store that held `stored` holds after the round."""
    new = msgspec.structs.replace(
        stored,
        meta=done.meta,
        assignments=dict(stored.assignments),
        memory=dict(stored.memory),
        specs=dict(stored.specs),
    )
    for container_id, (assignment, memory) in done.containers.items():
        _set(new.assignments, container_id, assignment)
        _set(new.memory, container_id, memory)
    for digest, spec in done.specs.items():
        _set(new.specs, digest, spec)
    return new


def _set(rows: dict[Any, Any], key: object, value: object) -> None:
    if value is None:
        rows.pop(key, None)
    else:
        rows[key] = value


def put(journal: Journal, wanted: Round) -> None:
    for container_id, (assignment, memory) in wanted.containers.items():
        journal.put_container(container_id, assignment, memory)
    journal.put_specs(wanted.specs)
    journal.put_meta(wanted.meta)


class Life(msgspec.Struct, frozen=True):
    """Rounds `first` to `last - 1` on the data directory, which ends closed or by sudden death."""

    data_dir: str
    seed: int
    first: int
    last: int
    closes: bool


async def live(life: Life, marks: int) -> None:
    os.write(marks, f"lives {life.data_dir}".encode())
    directory = DataDir.open(Path(life.data_dir))
    journal = Journal(Store.open(directory.store_file))
    writing = asyncio.create_task(journal.run())
    for number in range(life.first, life.last):
        os.write(marks, f"begin {life.data_dir}".encode())
        put(journal, round_of(life.seed, number))
        await journal.durable()
        assert not journal.problem, journal.problem
        os.write(marks, f"acknowledged {life.data_dir}".encode())
    if not life.closes:
        os._exit(0)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    await journal.close()


def main() -> None:
    """Arguments: the file for marks, lives in JSON. Each is lived in a process of its own."""
    marks = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    for life in msgspec.json.decode(sys.argv[2], type=list[Life]):
        if not (child := os.fork()):
            asyncio.run(live(life, marks))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"{life} ended with {status}"


if __name__ == "__main__":
    main()

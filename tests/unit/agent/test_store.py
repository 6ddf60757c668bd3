"""The worker's store: what comes back, and what a damaged file or a full disk does."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.store import on_disk
from warren.agent.converge import Memory
from warren.agent.store import STUCK_S, Changes, Fence, Journal, Meta, Store
from warren.errors import StartupError
from warren.pb.v1 import objects_pb2, session_pb2


@contextlib.asynccontextmanager
async def writing(journal: Journal) -> AsyncIterator[Journal]:
    task = asyncio.create_task(journal.run())
    yield journal
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await journal.close()


async def test_what_was_put_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    assignment = session_pb2.Assignment(container_id=b"c" * 16, slot=3)
    memory = Memory(attempt=2, state=5, exit_code=None, failures=1)
    spec = objects_pb2.ContainerSpec(image="tiny", labels={"a": "b"})
    meta = Meta(fence=Fence(1, 2), revision=b"r", complete=True)
    async with writing(Journal(Store.open(path))) as journal:
        journal.put_container("one", assignment, memory)
        journal.put_container("two", None, memory)
        journal.put_container("two", None, None)
        journal.put_specs({b"d": spec, b"e": spec})
        journal.put_meta(meta)
        await journal.durable()
        stored = on_disk(path)
        journal.put_specs({b"e": None})
    assert stored.assignments == {"one": assignment}
    assert stored.memory == {"one": memory}
    assert stored.specs == {b"d": spec, b"e": spec}
    assert stored.meta == meta
    assert on_disk(path).specs == {b"d": spec}


@pytest.mark.parametrize(
    "content", [b"not a database at all" * 99, b"SQLite format 3\0" + b"\xff" * 9000]
)
def test_a_damaged_file_is_set_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "worker.db"
    path.write_bytes(content)
    assert Store.open(path).load().memory == {}
    assert (tmp_path / "worker.db.damaged").read_bytes() == content
    assert "is damaged" in caplog.text


async def test_an_unreadable_row_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "worker.db"
    Store.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO containers VALUES ('one', x'ffff', NULL)")
        connection.execute("INSERT INTO containers VALUES ('two', NULL, x'c1')")
        connection.execute("INSERT INTO meta VALUES ('meta', x'00')")
    stored = Store.open(path).load()
    assert (stored.assignments, stored.memory, stored.meta) == ({}, {}, Meta())
    assert caplog.text.count("unreadable") == 3


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    Store.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StartupError, match="newer release"):
        Store.open(path)


def test_a_directory_in_its_place_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot open the worker's store"):
        Store.open(tmp_path)


async def test_a_full_disk_is_survived_and_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "worker.db"
    store = Store.open(path)
    # As a full disk: the file may not grow beyond what it has.
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    memory = Memory(attempt=1, state=5, message="x" * 100_000)
    async with writing(Journal(store)) as journal:
        journal.put_container("one", None, memory)
        async with asyncio.timeout(5):
            await journal.durable()
        assert "full" in journal.problem
        assert "going on from memory" in caplog.text
        await asyncio.to_thread(store._connection.execute, "PRAGMA max_page_count = 100000")
        async with asyncio.timeout(5):
            while journal.problem:  # noqa: ASYNC110 - a condition with a deadline
                await asyncio.sleep(0.05)
        await journal.durable()
        assert on_disk(path).memory == {"one": memory}


class HungStore:
    """A store whose disk does not answer until it is told to."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def write(self, changes: Changes) -> None:
        self.begun.set()
        assert self.go_on.wait(10)

    def close(self) -> None:
        pass


async def test_a_disk_that_does_not_answer_is_a_problem_while_it_does_not() -> None:
    store, now_s = HungStore(), [100.0]
    async with writing(Journal(store, clock=lambda: now_s[0])) as journal:  # type: ignore[arg-type]
        now_s[0] += 60  # of rest: only what is under way counts
        journal.put_meta(Meta())
        written = asyncio.create_task(journal.durable())
        assert await asyncio.to_thread(store.begun.wait, 10)
        now_s[0] += 0.9 * STUCK_S
        assert journal.problem == ""
        now_s[0] += 0.2 * STUCK_S
        assert "has not answered for 0.9 s" in journal.problem
        # A problem, but no refusal: what has to be on disk first goes on waiting for it.
        journal.put_meta(Meta(complete=True))
        later = asyncio.create_task(journal.durable())
        await asyncio.sleep(0)  # it has looked
        assert not written.done()
        assert not later.done()
        store.go_on.set()
        await asyncio.wait_for(asyncio.gather(written, later), 10)
        assert journal.problem == ""


async def test_a_write_that_is_cancelled_before_it_began_is_made_up_for(tmp_path: Path) -> None:
    path = tmp_path / "worker.db"
    journal = Journal(Store.open(path))
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        go_on.wait(10)

    # The store's one thread is busy, so that the write waits its turn.
    busy = asyncio.get_running_loop().run_in_executor(journal._thread, hold)
    await asyncio.to_thread(begun.wait, 10)
    journal.put_container("c1", None, Memory(state=objects_pb2.CONTAINER_STATE_RUNNING, attempt=1))
    task = asyncio.create_task(journal.run())
    async with asyncio.timeout(10):
        while journal._waiting.containers:  # noqa: ASYNC110 - a condition with a deadline
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    go_on.set()
    await busy
    await journal.close()
    assert on_disk(path).memory["c1"].attempt == 1

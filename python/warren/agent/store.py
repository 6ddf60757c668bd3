"""What the worker has to do, on disk, so that it goes on alone: without a manager, after a reboot.

One SQLite file with a write-ahead log, synced fully, written by one thread. It is no authority:
what exists on the host is the runtime's word (labels carry id and attempt), what should exist is
the manager's. A damaged file is therefore set aside and begun anew, and a full disk is survived in
memory. What only the store knows is that an attempt has *ended for good*: the runtime's own record
of it is deleted only after that is durable here (`Journal.durable`).
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from google.protobuf.message import DecodeError

from warren.agent.contact import Contact
from warren.agent.converge import Memory
from warren.errors import StartupError
from warren.pb.v1 import objects_pb2, session_pb2

__all__ = ["STUCK_S", "Changes", "Fence", "Journal", "Meta", "Store", "Stored"]

STUCK_S: Final = 0.8
"""From then on a write that has no answer is a problem: a probe tells of what is a second old."""

_FORMAT: Final = 1
_RETRY_S: Final = 0.5
_log = logging.getLogger("warren.worker.store")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS containers (id TEXT PRIMARY KEY, assignment BLOB, memory BLOB);
CREATE TABLE IF NOT EXISTS specs (digest BLOB PRIMARY KEY, spec BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


class Fence(msgspec.Struct, frozen=True, order=True):
    """The highest (epoch, term) obeyed; lower ones are leaders of the past."""

    epoch: int = 0
    term: int = 0


class Meta(msgspec.Struct, frozen=True):
    """What is known of the set as a whole. `revision`: an encoded Revision. `complete`: the
    manager once gave the whole set, so that what is not in it is assigned to nobody.
    `contact`: with the managers, as far as it has been saved.
    """

    fence: Fence = Fence()
    revision: bytes = b""
    complete: bool = False
    contact: Contact = Contact()


class Stored(msgspec.Struct):
    """Everything that a store holds. Keys are container ids in hex, and spec digests."""

    meta: Meta
    assignments: dict[str, session_pb2.Assignment]
    memory: dict[str, Memory]
    specs: dict[bytes, objects_pb2.ContainerSpec]


class Changes(msgspec.Struct):
    """Rows to write. A container with neither assignment nor memory is deleted."""

    containers: dict[str, tuple[bytes | None, bytes | None]]
    specs: dict[bytes, bytes | None]
    meta: Meta | None


class Store:
    """The file. Not for use from more than one thread at a time; see `Journal`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open or make it; a damaged one is set aside as `<name>.damaged` with a log line.

        Raises StartupError where it was written by a newer release, or cannot be opened at all.
        """
        try:
            return cls(_connect(path))
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise StartupError(f"cannot open the worker's store {path}: {error}") from None
            aside = path.with_name(path.name + ".damaged")
            _log.error(
                "the worker's store %s is damaged (%s); it is kept as %s and built anew from what "
                "runs here and from the manager",
                path,
                error,
                aside,
            )
            path.rename(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return cls(_connect(path))

    def load(self) -> Stored:
        """Everything. A row that cannot be read is left out: the manager gives it again."""
        stored = Stored(meta=self._meta(), assignments={}, memory={}, specs={})
        rows = self._connection.execute("SELECT id, assignment, memory FROM containers")
        for container_id, assignment, memory in rows:
            with _left_out_unless_readable("container", container_id):
                if assignment is not None:
                    read = session_pb2.Assignment.FromString(assignment)
                    stored.assignments[container_id] = read
                if memory is not None:
                    stored.memory[container_id] = msgspec.msgpack.decode(memory, type=Memory)
        for digest, spec in self._connection.execute("SELECT digest, spec FROM specs"):
            with _left_out_unless_readable("spec", digest.hex()):
                stored.specs[digest] = objects_pb2.ContainerSpec.FromString(spec)
        return stored

    def _meta(self) -> Meta:
        row = self._connection.execute("SELECT value FROM meta WHERE key = 'meta'").fetchone()
        if row is not None:
            with _left_out_unless_readable("record", "meta"):
                return msgspec.msgpack.decode(row[0], type=Meta)
        return Meta()

    def write(self, changes: Changes) -> None:
        """All of it, durably, or nothing. Raises sqlite3.Error (a full disk among others)."""
        rows = [
            (container_id, *columns)
            for container_id, columns in changes.containers.items()
            if any(columns)
        ]
        gone = [
            (container_id,)
            for container_id, columns in changes.containers.items()
            if not any(columns)
        ]
        with self._connection as db:
            db.executemany("INSERT OR REPLACE INTO containers VALUES (?, ?, ?)", rows)
            db.executemany("DELETE FROM containers WHERE id = ?", gone)
            kept = [(digest, spec) for digest, spec in changes.specs.items() if spec is not None]
            dropped = [(digest,) for digest, spec in changes.specs.items() if spec is None]
            db.executemany("INSERT OR REPLACE INTO specs VALUES (?, ?)", kept)
            db.executemany("DELETE FROM specs WHERE digest = ?", dropped)
            if changes.meta is not None:
                encoded = msgspec.msgpack.encode(changes.meta)
                db.execute("INSERT OR REPLACE INTO meta VALUES ('meta', ?)", (encoded,))

    def close(self) -> None:
        self._connection.close()


class Journal:
    """Writes behind the worker's back, newest value per row, one transaction at a time.

    Bounded by the number of rows. While the disk refuses, the worker goes on from memory, and the
    write is tried again every half second. `clock`: monotonic, in seconds.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._refusal = ""
        # When the write began that is under way.
        self._began_s: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker-store")
        self._waiting = Changes(containers={}, specs={}, meta=None)
        self._closed = False
        self._asked = 0
        self._written = 0
        self._wake = asyncio.Event()
        self._turn = asyncio.Condition()

    @property
    def problem(self) -> str:
        """Why what changes is not on disk, now: refused, or no answer; empty where neither.

        From any thread.
        """
        began_s = self._began_s
        waited_s = 0.0 if began_s is None else self._clock() - began_s
        if waited_s >= STUCK_S:
            return f"the disk of the worker's store has not answered for {waited_s:.1f} s"
        return self._refusal

    def put_container(
        self, container_id: str, assignment: session_pb2.Assignment | None, memory: Memory | None
    ) -> None:
        self._waiting.containers[container_id] = (
            None if assignment is None else assignment.SerializeToString(),
            None if memory is None else msgspec.msgpack.encode(memory),
        )
        self._note()

    def put_specs(self, specs: Mapping[bytes, objects_pb2.ContainerSpec | None]) -> None:
        for digest, spec in specs.items():
            self._waiting.specs[digest] = None if spec is None else spec.SerializeToString()
        self._note()

    def put_meta(self, meta: Meta) -> None:
        self._waiting.meta = meta
        self._note()

    async def durable(self) -> None:
        """Wait until all that was put before is on disk, or the disk has refused it.

        A disk that does not answer is waited for: what it has taken nobody knows.
        """
        goal = self._asked
        async with self._turn:
            await self._turn.wait_for(lambda: self._written >= goal or bool(self._refusal))

    async def run(self) -> None:
        """Write what comes, until cancelled. `close` writes what is left."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._flush()
            if self._refusal:
                await asyncio.sleep(_RETRY_S)
                self._wake.set()

    async def close(self) -> None:
        """Write what is left, as far as the disk takes it, and close the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._written < self._asked:
            await self._flush()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown(wait=False)

    def _note(self) -> None:
        self._asked += 1
        self._wake.set()

    async def _flush(self) -> None:
        batch, self._waiting = self._waiting, Changes(containers={}, specs={}, meta=None)
        goal = self._asked
        loop = asyncio.get_running_loop()
        self._began_s = self._clock()
        try:
            await loop.run_in_executor(self._thread, self._store.write, batch)
        except asyncio.CancelledError:
            # A write that had not begun never will; one that had is repeated, to the same end.
            self._put_back(batch)
            raise
        except sqlite3.Error as error:
            self._refused(batch, error)
        else:
            if self._refusal:
                _log.info("the worker's store can be written again")
            self._refusal = ""
            self._written = goal
        finally:
            self._began_s = None
        async with self._turn:
            self._turn.notify_all()

    def _refused(self, batch: Changes, error: sqlite3.Error) -> None:
        if not self._refusal:
            _log.error(
                "cannot write the worker's store (%s); going on from memory. Free some space: "
                "writing is tried again every half second",
                error,
            )
        self._refusal = f"cannot write the worker's store: {error}"
        self._put_back(batch)

    def _put_back(self, batch: Changes) -> None:
        self._waiting = Changes(
            containers=batch.containers | self._waiting.containers,
            specs=batch.specs | self._waiting.specs,
            meta=self._waiting.meta or batch.meta,
        )


@contextmanager
def _left_out_unless_readable(kind: str, name: str) -> Iterator[None]:
    try:
        yield
    except (DecodeError, msgspec.DecodeError) as error:
        _log.error("the worker's store has an unreadable %s %s (%s); left out", kind, name, error)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, timeout=5.0)
    try:
        # One process at a time has the data directory. Without the index that others would share,
        # and without a write when nothing changes, a full disk does not keep the daemon down.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > _FORMAT:
            raise StartupError(
                f"{path} was written by a newer release (format {version}, known is {_FORMAT}); "
                "upgrade this one"
            )
        connection.execute("PRAGMA synchronous = FULL")
        if version < _FORMAT:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_FORMAT}")
    except BaseException:
        connection.close()
        raise
    return connection

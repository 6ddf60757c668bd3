"""The Rust core as awaitables: the only importer of the extension.

A call is submitted as bytes and answered as bytes. Completions are announced by one eventfd and
taken in batches, so that the loop wakes once for many. Refusals are `WarrenError`.

A cancelled await does not cancel the work: what was submitted goes on, and its answer is dropped.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from google.protobuf.message import DecodeError

from warren import _core
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2

__all__ = [
    "CODES",
    "STREAMS_MAX",
    "Core",
    "Identity",
    "LogFrame",
    "LogSink",
    "PeerSettings",
    "RaftHardState",
    "dump_log",
    "inspect_backup",
    "parse_identity",
    "verify_log",
]

T = TypeVar("T")

CODES: Final[tuple[str, ...]] = _core.CODES
"""Every code a refusal of the core can have."""

STREAMS_MAX: Final[int] = _core.STREAMS_MAX
"""Streams of a core on the largest host."""

DRAIN_MAX: Final = 256
CLOSE_TIMEOUT_MS: Final = 4_000

LogSink = Callable[[str, str, str, bytes, int | None], None]
"""Takes level, component, message, further fields as a JSON object, and when the core said it.

That is in milliseconds since the epoch; None: it did not tell."""

# The directory is rewritten only once nothing runs on it; a large snapshot may be on its way.
_END_TIMEOUT_MS: Final = 60_000
_REWRITING: Final = ("shutting_down", "this manager begins a new epoch; try again when it is done")
_JOINING: Final = ("no_leader", "this node is joining a cluster; try again in a few seconds")
_SHUTTING_DOWN: Final = ("shutting_down", "the daemon is shutting down; try again when it is back")


class PeerSettings(msgspec.Struct, frozen=True):
    """How managers reach each other: over TLS, by certificates of the cluster's CA."""

    listen: str  # address:port
    address: str  # host:port that the others dial
    ca: Path
    cert: Path  # this node's, as a manager, followed by those between it and the CA
    key: Path

    def _arguments(self) -> dict[str, Any]:
        return {
            "peer_listen": self.listen,
            "peer_address": self.address,
            "tls_ca": self.ca,
            "tls_cert": self.cert,
            "tls_key": self.key,
        }


class Core:
    """A running core, tied to the event loop that opened it."""

    def __init__(self, core: _core.Core, log: LogSink, arguments: dict[str, Any]) -> None:
        """Use `open`."""
        self._core = core
        self._log = log
        self._arguments = arguments
        self._switching = asyncio.Lock()  # what ends the core, one after the other
        self._away: tuple[str, str] | None = None  # why no core is there just now
        self._tasks: set[asyncio.Task[Any]] = set()  # which the loop itself would forget
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._streams: dict[int, _Stream] = {}
        self._closed = False
        self._verbose = False
        self._adopt(core)

    @classmethod
    async def open(
        cls,
        *,
        raft_dir: Path,
        node_id: str,
        node_name: str,
        advertise_addr: str,
        segment_bytes: int,
        log: LogSink,
        peers: PeerSettings | None = None,
    ) -> Core:
        """Recover what `raft_dir` holds and start.

        `raft_dir` exists and is locked by the caller; `node_id` is 32 hex digits;
        `segment_bytes` is a multiple of 4,096 from 1 MiB to 1 GiB. Without `peers` nothing
        listens, and there are no other members. WarrenError where the log is damaged, or the
        directory or the certificate cannot be used.
        """
        arguments: dict[str, Any] = {
            "raft_dir": os.fspath(raft_dir),
            "node_id": bytes.fromhex(node_id),
            "node_name": node_name,
            "advertise_addr": advertise_addr,
            "segment_bytes": segment_bytes,
        }
        if peers is not None:
            arguments |= peers._arguments()
        return cls(await _started(lambda: _core.Core.open(**arguments)), log, arguments)

    async def join(self, *, cluster_id: bytes, epoch: int, member_id: int, data_dir: bytes) -> None:
        """Go on as the member of a cluster that has admitted this node.

        For a core that belongs to no cluster. It ends, what waits for it is refused, and the joined
        one takes its place in this object. WarrenError where the node cannot join; then the core
        is as it was, or closed if it cannot be opened again. Not ended by a cancellation.
        """
        membership = {
            "cluster_id": cluster_id,
            "epoch": epoch,
            "member_id": member_id,
            "data_dir": data_dir,
        }
        await self._whole(self._join(membership))

    async def _join(self, membership: dict[str, Any]) -> None:
        async with self._switching:
            self._check_open()
            if self._core.status()["is_member"]:
                raise WarrenError("already_in_cluster", "this node already belongs to a cluster")
            arguments = self._arguments
            self._away = _JOINING
            try:
                await self._end(_JOINING)
                try:
                    joined = await _started(lambda: _core.Core.join(**arguments, **membership))
                except WarrenError:
                    await self._reopen()
                    raise
                self._adopt(joined)
            finally:
                self._away = None

    async def restore(
        self, file: Path, epoch_min: int = 0, cluster_id: bytes | None = None
    ) -> bytes:
        """Go on as the only member of the cluster in the backup at `file`.

        For a core that belongs to no cluster. The new epoch is at least `epoch_min`; with
        `cluster_id` a backup of another cluster is refused. Answers with an encoded
        `RestoreClusterResponse`. What waits for the core is refused. WarrenError where the backup
        cannot be used; then the core is as it was, or closed if it cannot be opened again. Not
        ended by a cancellation.
        """
        arguments = self._arguments

        def begin() -> tuple[_core.Core, bytes]:
            return _core.Core.restore(
                **arguments, file=os.fspath(file), epoch_min=epoch_min, cluster_id=cluster_id
            )

        return await self._whole(self._begin_epoch(begin, joins=True))

    async def recover_quorum(self) -> bytes:
        """Go on as the only member of this member's cluster, which has lost its quorum.

        Answers with an encoded `RecoverQuorumResponse`. Whether that is wise is not asked: see the
        core's method `JudgeRecovery`. Otherwise as `restore`.
        """
        arguments = self._arguments
        begin = lambda: _core.Core.recover_quorum(**arguments)  # noqa: E731
        return await self._whole(self._begin_epoch(begin, joins=False))

    async def _begin_epoch(
        self, begin: Callable[[], tuple[_core.Core, bytes]], *, joins: bool
    ) -> bytes:
        async with self._switching:
            self._check_open()
            if joins and self._core.status()["is_member"]:
                raise WarrenError("already_in_cluster", "this node already belongs to a cluster")
            self._away = _REWRITING
            try:
                if not await self._end(_REWRITING, _END_TIMEOUT_MS):
                    # Two on one directory would destroy it.
                    self._closed = True
                    raise WarrenError(
                        "data_dir", "the core does not end; look at its disk, restart, try again"
                    )
                try:
                    core, report = await asyncio.to_thread(begin)
                except _core.CoreError as error:
                    await self._reopen()
                    raise _refusal(error) from None
                self._adopt(core)
                return report
            finally:
                self._away = None

    async def _whole(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end, also if whoever waits for it is cancelled."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _reopen(self) -> None:
        arguments = self._arguments
        try:
            self._adopt(await _started(lambda: _core.Core.open(**arguments)))
        except WarrenError:
            self._closed = True
            raise

    def _adopt(self, core: _core.Core) -> None:
        self._core = core
        self._fd = core.fileno()
        self._loop.add_reader(self._fd, self._drain)
        core.set_verbose(self._verbose)

    async def call(
        self, identity: str, method: str, body: bytes, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        """The answer to one call; `outcome_unknown` if there is none within `timeout_s`.

        `stale`: a read takes this member's own state, which may be old, and needs no leader.
        """
        self._check_open()
        timeout_ms = max(1, int(timeout_s * 1000))
        try:
            number = self._core.submit(identity, method, body, timeout_ms, stale)
        except _core.CoreError as error:
            raise _refusal(error) from None
        return await self._answer(number)

    async def backup(
        self, identity: str, file: Path, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        """Write a backup to `file`, where nothing is yet: an encoded `BackupHeader`, once durable.

        `timeout_s` bounds how long the newest state is waited for, not the writing. `stale`: of
        this member's own state, which may be old, and needs no leader.
        """
        self._check_open()
        timeout_ms = max(1, int(timeout_s * 1000))
        try:
            number = self._core.backup(identity, os.fspath(file), timeout_ms, stale)
        except _core.CoreError as error:
            raise _refusal(error) from None
        return await self._answer(number)

    async def _answer(self, number: int) -> bytes:
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[number] = answer
        return await answer

    async def stream(self, identity: str, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """The items of a stream, until it ends; closing the generator closes it."""
        self._check_open()
        try:
            number = self._core.subscribe(identity, method, body)
        except _core.CoreError as error:
            raise _refusal(error) from None
        stream = self._streams[number] = _Stream()
        try:
            while (item := await stream.next()) is not None:
                # Only now: who reads slowly has one item waiting, and then sees the newest.
                if self._streams.get(number) is stream:
                    self._core.taken(number)
                yield item
        finally:
            # Another core's stream may have the number by now.
            if self._streams.get(number) is stream:
                del self._streams[number]
                self._core.cancel(number)

    def pulse(self) -> None:
        """Tell the core that the loop is alive; a few times a second."""
        if not self._closed and self._away is None:
            self._core.pulse()

    def status(self) -> dict[str, Any]:
        """What health checks look at, without waiting on the core.

        `is_member` (there is a log), `in_cluster` (and what the cluster is has reached it),
        `leader` (this member serves), `has_leader` (it or another one leads),
        `voters`, `term`, `last_index`, `applied_index`, `no_space` (writes are refused until there
        is room), `removed` (the cluster does without this member: close it) and `stuck_ms`: how
        long the oldest unfinished work of disk or core has been waiting.
        """
        return self._core.status()

    def set_verbose(self, verbose: bool) -> None:
        """Whether the core makes lines of level debug from now on."""
        self._verbose = verbose
        if not self._closed and self._away is None:
            self._core.set_verbose(verbose)

    def metrics(self, *, fine: bool) -> bytes:
        """The core's series in the Prometheus text format. From any thread.

        `fine`: histograms have buckets from 1 µs on.
        """
        return self._core.metrics(fine)

    async def close(self) -> None:
        """End the core and mark the log's clean end. What waits is refused; may be repeated."""
        async with self._switching:
            if self._closed:
                return
            self._closed = True
            await self._end(_SHUTTING_DOWN)

    async def _end(self, why: tuple[str, str], timeout_ms: int = CLOSE_TIMEOUT_MS) -> bool:
        """False if it still runs after `timeout_ms`."""
        ended = await asyncio.to_thread(self._core.shutdown, timeout_ms)
        self._drain()
        self._loop.remove_reader(self._fd)
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(WarrenError(*why))
        for stream in self._streams.values():
            stream.end(WarrenError(*why))
        self._calls.clear()
        self._streams.clear()
        return ended

    def _check_open(self) -> None:
        if self._closed:
            raise WarrenError(*_SHUTTING_DOWN)
        if self._away is not None:
            raise WarrenError(*self._away)

    def _drain(self) -> None:
        # The eventfd stays readable while more waits: other callbacks get their turn in between.
        for number, kind, payload in self._core.drain(DRAIN_MAX):
            if kind == _core.KIND_LOG:
                self._emit(payload)
            elif (answer := self._calls.pop(number, None)) is not None:
                _settle(answer, kind, payload)
            elif (stream := self._streams.get(number)) is not None:
                if kind == _core.KIND_ITEM:
                    stream.put(payload)
                else:
                    del self._streams[number]
                    stream.end(_decode(payload) if kind == _core.KIND_ERROR else None)

    def _emit(self, line: bytes) -> None:
        fields = msgspec.json.decode(line, type=dict[str, Any])
        level, component = fields.pop("level"), fields.pop("component")
        message, time_ms = fields.pop("message"), fields.pop("time_ms", None)
        more = msgspec.json.encode(fields) if fields else b""
        self._log(level, component, message, more, time_ms)


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """What a certificate says of its bearer."""

    trust_domain: str  # the cluster's name, as its CA gave it
    role: str  # manager, worker, client
    name: str  # of managers and workers the node id, 32 hex digits


def parse_identity(uri: str) -> Identity:
    """The identity in a certificate's URI; WarrenError `invalid` where it is none."""
    try:
        return Identity(*_core.parse_spiffe(uri))
    except _core.CoreError as error:
        raise _refusal(error) from None


async def _started(start: Callable[[], _core.Core]) -> _core.Core:
    """In a thread of its own, since it reads the log."""
    try:
        return await asyncio.to_thread(start)
    except _core.CoreError as error:
        raise _refusal(error) from None


def inspect_backup(file: Path) -> bytes:
    """The encoded `BackupHeader` of the backup at `file`, all of which was read and is whole.

    Blocks while it reads, without holding the interpreter's lock. WarrenError where it cannot be
    used or read.
    """
    try:
        return _core.inspect_backup(os.fspath(file))
    except _core.CoreError as error:
        raise _refusal(error) from None


class RaftHardState(msgspec.Struct, frozen=True, array_like=True):
    """What a member must not forget besides the entries."""

    term: int
    voted_for: int  # 0: nobody in this term
    commit_index: int
    generation: int  # how often the log was cut
    is_cut: bool  # it was, and the member has not caught up since


class LogFrame(msgspec.Struct, frozen=True, array_like=True):
    """One intact frame of a log on disk; what each kind says: docs/wal-format.md."""

    file: str
    offset: int
    kind: str  # entry, hard_state, snapshot, commit, end
    index: int
    term: int
    payload_bytes: int
    command: bytes | None  # of an entry, encoded; empty: a leader's first in its term
    hard_state: RaftHardState | None
    payload: bytes | None  # where it was asked for


def verify_log(wal_dir: Path) -> dict[str, Any]:
    """What the log in `wal_dir` holds and how it ends, read as a start would, nothing changed.

    Always there: `end` (clean, open, torn, cut or damaged), `place` (file and offset of what is
    bad, or None), `frames`, `batches`, `last_index`, `last_term`. Of a damaged log besides these
    only `why`; they then tell of what is intact before the damage. Blocks while it reads, without
    holding the interpreter's lock. WarrenError where the log cannot be read.
    """
    try:
        return _report(_core.verify_log(os.fspath(wal_dir)))
    except _core.CoreError as error:
        raise _refusal(error) from None


def dump_log(
    wal_dir: Path,
    sink: Callable[[list[LogFrame]], object],
    *,
    from_index: int = 0,
    limit: int | None = None,
    with_payload: bool = False,
) -> dict[str, Any] | None:
    """Like `verify_log`, and calls `sink` with the frames, some at a time, in the log's order.

    Begins with the first entry at `from_index` or above. None where `limit`, at least 1, ended it.
    """

    def take(frames: list[tuple[Any, ...]]) -> None:
        sink(msgspec.convert(frames, list[LogFrame]))

    try:
        report = _core.dump_log(os.fspath(wal_dir), from_index, limit, with_payload, take)
    except _core.CoreError as error:
        raise _refusal(error) from None
    return None if report is None else _report(report)


def _report(report: dict[str, Any]) -> dict[str, Any]:
    state = msgspec.convert(report.get("hard_state"), RaftHardState | None)
    return {**report, "hard_state": state}


class _Stream:
    """What waits for its reader: one item, since the core sends the next when it is taken."""

    __slots__ = ("_ended", "_error", "_items", "_waiter")

    def __init__(self) -> None:
        self._items: deque[bytes] = deque()
        self._ended = False
        self._error: WarrenError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: bytes) -> None:
        self._items.append(item)
        self._wake()

    def end(self, error: WarrenError | None) -> None:
        self._ended = True
        self._error = error
        self._wake()

    async def next(self) -> bytes | None:
        """The next item; None at the end; raises what ended it."""
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._items.popleft()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _settle(answer: asyncio.Future[bytes], kind: int, payload: bytes) -> None:
    if answer.done():
        return
    if kind == _core.KIND_ERROR:
        answer.set_exception(_decode(payload))
    else:
        answer.set_result(payload)


def _decode(payload: bytes) -> WarrenError:
    try:
        error = api_pb2.Error.FromString(payload)
    except DecodeError:
        return WarrenError("internal", "the core's refusal cannot be read; is the build complete?")
    return WarrenError(error.code, error.message, error.leader_address)


def _refusal(error: _core.CoreError) -> WarrenError:
    code, message = error.args
    return WarrenError(code, message)

"""API, dispatcher and a worker's session over a real socket; the core behind them is scripted."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from warren import rpc
from warren.agent import status
from warren.agent.board import Board
from warren.agent.converge import Memory
from warren.agent.outbox import Outbox
from warren.agent.route import Route
from warren.agent.session import (
    REDIRECTS_MAX,
    REMOVED_ANSWERS,
    Session,
    SessionEndedError,
    reconnect_pause_s,
)
from warren.agent.store import Fence, Journal, Store
from warren.channels import Channels
from warren.errors import WarrenError
from warren.manager import api, dispatcher
from warren.manager.forward import Forwarder
from warren.manager.identity import by_socket
from warren.pb.v1 import api_pb2, session_pb2
from warren.pb.v1 import objects_pb2 as pb

NODE = "ab" * 16
SESSION = b"s" * 16
DEADLINE_S = 10.0


class ScriptedCore:
    """Notes what it is asked, and answers as the test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes, float]] = []
        self.refuse: dict[str, WarrenError | Exception] = {}
        self.hangs: set[str] = set()
        self.sessions: list[session_pb2.Hello] = []
        self.to_worker: asyncio.Queue[session_pb2.ManagerMessage | None] = asyncio.Queue()
        self.from_worker: asyncio.Queue[session_pb2.WorkerMessage] = asyncio.Queue()
        self.description = pb.NodeDescription()
        self.acknowledges = True
        self.managers: session_pb2.Managers | None = None
        self.ended = 0
        self.term = 3

    async def call(
        self, identity: str, method: str, body: bytes, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        assert identity == "local"
        self.calls.append((method, body, timeout_s))
        if method in self.hangs:
            await asyncio.Event().wait()
        if method in self.refuse:
            raise self.refuse[method]
        if method == "SessionMessage":
            assert body[:16] == SESSION
            message = session_pb2.WorkerMessage.FromString(body[16:])
            if message.WhichOneof("body") == "description":
                self.description = message.description
            await self.from_worker.put(message)
            if message.WhichOneof("body") == "heartbeat" and self.acknowledges:
                ack = session_pb2.HeartbeatAck(
                    sequence=message.heartbeat.sequence, time_ms=int(time.time() * 1000) - 90_000
                )
                return session_pb2.ManagerMessage(heartbeat_ack=ack).SerializeToString()
        if method == "GetNode":
            node = pb.Node(description=self.description)
            view = api_pb2.NodeView(node=node)
            return api_pb2.GetNodeResponse(node=view).SerializeToString()
        return b""

    async def stream(self, identity: str, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        try:
            if method == "WatchService":
                yield api_pb2.ServiceProgress(running=1).SerializeToString()
                if method in self.refuse:
                    raise self.refuse[method]
                return
            hello = session_pb2.Hello.FromString(body)
            self.sessions.append(hello)
            self.description = hello.description
            if "Session" in self.refuse:
                raise self.refuse["Session"]
            welcome = session_pb2.Welcome(
                epoch=1,
                term=self.term,
                session_id=SESSION,
                heartbeat_interval_ms=100,
                managers=self.managers,
            )
            yield session_pb2.ManagerMessage(welcome=welcome).SerializeToString()
            while (item := await self.to_worker.get()) is not None:
                yield item.SerializeToString()
        finally:
            self.ended += 1


class Counts:
    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []

    def method(self, name: str) -> Any:
        seen = self.seen

        class One:
            def record(self, seconds: float, request_id: str, *, ok: bool) -> None:
                assert request_id
                seen.append((name, ok))

        return One()


class Forwarded:
    def record(self, *, ok: bool) -> None:
        raise AssertionError("nothing is forwarded here")


class Managers:
    """One manager, whose every word is noted."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.dialled: list[str] = []
        self.heard: list[session_pb2.Managers] = []
        self.why_removed = ""

    def dial(self, address: str) -> grpc.aio.Channel:
        self.dialled.append(address)
        return self.channel

    async def explain(self, address: str) -> str:
        return f"nobody is at {address}"

    def told(self, managers: session_pb2.Managers) -> None:
        self.heard.append(managers)

    def removed(self, why: str) -> None:
        self.why_removed = why


class Edges:
    def __init__(self, core: ScriptedCore, counts: Counts, channel: grpc.aio.Channel) -> None:
        self.core = core
        self.counts = counts
        self.channel = channel
        self.manager = rpc.Stub(channel, rpc.MANAGER)
        self.created: list[tuple[float, str]] = []
        self.sessions = 0

    def count_session(self, change: int) -> None:
        self.sessions += change


@pytest.fixture
async def edges(tmp_path: Path) -> AsyncIterator[Edges]:
    core, counts, channels = ScriptedCore(), Counts(), Channels(None)
    server = grpc.aio.server(options=rpc.SERVER_OPTIONS)
    target = f"unix:{tmp_path}/s"
    async with grpc.aio.insecure_channel(target, options=rpc.CLIENT_OPTIONS) as channel:
        edges = Edges(core, counts, channel)
        server.add_generic_rpc_handlers(
            (
                api.service(
                    Forwarder(core, channels, Forwarded(), lambda: 1),
                    by_socket,
                    counts,
                    {"CreateService": lambda *told: edges.created.append(told)},
                    {},
                    {},
                ),
                dispatcher.service(core, by_socket, edges.count_session),
            )
        )
        server.add_insecure_port(target)
        await server.start()
        yield edges
        await server.stop(None)


async def refusal_of(call: Any) -> tuple[grpc.StatusCode, WarrenError]:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return caught.value.code(), rpc.failure(caught.value)  # type: ignore[attr-defined]


# The API


async def test_bytes_pass_through_and_are_counted(edges: Edges) -> None:
    request = api_pb2.CreateServiceRequest(spec=pb.ServiceSpec(name="web"))
    await edges.manager.CreateService(request, timeout=5)
    method, body, timeout_s = edges.core.calls[0]
    assert (method, body) == ("CreateService", request.SerializeToString())
    # On the wire a timeout of some seconds is rounded up to 10 ms.
    assert 0 < timeout_s <= 5.01
    assert edges.counts.seen == [("CreateService", True)]
    assert len(edges.created) == 1


async def test_deadlines_have_a_default_and_a_bound(edges: Edges) -> None:
    await edges.manager.Ping(api_pb2.PingRequest())
    await edges.manager.Ping(api_pb2.PingRequest(), timeout=86_400)
    assert [call[2] for call in edges.core.calls] == pytest.approx([10.0, 60.0], abs=1)


async def test_a_refusal_keeps_code_and_sentence(edges: Edges) -> None:
    edges.core.refuse["CreateService"] = WarrenError("image_not_loaded", "load it first")
    code, refusal = await refusal_of(
        edges.manager.CreateService(api_pb2.CreateServiceRequest(), timeout=5)
    )
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert (refusal.code, refusal.message) == ("image_not_loaded", "load it first")
    assert edges.counts.seen == [("CreateService", False)]
    assert edges.created == []


async def test_a_fault_of_ours_tells_nothing_inner(
    edges: Edges, caplog: pytest.LogCaptureFixture
) -> None:
    edges.core.refuse["Ping"] = RuntimeError("secret detail")
    code, refusal = await refusal_of(edges.manager.Ping(api_pb2.PingRequest(), timeout=5))
    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in refusal.message
    assert "secret detail" in caplog.text


async def test_a_request_is_found_by_its_name(
    edges: Edges, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "warren.api")
    named = ((rpc.REQUEST_ID_KEY, "abc-1"),)
    await edges.manager.Ping(api_pb2.PingRequest(), timeout=5, metadata=named)
    edges.core.refuse["GetNode"] = WarrenError("not_found", "no such node")
    await refusal_of(edges.manager.GetNode(api_pb2.GetNodeRequest(), timeout=5, metadata=named))
    edges.core.refuse["GetNode"] = WarrenError("no_space", "the disk is full")
    await refusal_of(edges.manager.GetNode(api_pb2.GetNodeRequest(), timeout=5, metadata=named))
    edges.core.refuse["GetNode"] = RuntimeError("oh")
    await refusal_of(edges.manager.GetNode(api_pb2.GetNodeRequest(), timeout=5, metadata=named))
    _ = [item async for item in edges.manager.WatchService(api_pb2.WatchServiceRequest())]
    fields = [vars(record) for record in caplog.records if record.name == "warren.api"]
    assert [(each["levelname"], each["method"]) for each in fields] == [
        ("DEBUG", "Ping"),
        ("DEBUG", "GetNode"),
        ("WARNING", "GetNode"),
        ("ERROR", "GetNode"),
        ("DEBUG", "WatchService"),
    ]
    assert [each["request_id"] for each in fields[:-1]] == ["abc-1"] * 4
    # Who gives none gets one.
    assert re.fullmatch(r"[0-9a-f]{32}", fields[-1]["request_id"])
    assert [each.get("code") for each in fields] == [None, "not_found", "no_space", None, None]
    assert fields[0]["identity"] == "local"
    assert fields[0]["duration_ms"] > 0


@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_a_request_that_is_given_up_is_counted_and_told(
    edges: Edges, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """What hangs is what its callers leave: without these it would show nowhere."""
    caplog.set_level("DEBUG", "warren.api")
    edges.core.hangs.add("CreateService")
    named = ((rpc.REQUEST_ID_KEY, "abc-2"),)
    call = edges.manager.CreateService(
        api_pb2.CreateServiceRequest(), timeout=0.2 if how == "deadline" else 60, metadata=named
    )
    if how == "cancel":
        asking = asyncio.ensure_future(call)
        await until(lambda: edges.core.calls)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    else:
        code, _ = await refusal_of(call)
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: edges.counts.seen)
    assert edges.counts.seen == [("CreateService", False)]
    assert edges.created == []
    told = [vars(record) for record in caplog.records if record.name == "warren.api"]
    assert [(each["levelname"], each["method"]) for each in told] == [("WARNING", "CreateService")]
    assert told[0]["request_id"] == "abc-2"
    assert told[0]["identity"] == "local"
    assert told[0]["duration_ms"] > 0


@pytest.mark.parametrize("name", ["", "a b", "x" * 81, 'a"b', "a\tb"])
def test_a_name_that_a_log_could_trip_over_is_not_taken(name: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", rpc.request_id_of({rpc.REQUEST_ID_KEY: name}))
    assert rpc.request_id_of({rpc.REQUEST_ID_KEY: "x" * 80}) == "x" * 80


@pytest.mark.parametrize("size_mib", [5, 100])
async def test_a_message_too_large_names_the_limit(edges: Edges, size_mib: int) -> None:
    request = api_pb2.CreateServiceRequest()
    request.spec.container.command.append("x" * (size_mib << 20))
    code, refusal = await refusal_of(edges.manager.CreateService(request, timeout=30))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.code == "too_large"
    assert "4,194,304" in refusal.message
    assert edges.core.calls == []


async def test_a_request_that_is_cut_reaches_the_core_as_it_is(edges: Edges) -> None:
    """Whether it can be read is the core's to say; nothing in between trips over it."""
    call = edges.channel.unary_unary(rpc.MANAGER["CreateService"].path)
    await call(b"\x12\xff\xff", timeout=5)
    assert edges.core.calls[0][1] == b"\x12\xff\xff"


async def test_streams_end_with_the_cores_word(edges: Edges) -> None:
    watch = edges.manager.WatchService(api_pb2.WatchServiceRequest(), timeout=5)
    assert [item.running async for item in watch] == [1]
    edges.core.refuse["WatchService"] = WarrenError("not_found", "no such service")
    with pytest.raises(grpc.RpcError) as caught:
        _ = [item async for item in edges.manager.WatchService(api_pb2.WatchServiceRequest())]
    assert rpc.failure(caught.value).code == "not_found"


# Sessions


class Counter:
    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount


class Worker:
    """A session with a real board and store; nothing is run."""

    def __init__(self, edges: Edges, path: Path) -> None:
        store = Store.open(path)
        self.journal = Journal(store)
        self.board = Board(store.load(), self.journal)
        self.outbox = Outbox()
        self.description = pb.NodeDescription(name="n1")
        self.reconnects = Counter()
        self.managers = Managers(edges.channel)
        self.session = Session(
            route=Route(lambda: ["one:1", "two:1"], lambda: "", "", lambda: 0.0),
            managers=self.managers,
            manages=lambda: False,
            node_id=NODE,
            board=self.board,
            journal=self.journal,
            outbox=self.outbox,
            describe=self._describe,
            observed=list,
            random=lambda: 0.0,
            reconnects=self.reconnects,
        )
        self.tasks = [
            asyncio.create_task(self.journal.run()),
            asyncio.create_task(self.session.run()),
        ]

    async def _describe(self) -> pb.NodeDescription:
        return self.description

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.journal.close()


@pytest.fixture
async def worker(edges: Edges, tmp_path: Path) -> AsyncIterator[Worker]:
    worker = Worker(edges, tmp_path / "worker.db")
    yield worker
    await worker.close()


async def until(probe: Any) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not probe():  # noqa: ASYNC110 - a condition with a deadline
            await asyncio.sleep(0.005)


async def heard(edges: Edges, kind: str) -> session_pb2.WorkerMessage:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            message = await edges.core.from_worker.get()
            if message.WhichOneof("body") == kind:
                return message


def the_set(*numbers: int) -> session_pb2.ManagerMessage:
    message = session_pb2.Assignments(complete=True, revision=pb.Revision(epoch=1, index=9))
    for number in numbers:
        message.upsert.add(
            container_id=bytes([number]) * 16, spec_digest=b"d", desired=pb.DESIRED_STATE_RUN
        )
    message.specs.add(digest=b"d", spec=pb.ContainerSpec())
    message.set_hash = sum(map(status.set_hash_term, message.upsert)) % (1 << 64)
    return session_pb2.ManagerMessage(assignments=message)


async def test_hello_assignments_reports_heartbeats(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    assert edges.core.sessions[0].node_id == bytes.fromhex(NODE)
    assert edges.core.sessions[0].description.name == "n1"
    assert edges.sessions == 1
    await edges.core.to_worker.put(the_set(1, 2))
    await until(lambda: len(worker.board.assignments) == 2)
    assert worker.board.set_known
    for attempt in (1, 2, 3):
        worker.outbox.put("01" * 16, Memory(attempt=attempt, state=pb.CONTAINER_STATE_RUNNING))
    report = await heard(edges, "report")
    assert [item.status.attempt for item in report.report.items] == [3]
    await heard(edges, "heartbeat")


async def test_a_wrong_hash_asks_for_everything(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    delta = the_set(1)
    delta.assignments.complete = False
    delta.assignments.set_hash += 1
    await edges.core.to_worker.put(delta)
    await heard(edges, "resync")


async def test_a_lost_session_comes_back_and_tells_everything(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    await edges.core.to_worker.put(the_set(1))
    await until(lambda: worker.board.set_known)
    worker.board.remember("01" * 16, Memory(attempt=4, state=pb.CONTAINER_STATE_RUNNING))
    await edges.core.to_worker.put(None)
    await until(lambda: len(edges.core.sessions) == 2)
    await until(lambda: worker.session.connected)
    hello = edges.core.sessions[1]
    assert [(item.status.attempt, item.container_id) for item in hello.observed] == [
        (4, b"\x01" * 16)
    ]
    assert hello.set_hash == worker.board.set_hash
    assert hello.last_revision == pb.Revision(epoch=1, index=9)
    assert (hello.fence_epoch, hello.fence_term) == (1, 3)
    assert worker.reconnects.value == 1
    await until(lambda: edges.sessions == 1)


async def test_a_report_that_is_refused_ends_the_session(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    edges.core.refuse["SessionMessage"] = WarrenError("no_space", "no space left")
    worker.outbox.put("01" * 16, Memory(attempt=1, state=pb.CONTAINER_STATE_FAILED))
    await until(lambda: len(edges.core.sessions) >= 2)
    edges.core.refuse.clear()
    await until(lambda: worker.session.connected)


async def test_a_leader_of_the_past_is_not_obeyed(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    assert worker.board.obey(Fence(1, 8))
    await edges.core.to_worker.put(None)
    await until(lambda: "led in the past" in worker.session.problem)
    edges.core.term = 8
    await until(lambda: worker.session.connected)


async def test_publish_waits_until_the_managers_know(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    worker.description = pb.NodeDescription(
        name="n1", images=[pb.NodeImage(reference="tiny", digest="sha256:1")]
    )
    assert not await worker.session.publish(DEADLINE_S)
    assert edges.core.description == worker.description
    edges.core.refuse["GetNode"] = WarrenError("no_leader", "no leader")
    assert "not confirmed it" in await worker.session.publish(0.2)


async def test_no_manager_is_waited_for(tmp_path: Path) -> None:
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/none") as channel:
        worker = Worker(Edges(ScriptedCore(), Counts(), channel), tmp_path / "worker.db")
        await until(lambda: len(worker.managers.dialled) >= 3)
        assert not worker.session.connected
        assert worker.reconnects.value == 0, "nobody has welcomed it"
        await until(lambda: "nobody is at" in worker.session.problem)
        # Each in its turn, whoever began.
        assert set(worker.managers.dialled) == {"one:1", "two:1"}
        await worker.close()


async def test_the_one_who_leads_is_turned_to_at_once(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    edges.core.refuse["Session"] = WarrenError("not_leader", "another one leads", "three:1")
    await edges.core.to_worker.put(None)
    await until(lambda: worker.managers.dialled.count("three:1") == REDIRECTS_MAX)
    assert worker.reconnects.value == 0, "nobody has welcomed it again"
    edges.core.refuse.clear()
    await until(lambda: worker.session.connected)
    assert worker.reconnects.value == 1, "redirected or not"


async def test_what_is_said_of_managers_is_passed_on(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    assert worker.managers.heard == []  # of a release that does not say
    edges.core.managers = session_pb2.Managers(api_addresses=["a:1"])
    await edges.core.to_worker.put(None)
    await until(lambda: worker.managers.heard == [edges.core.managers])
    changed = session_pb2.Managers(api_addresses=["a:1", "b:1"])
    await edges.core.to_worker.put(session_pb2.ManagerMessage(managers=changed))
    await until(lambda: worker.managers.heard[-1] == changed)


async def test_acknowledged_is_what_was_sent_before(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.last_acknowledged_s is not None)
    first = worker.session.last_acknowledged_s
    assert first is not None
    assert first < time.clock_gettime(time.CLOCK_BOOTTIME)
    await until(lambda: (worker.session.last_acknowledged_s or 0) > first)
    assert worker.session.clock is not None
    assert abs(worker.session.clock.ahead - 90) <= worker.session.clock.error


async def test_a_silent_manager_is_left(edges: Edges, worker: Worker) -> None:
    edges.core.managers = session_pb2.Managers()
    edges.core.acknowledges = False
    await until(lambda: "acknowledged no heartbeat" in worker.session.problem)
    edges.core.acknowledges = True
    await until(lambda: worker.session.connected)


async def test_a_removal_is_believed_when_it_is_said_again(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    edges.core.refuse["Session"] = WarrenError("node_removed", "this node was removed")
    await edges.core.to_worker.put(None)
    await until(lambda: worker.managers.why_removed == "this node was removed")
    assert len(edges.core.sessions) == 1 + REMOVED_ANSWERS


async def test_a_session_begins_with_a_hello(edges: Edges) -> None:
    call = rpc.Stub(edges.channel, rpc.DISPATCHER).Session(timeout=5)
    await call.write(session_pb2.WorkerMessage(heartbeat=session_pb2.Heartbeat()))
    with pytest.raises(grpc.RpcError) as caught:
        await call.read()
    assert rpc.failure(caught.value).code == "invalid"
    assert edges.core.sessions == []


async def test_the_cores_stream_ends_with_the_workers(edges: Edges, worker: Worker) -> None:
    await until(lambda: worker.session.connected)
    await worker.close()
    await until(lambda: edges.core.ended == 1)
    await until(lambda: edges.sessions == 0)


async def test_a_session_that_breaks_while_it_is_cancelled_ends(
    edges: Edges, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = asyncio.Event()

    async def breaks_when_cancelled(_: Any) -> None:
        try:
            reading.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise SessionEndedError("at the same moment") from None

    await until(lambda: worker.session.connected)
    monkeypatch.setattr(worker.session, "_read", breaks_when_cancelled)
    worker.session.begin_anew()
    await asyncio.wait_for(reading.wait(), DEADLINE_S)
    await until(lambda: worker.session.connected)
    session = worker.tasks[1]
    session.cancel()
    await asyncio.wait({session}, timeout=DEADLINE_S)
    assert session.cancelled()


def test_pauses_double_to_five_seconds_and_spread() -> None:
    assert [reconnect_pause_s(n, 1.0) for n in (1, 2, 3, 9)] == [0.2, 0.4, 0.8, 5.0]
    assert reconnect_pause_s(9, 0.0) == 2.5

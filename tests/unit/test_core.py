"""The core through its Python side: awaitables, streams, refusals, the end."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from warren import _core
from warren.core import CODES, Core, Identity, PeerSettings, parse_identity
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, commands_pb2, objects_pb2, session_pb2

NODE_ID = "1f" * 16
TIMEOUT_S = 10.0
LOCAL = "local"
Lines = list[tuple[str, str, str, bytes, int | None]]


@asynccontextmanager
async def opened(raft_dir: Path, lines: Lines | None = None) -> AsyncIterator[Core]:
    taken: Lines = [] if lines is None else lines
    core = await Core.open(
        raft_dir=raft_dir,
        node_id=NODE_ID,
        node_name="one",
        advertise_addr="",
        segment_bytes=1 << 20,
        log=lambda *line: taken.append(line),
    )
    try:
        yield core
    finally:
        await core.close()


async def init(core: Core) -> None:
    request = api_pb2.InitClusterRequest().SerializeToString()
    await core.call(LOCAL, "InitCluster", request, TIMEOUT_S)


def hello() -> bytes:
    image = objects_pb2.NodeImage(
        reference="docker.io/library/app:latest", digest="sha256:" + "a" * 64, size_bytes=1
    )
    description = objects_pb2.NodeDescription(
        name="one",
        capacity=objects_pb2.Resources(cpu_milli=4000, memory_bytes=1 << 32),
        images=[image],
    )
    node_id = bytes.fromhex(NODE_ID)
    return session_pb2.Hello(node_id=node_id, description=description).SerializeToString()


def create(name: str, replicas: int = 0) -> bytes:
    spec = objects_pb2.ServiceSpec(
        name=name,
        mode=objects_pb2.SERVICE_MODE_REPLICATED,
        replicas=replicas,
        container=objects_pb2.ContainerSpec(image="app"),
    )
    request_id = commands_pb2.RequestId(client=os.urandom(16), sequence=1)
    return api_pb2.CreateServiceRequest(request=request_id, spec=spec).SerializeToString()


async def services(core: Core) -> list[str]:
    answer = await core.call(LOCAL, "ListServices", b"", TIMEOUT_S)
    listed = api_pb2.ListServicesResponse.FromString(answer).services
    return [view.service.spec.name for view in listed]


async def test_before_init_calls_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        assert core.status()["in_cluster"] is False
        with pytest.raises(WarrenError, match="warrenctl cluster init") as refused:
            await core.call(LOCAL, "ListServices", b"", TIMEOUT_S)
        assert refused.value.code == "not_in_cluster"
        with pytest.raises(WarrenError) as ended:
            await anext(core.stream(LOCAL, "Session", hello()))
        assert ended.value.code == "not_in_cluster"


class Saying:
    """In place of the compiled core: one that has these lines for the log."""

    def __init__(self, *lines: bytes) -> None:
        self.lines = list(lines)
        self.event_fd = os.eventfd(1)

    def fileno(self) -> int:
        return self.event_fd

    def set_verbose(self, verbose: bool) -> None:
        pass

    def drain(self, limit: int) -> list[tuple[int, int, bytes]]:
        os.eventfd_read(self.event_fd)
        return [(0, _core.KIND_LOG, line) for line in self.lines]


async def test_a_line_of_the_core_is_told_with_when_it_was_said() -> None:
    told: Lines = []
    both = asyncio.Event()

    def log(*line: Any) -> None:
        told.append(line)
        if len(told) == 2:
            both.set()

    saying: Any = Saying(
        b'{"level":"info","time_ms":1700000000123,"component":"raft","message":"one","term":"7"}',
        # An older core.
        b'{"level":"info","component":"raft","message":"two"}',
    )
    Core(saying, log, {})
    try:
        await asyncio.wait_for(both.wait(), TIMEOUT_S)
    finally:
        asyncio.get_running_loop().remove_reader(saying.event_fd)
        os.close(saying.event_fd)
    assert told == [
        ("info", "raft", "one", b'{"term":"7"}', 1_700_000_000_123),
        ("info", "raft", "two", b"", None),
    ]


async def test_what_was_created_is_there_after_reopening(tmp_path: Path) -> None:
    lines: Lines = []
    async with opened(tmp_path, lines) as core, aclosing(_session(core)) as session:
        await init(core)
        assert core.status()["leader"] is True
        await anext(session)
        await anext(session)
        await asyncio.gather(
            *(core.call(LOCAL, "CreateService", create(f"s{n}"), TIMEOUT_S) for n in range(100))
        )
        before = await services(core)
    assert len(before) == 100
    assert ("info", "control", "leading in term 2", b"") in [line[:4] for line in lines]
    async with opened(tmp_path) as core:
        status = core.status()
        assert (status["leader"], status["term"], status["no_space"]) == (True, 3, False)
        assert await services(core) == before


async def _session(core: Core) -> AsyncIterator[session_pb2.ManagerMessage]:
    async with aclosing(core.stream(LOCAL, "Session", hello())) as items:
        async for item in items:
            message = session_pb2.ManagerMessage.FromString(item)
            # Who manages is told whenever it changes, as when a founder writes down its own record.
            if not message.HasField("managers"):
                yield message


async def test_a_session_is_told_what_it_is_assigned_and_reports_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        await init(core)
        async with aclosing(_session(core)) as session:
            welcome = (await anext(session)).welcome
            whole = (await anext(session)).assignments
            assert (whole.complete, len(whole.upsert)) == (True, 0)
            answer = await core.call(LOCAL, "CreateService", create("web", 3), TIMEOUT_S)
            service_id = api_pb2.CreateServiceResponse.FromString(answer).service_id
            change = (await anext(session)).assignments
            assert (change.complete, len(change.upsert), len(change.specs)) == (False, 3, 1)
            running = objects_pb2.ContainerStatus(
                attempt=1, state=objects_pb2.CONTAINER_STATE_RUNNING
            )
            items = [
                commands_pb2.StatusItem(container_id=assignment.container_id, status=running)
                for assignment in change.upsert
            ]
            report = session_pb2.WorkerMessage(report=session_pb2.StatusReport(items=items))
            body = welcome.session_id + report.SerializeToString()
            await core.call(LOCAL, "SessionMessage", body, TIMEOUT_S)
            request = api_pb2.WatchServiceRequest(service_id=service_id).SerializeToString()
            async with aclosing(core.stream(LOCAL, "WatchService", request)) as watch:
                progress = api_pb2.ServiceProgress.FromString(await anext(watch))
            assert (progress.running, progress.desired) == (3, 3)
        with pytest.raises(WarrenError) as stale:
            await _until_refused(core, body)
        assert stale.value.code == "stale_session"


async def test_who_reads_slowly_skips_to_the_newest(tmp_path: Path) -> None:
    async with opened(tmp_path) as core, aclosing(_session(core)) as session:
        await init(core)
        await anext(session)
        # The node and its images are known with the first assignments, not with the welcome.
        await anext(session)
        answer = await core.call(LOCAL, "CreateService", create("web"), TIMEOUT_S)
        made = api_pb2.CreateServiceResponse.FromString(answer)
        request = api_pb2.WatchServiceRequest(service_id=made.service_id).SerializeToString()
        async with aclosing(core.stream(LOCAL, "WatchService", request)) as watch:
            await anext(watch)
            spec = api_pb2.CreateServiceRequest.FromString(create("web")).spec
            version = made.version
            for spec.replicas in range(2, 22):
                update = api_pb2.UpdateServiceRequest(
                    service_id=made.service_id, expected_version=version, spec=spec
                )
                answer = await core.call(
                    LOCAL, "UpdateService", update.SerializeToString(), TIMEOUT_S
                )
                version = api_pb2.UpdateServiceResponse.FromString(answer).version
            seen = []
            while not seen or seen[-1] != 21:
                seen.append(api_pb2.ServiceProgress.FromString(await anext(watch)).desired)
    # What waited when the first change came, and the newest; one more while it settles.
    assert len(seen) <= 3


async def _until_refused(core: Core, body: bytes) -> None:
    """The end of a session reaches the core a moment after its reader has gone."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            await core.call(LOCAL, "SessionMessage", body, TIMEOUT_S)


async def test_a_cancelled_await_does_not_cancel_the_work(tmp_path: Path) -> None:
    async with opened(tmp_path) as core, aclosing(_session(core)) as session:
        await init(core)
        await anext(session)
        await anext(session)
        call = asyncio.ensure_future(core.call(LOCAL, "CreateService", create("web"), TIMEOUT_S))
        await asyncio.sleep(0)
        call.cancel()
        async with asyncio.timeout(TIMEOUT_S):
            while await services(core) != ["web"]:
                pass
        assert call.cancelled()


async def test_too_much_at_once_is_refused_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        calls = [core.call(LOCAL, "Ping", b"", TIMEOUT_S) for _ in range(_core.CALLS_MAX + 100)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, WarrenError)]
        assert {error.code for error in refused} == {"overloaded"}
        assert answers.count(b"") >= _core.CALLS_MAX
        assert await core.call(LOCAL, "Ping", b"", TIMEOUT_S) == b""
        body = bytes(_core.REQUEST_BYTES_MAX + 1)
        with pytest.raises(WarrenError) as too_large:
            await core.call(LOCAL, "CreateService", body, TIMEOUT_S)
        assert too_large.value.code == "too_large"


async def test_closing_refuses_what_waits_and_what_comes(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        await init(core)
        session = _session(core)
        await anext(session)
        await anext(session)
        waiting = asyncio.ensure_future(anext(session))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await core.close()
        with pytest.raises(WarrenError) as ended:
            await waiting
        with pytest.raises(WarrenError) as refused:
            await core.call(LOCAL, "Ping", b"", TIMEOUT_S)
        assert ended.value.code == refused.value.code == "shutting_down"
        core.pulse()
        assert core.status()["in_cluster"] is True


async def test_a_damaged_log_refuses_to_open(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        await init(core)
    # A clean end: nothing in the log may be cut.
    segment = min(path for path in (tmp_path / "wal").iterdir() if any(path.read_bytes()[4096:]))
    content = bytearray(segment.read_bytes())
    content[4096 + 20] ^= 1
    segment.write_bytes(content)
    with pytest.raises(WarrenError, match=re.escape(str(segment))) as refused:
        async with opened(tmp_path):
            pass
    assert refused.value.code == "log_damaged"


async def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        child = os.fork()
        if child == 0:
            try:
                core.pulse()
            except _core.CoreError as error:
                os._exit(7 if "fork" in str(error) else 8)
            os._exit(9)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 7


async def test_metrics_are_series_of_the_catalogue(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        await init(core)
        expected = (
            'warren_nodes_total{role="manager",status="ready"} 1',
            "warren_raft_is_leader 1",
            "warren_raft_peers_total 1",
            "warren_services_total 0",
            "warren_reconciler_missed_total 0",
            "warren_reconciler_frozen 0",
            'warren_containers_total{state="running"} 0',
        )
        # What is counted from the state follows it within a tenth of a second.
        async with asyncio.timeout(TIMEOUT_S):
            while not all(  # noqa: ASYNC110 - no event tells it
                f"{series}\n" in core.metrics(fine=False).decode() for series in expected
            ):
                await asyncio.sleep(0.01)
        text = core.metrics(fine=False).decode()
        names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert len(names) == len(set(names))


def test_codes_cross_whole() -> None:
    assert len(CODES) == len(set(CODES)) > 20
    assert {"not_in_cluster", "overloaded", "log_damaged", "no_space"} <= set(CODES)


MEMBERSHIP: dict[str, Any] = {"cluster_id": b"c" * 16, "epoch": 1, "data_dir": b"d" * 16}


async def test_a_core_without_cluster_goes_on_as_a_member(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        assert core.status()["is_member"] is False
        waiting = asyncio.ensure_future(anext(core.stream(LOCAL, "WatchServices", b"")))
        await core.join(member_id=2, **MEMBERSHIP)
        assert core.status()["is_member"] is True
        with pytest.raises(WarrenError):
            await waiting
        # It answers, through the new eventfd; nobody has told it who leads.
        with pytest.raises(WarrenError) as refused:
            await core.call(LOCAL, "ListServices", b"", 1.0)
        assert refused.value.code in {"no_leader", "no_quorum", "outcome_unknown"}
        with pytest.raises(WarrenError) as refused:
            await core.join(member_id=2, **MEMBERSHIP)
        assert refused.value.code == "already_in_cluster"
    async with opened(tmp_path) as core:
        assert core.status()["is_member"] is True


async def test_a_core_that_cannot_join_is_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        with pytest.raises(WarrenError, match="no member has id 0") as refused:
            await core.join(member_id=0, **MEMBERSHIP)
        assert refused.value.code == "invalid"
        await init(core)
        assert await services(core) == []


async def test_a_join_that_nobody_awaits_any_more_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as core:
        joining = asyncio.ensure_future(core.join(member_id=2, **MEMBERSHIP))
        code = ""
        while code != "no_leader":
            with pytest.raises(WarrenError) as refused:
                await core.call(LOCAL, "ListServices", b"", TIMEOUT_S)
            code = refused.value.code
        joining.cancel()
    # Closing waits for it.
    assert core.status()["is_member"] is True


async def test_without_a_certificate_no_port_is_opened(tmp_path: Path) -> None:
    ca, cert, key = (tmp_path / f"{name}.pem" for name in ("ca", "cert", "key"))
    peers = PeerSettings(listen="127.0.0.1:0", address="127.0.0.1:1", ca=ca, cert=cert, key=key)
    arguments: dict[str, Any] = {
        "raft_dir": tmp_path,
        "node_id": NODE_ID,
        "node_name": "one",
        "advertise_addr": "",
        "segment_bytes": 1 << 20,
        "log": lambda *_: None,
    }
    with pytest.raises(WarrenError, match=r"cannot use .*ca\.pem: No such file") as refused:
        await Core.open(**arguments, peers=peers)
    assert refused.value.code == "data_dir"
    with pytest.raises(WarrenError, match="say ADDRESS:PORT") as refused:
        await Core.open(**arguments, peers=msgspec.structs.replace(peers, listen="localhost"))
    assert refused.value.code == "invalid"
    with pytest.raises(_core.CoreError, match="some are missing"):
        _core.Core.open(tmp_path, bytes(16), "one", "", 1 << 20, peer_listen="127.0.0.1:0")


def test_an_identity_is_parsed() -> None:
    assert parse_identity("spiffe://c.example/client/ci") == Identity("c.example", "client", "ci")
    with pytest.raises(WarrenError, match="the roles are manager, worker and client") as refused:
        parse_identity("spiffe://c/root/x")
    assert refused.value.code == "invalid"

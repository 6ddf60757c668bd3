"""Between hosts: who calls is who the certificate says, and any manager answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.support.certificates import Authority, node_id
from warren import rpc
from warren.channels import Channels
from warren.errors import WarrenError
from warren.manager import api, forward
from warren.manager.forward import Forwarder
from warren.manager.identity import by_certificate, peer_of
from warren.pb.v1 import api_pb2
from warren.tls import Credentials
from warren.tls_files import Files

ADDRESS = "127.0.0.1:0"


class Core:
    """Notes who asks; what it answers, the test says."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, bool]] = []
        self.refuse: list[WarrenError] = []
        self.hang = False
        self.go_on = asyncio.Event()

    async def call(
        self, identity: str, method: str, body: bytes, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        self.calls.append((identity, method, stale))
        if self.hang:
            await asyncio.Event().wait()
        if self.refuse:
            raise self.refuse.pop(0)
        return api_pb2.CreateServiceResponse(version=7).SerializeToString()

    async def stream(self, identity: str, method: str, body: bytes) -> AsyncGenerator[bytes, None]:
        self.calls.append((identity, method, False))
        if self.refuse:
            raise self.refuse.pop(0)
        for running in (1, 2):
            yield api_pb2.ServiceProgress(running=running).SerializeToString()
            if self.hang:
                await self.go_on.wait()


class Counts:
    def __init__(self) -> None:
        self.forwarded: list[bool] = []

    def method(self, name: str) -> Any:
        return self

    def record(self, seconds: float = 0, request_id: str = "", *, ok: bool) -> None:
        self.forwarded.append(ok)


class Forwards(Counts):
    pass


class Manager:
    """The API of one manager, served with a certificate."""

    def __init__(self, files: Files) -> None:
        self.core = Core()
        self.forwards = Forwards()
        self.credentials = Credentials(files)
        self.channels = Channels(self.credentials)
        self.term = 1
        self.forwarder = Forwarder(self.core, self.channels, self.forwards, lambda: self.term)
        self.server = grpc.aio.server(options=rpc.SERVER_OPTIONS)
        self.address = ""

    async def start(self) -> None:
        identify = by_certificate(self.credentials.identity.trust_domain)
        self.server.add_generic_rpc_handlers(
            (api.service(self.forwarder, identify, Counts(), {}, {}, {}),)
        )
        port = self.server.add_secure_port(ADDRESS, self.credentials.server())
        self.address = f"127.0.0.1:{port}"
        await self.server.start()

    async def stop(self) -> None:
        await self.channels.close()
        await self.server.stop(None)


class Fleet:
    """Two managers, and clients of any kind."""

    def __init__(self, authority: Authority, stack: AsyncExitStack) -> None:
        self.authority = authority
        self.stack = stack
        self.follower = Manager(authority.manager(node_id(1)))
        self.leader = Manager(authority.manager(node_id(2)))

    def stub(self, manager: Manager, files: Files) -> rpc.Stub:
        channels = Channels(Credentials(files))
        self.stack.push_async_callback(channels.close)
        return rpc.Stub(channels.get(manager.address), rpc.MANAGER)

    def not_leader(self, address: str | None = None) -> WarrenError:
        where = self.leader.address if address is None else address
        return WarrenError("not_leader", "another one leads", where)


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        fleet = Fleet(Authority(tmp_path / "ca"), stack)
        for manager in (fleet.follower, fleet.leader):
            await manager.start()
            stack.push_async_callback(manager.stop)
        yield fleet


async def refusal_of(call: Any) -> WarrenError:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return rpc.failure(caught.value)


CREATE = api_pb2.CreateServiceRequest()
GET = api_pb2.GetClusterRequest()


async def test_who_calls_is_who_the_certificate_says(fleet: Fleet) -> None:
    issue = fleet.authority
    for files, who in (
        (issue.client("ann"), "client/ann"),
        (issue.worker(node_id(3)), f"worker/{node_id(3)}"),
        (issue.manager(node_id(4)), f"manager/{node_id(4)}"),
    ):
        await fleet.stub(fleet.leader, files).CreateService(CREATE, timeout=5)
        assert fleet.leader.core.calls[-1] == (who, "CreateService", False)


async def test_strangers_do_not_get_in(fleet: Fleet, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    stranger = fleet.stub(fleet.leader, other.client())
    assert (await refusal_of(stranger.CreateService(CREATE, timeout=5))).code == "unavailable"
    # Of the same CA, another cluster.
    elsewhere = fleet.authority.issue("client", "ann", uris=["spiffe://other.warren/client/ann"])
    options = [("grpc.ssl_target_name_override", "manager.test.warren")]
    credentials = Credentials(elsewhere).material().channel_credentials()
    async with grpc.aio.secure_channel(fleet.leader.address, credentials, options) as channel:
        call = rpc.Stub(channel, rpc.MANAGER).CreateService(CREATE, timeout=5)
        assert (await refusal_of(call)).code == "denied"
    async with grpc.aio.insecure_channel(fleet.leader.address) as channel:
        call = rpc.Stub(channel, rpc.MANAGER).CreateService(CREATE, timeout=5)
        assert (await refusal_of(call)).code == "unavailable"
    assert fleet.leader.core.calls == []


async def test_a_worker_is_taken_for_no_manager(fleet: Fleet) -> None:
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    for uses, why in (
        (both, "has a worker's certificate"),
        ([ExtendedKeyUsageOID.CLIENT_AUTH], "has no manager's certificate"),
    ):
        worker = Credentials(fleet.authority.issue("worker", node_id(5), uses=uses))
        server = grpc.aio.server()
        port = server.add_secure_port(ADDRESS, worker.server())
        await server.start()
        channels = Channels(Credentials(fleet.authority.client()))
        address = f"127.0.0.1:{port}"
        ping = rpc.Stub(channels.get(address), rpc.MANAGER).Ping(api_pb2.PingRequest(), timeout=5)
        refused = (await refusal_of(ping)).code
        explained = await channels.explain(address)
        await channels.close()
        await server.stop(None)
        assert refused == "unavailable"
        assert why in explained


async def test_why_nobody_answers_is_found_out(fleet: Fleet, tmp_path: Path) -> None:
    channels = Channels(Credentials(fleet.authority.client()))
    assert await channels.explain(fleet.leader.address) == ""
    assert "nothing listens at 127.0.0.1:1" in await channels.explain("127.0.0.1:1")
    assert "no address is known" in await channels.explain("no-such-host.invalid:2377")
    other = Manager(Authority(tmp_path / "other").manager(node_id(6)))
    await other.start()
    assert "not of this cluster's CA" in await channels.explain(other.address)
    await other.stop()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await writer.drain()
        writer.close()

    plain = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = plain.sockets[0].getsockname()[1]
    assert "is no manager's API" in await channels.explain(f"127.0.0.1:{port}")
    plain.close()
    await channels.close()


async def test_only_managers_speak_for_others(fleet: Fleet) -> None:
    behalf = ((rpc.ON_BEHALF_KEY, "local"),)
    manager = fleet.stub(fleet.leader, fleet.authority.manager(node_id(1)))
    await manager.CreateService(CREATE, timeout=5, metadata=behalf)
    assert fleet.leader.core.calls == [("local", "CreateService", False)]
    for files in (fleet.authority.client(), fleet.authority.worker(node_id(3))):
        call = fleet.stub(fleet.leader, files).CreateService(CREATE, timeout=5, metadata=behalf)
        assert (await refusal_of(call)).code == "denied"
    assert len(fleet.leader.core.calls) == 1


async def test_what_only_the_leader_can_do_is_forwarded(fleet: Fleet) -> None:
    fleet.follower.core.refuse = [fleet.not_leader()]
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    assert (await ann.CreateService(CREATE, timeout=5)).version == 7
    assert fleet.leader.core.calls == [("client/ann", "CreateService", False)]
    assert fleet.follower.forwards.forwarded == [True]
    assert fleet.follower.forwarder.under_way == 0

    fleet.follower.core.refuse = [fleet.not_leader()]
    watch = ann.WatchService(api_pb2.WatchServiceRequest(), timeout=5)
    assert [item.running async for item in watch] == [1, 2]
    assert fleet.leader.core.calls[-1] == ("client/ann", "WatchService", False)

    fleet.follower.core.refuse = [fleet.not_leader()]
    fleet.leader.core.refuse = [WarrenError("name_taken", "there is one")]
    assert (await refusal_of(ann.CreateService(CREATE, timeout=5))).code == "name_taken"


async def test_a_request_keeps_its_name_on_the_way(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "warren.api")
    stub = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    for metadata in (((rpc.REQUEST_ID_KEY, "abc-1"),), None):
        caplog.clear()
        fleet.follower.core.refuse = [fleet.not_leader()]
        await stub.CreateService(CREATE, timeout=5, metadata=metadata)
        fields = [vars(record) for record in caplog.records if record.name == "warren.api"]
        # First the leader, then who passed it on.
        assert [each.get("forwarded") for each in fields] == [True, None]
        assert {each["identity"] for each in fields} == {"client/ann"}
        [name] = {each["request_id"] for each in fields}
        assert (name == "abc-1") == (metadata is not None)
        assert name


async def test_a_lead_that_moves_is_followed(fleet: Fleet) -> None:
    fleet.follower.core.refuse = [fleet.not_leader(), fleet.not_leader()]
    fleet.leader.core.refuse = [fleet.not_leader("127.0.0.1:1")]
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    assert (await ann.CreateService(CREATE, timeout=5)).version == 7
    # What was forwarded to it once it does not pass on.
    assert len(fleet.leader.core.calls) == 2


async def test_no_quorum_and_no_leader_go_to_the_caller(fleet: Fleet) -> None:
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    for code in ("no_quorum", "no_leader", "not_leader"):
        fleet.follower.core.refuse = [WarrenError(code, "who is missing")]
        refusal = await refusal_of(ann.CreateService(CREATE, timeout=5))
        assert (refusal.code, refusal.message) == (code, "who is missing")
    assert fleet.leader.core.calls == []


async def test_a_leader_that_is_gone(fleet: Fleet) -> None:
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    fleet.follower.core.refuse = [fleet.not_leader("127.0.0.1:1")]
    assert (await refusal_of(ann.CreateService(CREATE, timeout=5))).code == "no_leader"

    fleet.follower.core.refuse = [fleet.not_leader()]
    fleet.leader.core.hang = True
    call = asyncio.ensure_future(refusal_of(ann.CreateService(CREATE, timeout=20)))
    await asked(fleet.leader)
    await fleet.leader.server.stop(None)
    assert (await call).code == "outcome_unknown"
    assert fleet.follower.forwards.forwarded == [False, False]


async def asked(manager: Manager, calls: int = 1) -> None:
    async with asyncio.timeout(10):
        while len(manager.core.calls) < calls:  # noqa: ASYNC110 - a condition with a deadline
            await asyncio.sleep(0.01)


async def test_a_connection_that_is_closed_here_is_told(fleet: Fleet) -> None:
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    fleet.leader.core.hang = True
    fleet.follower.core.refuse = [fleet.not_leader(), fleet.not_leader()]
    call = asyncio.ensure_future(refusal_of(ann.CreateService(CREATE, timeout=20)))
    await asked(fleet.leader)
    watch = ann.WatchService(api_pb2.WatchServiceRequest(), timeout=20)
    assert (await watch.read()).running == 1
    await fleet.follower.channels.close()
    async with asyncio.timeout(5):
        assert (await call).code == "outcome_unknown"
        assert (await refusal_of(watch.read())).code == "no_leader"
    assert fleet.follower.forwards.forwarded == [False, False]


async def test_a_watch_goes_on_through_a_renewal_of_certificates(fleet: Fleet) -> None:
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    fleet.leader.core.hang = True
    fleet.follower.core.refuse = [fleet.not_leader()]
    watch = ann.WatchService(api_pb2.WatchServiceRequest(), timeout=20)
    assert (await watch.read()).running == 1
    fleet.leader.core.hang = False
    fleet.authority.manager(node_id(1))
    fleet.follower.core.refuse = [fleet.not_leader()]
    await ann.CreateService(CREATE, timeout=5)
    assert fleet.follower.credentials.generation == 1
    fleet.leader.core.go_on.set()
    assert (await watch.read()).running == 2
    assert await watch.read() is grpc.aio.EOF


async def test_a_leader_that_is_silent_is_left_when_the_lead_moves(fleet: Fleet) -> None:
    fleet.leader.core.hang = True
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    for term, (method, request, code) in enumerate(
        (("CreateService", CREATE, "outcome_unknown"), ("GetCluster", GET, None)), start=2
    ):
        fleet.follower.core.refuse = [fleet.not_leader()]
        waiting = len(fleet.leader.core.calls) + 1
        call = asyncio.ensure_future(getattr(ann, method)(request, timeout=20))
        await asked(fleet.leader, waiting)
        fleet.follower.term = term
        if code is None:
            await call  # asked anew, and answered here
        else:
            assert (await refusal_of(call)).code == code


async def test_deadlines_go_along(fleet: Fleet) -> None:
    fleet.follower.core.refuse = [fleet.not_leader()]
    fleet.leader.core.hang = True
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    assert (await refusal_of(ann.CreateService(CREATE, timeout=0.3))).code == "outcome_unknown"


async def test_what_waits_for_the_leader_is_bounded(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "FORWARDS_MAX", 0)
    fleet.follower.core.refuse = [fleet.not_leader()]
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    assert (await refusal_of(ann.CreateService(CREATE, timeout=5))).code == "overloaded"


async def test_stale_reads_are_asked_for(fleet: Fleet) -> None:
    ann = fleet.stub(fleet.follower, fleet.authority.client("ann"))
    await ann.GetCluster(api_pb2.GetClusterRequest(), timeout=5, metadata=((rpc.STALE_KEY, "1"),))
    assert fleet.follower.core.calls == [("client/ann", "GetCluster", True)]


async def test_new_certificates_are_used_without_a_restart(fleet: Fleet) -> None:
    credentials = Credentials(fleet.authority.client("ann"))
    channels = Channels(credentials)
    before = channels.get(fleet.leader.address)
    assert channels.get(fleet.leader.address) is before
    fleet.authority.client("ann")
    fleet.authority.manager(node_id(2))
    after = channels.get(fleet.leader.address)
    assert after is not before
    await rpc.Stub(after, rpc.MANAGER).Ping(api_pb2.PingRequest(), timeout=5)
    assert fleet.leader.credentials.generation == 1
    await channels.close()


def test_older_tls_is_refused() -> None:
    properties = {
        "ssl_tls_version": [b"TLSv1.2"],
        "peer_spiffe_id": [b"spiffe://test.warren/client/ann"],
    }
    with pytest.raises(WarrenError, match="TLSv1"):
        peer_of(properties, "test.warren")
    properties["ssl_tls_version"] = [b"TLSv1.3"]
    assert peer_of(properties, "test.warren").identity == "client/ann"
    with pytest.raises(WarrenError, match="does not say whose"):
        peer_of({**properties, "peer_spiffe_id": []}, "test.warren")

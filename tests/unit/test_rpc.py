"""The method tables, refusals over a real channel, and the size limit's wording."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from warren import rpc
from warren.errors import PYTHON_CODES, WarrenError
from warren.pb.v1 import api_pb2

CORE_CODES = Path(__file__).parents[2] / "rust/warren_core/src/error.rs"


def core_codes() -> set[str]:
    source = CORE_CODES.read_text()
    listed = source.split("CODES: &'static [&'static str] = &[")[1].split("]")[0]
    return {line.strip(' ",\n') for line in listed.splitlines() if line.strip()}


def test_every_code_has_a_status_and_no_other_is_listed() -> None:
    assert set(rpc.STATUS_OF_CODE) == core_codes() | PYTHON_CODES


def test_an_unlisted_code_is_a_fault_of_ours() -> None:
    assert rpc.status_of("no such code") is grpc.StatusCode.INTERNAL


def test_tables_hold_paths_and_arity() -> None:
    assert rpc.MANAGER["CreateService"].path == "/warren.v1.Manager/CreateService"
    assert rpc.MANAGER["CreateService"].arity == "unary_unary"
    assert rpc.MANAGER["WatchService"].arity == "unary_stream"
    assert rpc.NODE_LOCAL["LoadImage"].arity == "stream_stream"
    assert rpc.MANAGER["Ping"].request is api_pb2.PingRequest
    assert rpc.DISPATCHER["Session"].service == "warren.v1.Dispatcher"


def test_a_service_must_have_every_function() -> None:
    with pytest.raises(ValueError, match="Session"):
        rpc.service(rpc.DISPATCHER, {})


async def _serve(
    path: Path, functions: dict[str, Any], options: rpc.Options = rpc.SERVER_OPTIONS, **more: Any
) -> grpc.aio.Server:
    server = grpc.aio.server(options=options, **more)
    methods = {name: rpc.MANAGER[name] for name in functions}
    server.add_generic_rpc_handlers((rpc.service(methods, functions, raw=True),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


async def _refuse(_request: bytes, context: Any) -> bytes:
    await rpc.abort(context, WarrenError("name_taken", "a service named `web` exists"))
    raise AssertionError("abort returned")


async def _answer(_request: bytes, _context: Any) -> bytes:
    return b""


async def _stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for running in range(3):
        yield api_pb2.ServiceProgress(running=running).SerializeToString()


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[rpc.Stub]:
    path = tmp_path / "s"
    functions = {"CreateService": _refuse, "Ping": _answer, "WatchService": _stream}
    server = await _serve(path, functions)
    async with grpc.aio.insecure_channel(f"unix:{path}", options=rpc.CLIENT_OPTIONS) as channel:
        yield rpc.Stub(channel, rpc.MANAGER)
    await server.stop(None)


async def test_a_refusal_arrives_with_status_code_and_sentence(stub: rpc.Stub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await stub.CreateService(api_pb2.CreateServiceRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    refusal = rpc.failure(caught.value)
    assert (refusal.code, str(refusal)) == ("name_taken", "a service named `web` exists")


async def test_unary_and_stream_calls(stub: rpc.Stub) -> None:
    assert await stub.Ping(api_pb2.PingRequest(), timeout=5) == api_pb2.PingResponse()
    seen = [item.running async for item in stub.WatchService(api_pb2.WatchServiceRequest())]
    assert seen == [0, 1, 2]


async def test_a_message_beyond_the_transport_limit_is_worded_here(stub: rpc.Stub) -> None:
    request = api_pb2.CreateServiceRequest()
    request.spec.container.command.append("x" * (100 << 20))
    with pytest.raises(grpc.RpcError) as caught:
        await stub.CreateService(request, timeout=30)
    refusal = rpc.failure(caught.value)
    assert refusal.code == "too_large"
    assert "4,194,304 bytes" in refusal.message


@pytest.mark.parametrize("side", ["server", "client"])
async def test_an_answer_that_is_too_large_is_not_the_callers_fault(
    tmp_path: Path, side: str
) -> None:
    async def large(_request: bytes, _context: Any) -> bytes:
        return bytes(2 << 20)

    path = tmp_path / "s"
    small = [(f"grpc.max_{'send' if side == 'server' else 'receive'}_message_length", 1 << 20)]
    server_options, client_options = (small, None) if side == "server" else ([], small)
    server = await _serve(path, {"GetCluster": large}, server_options)
    async with grpc.aio.insecure_channel(f"unix:{path}", options=client_options) as channel:
        stub = rpc.Stub(channel, rpc.MANAGER)
        with pytest.raises(grpc.RpcError) as caught:
            await stub.GetCluster(api_pb2.GetClusterRequest(), timeout=30)
    await server.stop(None)
    refusal = rpc.failure(caught.value, "GetCluster")
    assert refusal.code == "answer_too_large"
    assert "has 2,097,152 bytes" in refusal.message
    assert "limit is 1,048,576" in refusal.message


async def test_more_calls_than_a_server_takes_are_overload(tmp_path: Path) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait(_request: bytes, _context: Any) -> bytes:
        entered.set()
        await leave.wait()
        return b""

    path = tmp_path / "s"
    server = await _serve(path, {"Ping": wait}, maximum_concurrent_rpcs=1)
    async with grpc.aio.insecure_channel(f"unix:{path}", options=rpc.CLIENT_OPTIONS) as channel:
        stub = rpc.Stub(channel, rpc.MANAGER)
        first = asyncio.ensure_future(_awaited(stub.Ping(api_pb2.PingRequest(), timeout=30)))
        await entered.wait()
        with pytest.raises(grpc.RpcError) as caught:
            await stub.Ping(api_pb2.PingRequest(), timeout=30)
        leave.set()
        await first
    await server.stop(None)
    refusal = rpc.failure(caught.value, "Ping")
    assert refusal.code == "overloaded"
    assert "try again" in refusal.message


async def _awaited(call: Any) -> Any:
    return await call


async def test_an_unknown_method_and_no_server(stub: rpc.Stub, tmp_path: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await stub.GetNode(api_pb2.GetNodeRequest(), timeout=5)
    assert rpc.failure(caught.value).code == "unknown_method"
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/none") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await rpc.Stub(channel, rpc.MANAGER).Ping(api_pb2.PingRequest(), timeout=5)
    assert rpc.failure(caught.value).code == "unavailable"


def test_a_stub_names_what_it_lacks() -> None:
    channel = grpc.insecure_channel("unix:/nonexistent")
    with pytest.raises(AttributeError, match="Nope"):
        rpc.Stub(channel, rpc.MANAGER).Nope  # noqa: B018
    channel.close()

"""The HTTP server against slow, large, malformed, leaving and too many clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.observe.raw_http import GET, Client, Run, ask, serving
from warren.observe.http import (
    BadRequestError,
    Limits,
    Request,
    Response,
    parse_head,
)


def test_a_body_is_never_taken_for_a_request(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            for header in (b"Content-Length: 33", b"Transfer-Encoding: chunked"):
                for method, expected in ((b"POST", 405), (b"GET", 400)):
                    client = await Client.to(server)
                    client.send(method + b" /hello HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
                    client.send(GET)
                    status, headers, _ = await client.response()
                    assert (status, headers["connection"]) == (expected, "close")
                    assert await client.ended() == b""
                    await client.close()

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /hello\r\n\r\n",
        b"GET  /hello HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /hello HTTP/1.1 \r\nHost: x\r\n\r\n",
        b"GET /hello HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET /hel\x00lo HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET hello HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ftp://x/hello HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /hello HTTP/1.1\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 5\r\n\r\n",
    ],
)
def test_malformed_requests(data: bytes, run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            client = await Client.to(server)
            status, headers, body = await client.send(data).response()
            assert (status, headers["connection"]) == (400, "close")
            assert body.strip()
            assert await client.ended() == b""
            await client.close()
            assert server.refusals["400"] == 1

    run(main)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /hello HTTP/1.1\r\nHost: x\r\nCookie: " + b"c" * 9000,
        b"GET /hello HTTP/1.1\r\nHost: x\r\nCookie: " + b"c" * 9000 + b"\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"x" * 300_000,
    ],
)
def test_too_large_a_head(data: bytes, run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            client = await Client.to(server)
            status, _, body = await client.send(data).response()
            assert (status, b"8192" in body) == (431, True)
            # The client may go on sending; its bytes go nowhere, and no reset eats the answer.
            assert await client.send(b"y" * 1000).ended() == b""
            await client.close()

    run(main)


def test_a_head_that_just_fits(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            padding = 8192 - len(GET) - len(b"A: \r\n")
            fits = GET[:-2] + b"A: " + b"a" * padding + b"\r\n\r\n"
            assert len(fits) == 8192
            assert (await ask(server, fits))[0] == 200
            assert (await ask(server, fits.replace(b"A: ", b"A: a")))[0] == 431

    run(main)


@pytest.mark.parametrize("drip", [b"a", b"\r\n", b"A: b\r\n"])
def test_a_slow_head_is_cut(drip: bytes, run: Run) -> None:
    async def main() -> None:
        async with serving(Limits(head_timeout_ms=200)) as server:
            client = await Client.to(server)

            async def send_forever() -> None:
                while True:
                    client.send(drip)
                    await asyncio.sleep(0.005)

            sending = asyncio.create_task(send_forever())
            assert await client.ended() == b""
            sending.cancel()
            await client.close()
            assert server.refusals == {"timeout": 1}

    run(main)


def test_the_second_head_has_its_own_time(run: Run) -> None:
    async def main() -> None:
        async with serving(Limits(head_timeout_ms=200)) as server:
            client = await Client.to(server)
            await client.send(GET).response()
            client.send(b"GET /hel")
            assert await client.ended() == b""
            await client.close()
            assert server.refusals == {"timeout": 1}

    run(main)


@pytest.mark.parametrize("first", [b"", GET])
def test_a_silent_client_is_cut(first: bytes, run: Run) -> None:
    async def main() -> None:
        async with serving(Limits(head_timeout_ms=200, idle_timeout_ms=200)) as server:
            client = await Client.to(server)
            if first:
                await client.send(first).response()
            assert await client.ended() == b""
            await client.close()

    run(main)


def test_a_client_that_does_not_read_is_cut(run: Run) -> None:
    async def big(_request: Request) -> Response:
        return Response(HTTPStatus.OK, b"x" * 50_000_000)

    async def main() -> None:
        async with serving(Limits(write_timeout_ms=50), big=big) as server:
            client = await Client.to(server)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            client.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            while not server.refusals:  # noqa: ASYNC110 - bounded by the test's deadline
                await asyncio.sleep(0.001)
            assert server.refusals == {"timeout": 1}
            await client.close()

    run(main)


def test_a_client_that_leaves_stops_its_handler(run: Run) -> None:
    async def main() -> None:
        entered, left = asyncio.Event(), asyncio.Event()

        async def waiting(_request: Request) -> Response:
            entered.set()
            try:
                return await asyncio.Future()
            finally:
                left.set()

        async with serving(wait=waiting) as server:
            client = await Client.to(server)
            client.send(GET.replace(b"/hello", b"/wait"))
            await entered.wait()
            # A reset: an orderly close would look like a client that still reads.
            raw = client.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.writer.transport.abort()
            await left.wait()

    run(main)


def test_connections_are_limited(run: Run) -> None:
    async def main() -> None:
        async with serving(Limits(connections=3)) as server:
            clients = [await Client.to(server) for _ in range(3)]
            for client in clients:
                await client.send(GET).response()
            assert server.connections == 3
            fourth = await Client.to(server)
            assert (await fourth.response())[0] == 503
            assert await fourth.ended() == b""
            await fourth.close()
            assert server.refusals == {"connections": 1}
            await clients[0].close()
            while server.connections == 3:  # noqa: ASYNC110 - bounded by the test's deadline
                await asyncio.sleep(0.001)
            assert (await ask(server, GET))[0] == 200
            for client in clients[1:]:
                assert (await client.send(GET).response())[0] == 200
                await client.close()

    run(main)


@given(st.binary(max_size=300) | st.text("GET /HTP1.:x\r\nost", max_size=120).map(str.encode))
def test_parsing_refuses_or_understands(head: bytes) -> None:
    request = None
    with contextlib.suppress(BadRequestError):
        request = parse_head(head)
    if request is None:
        return
    assert isinstance(request, Request)
    assert request.path.startswith("/")


def test_random_bytes_do_not_hurt(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            for _ in range(60):
                client = await Client.to(server)
                client.send(os.urandom(400) + b"\r\n\r\n" + os.urandom(100))
                assert (await client.response())[0] == 400
                await client.close()
            assert (await ask(server, GET))[0] == 200

    run(main)

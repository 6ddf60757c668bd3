"""The HTTP server with clients that behave, its addresses, and the daemon's endpoints."""

from __future__ import annotations

import asyncio
import errno
import gzip
import http.client
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import pytest

from tests.unit.observe.raw_http import GET, Client, Run, ask, hello, serving
from warren.errors import StartupError
from warren.observe.endpoints import Works, declare_http, routes
from warren.observe.health import CheckResult, Health, Role
from warren.observe.http import (
    HttpServer,
    Limits,
    Request,
    Response,
    split_address,
)
from warren.observe.metrics import CONTENT_TYPE, Metrics, Scraper


def test_get_and_head(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            client = await Client.to(server)
            status, headers, body = await client.send(GET).response()
            assert (status, body) == (200, b'{"hello":1}')
            assert headers["content-type"] == "application/json"
            assert headers["connection"] == "keep-alive"
            client.send(GET.replace(b"GET", b"HEAD"))
            assert await client.response(head=True) == (200, headers, b"")
            # Nothing of a body may follow a HEAD's answer, or this one would be misread.
            assert await client.send(GET).response() == (200, headers, body)
            await client.close()

    run(main)


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"GET /hello?q=1 HTTP/1.1", 200),
        (b"GET http://x:9090/hello HTTP/1.1", 200),
        (b"GET / HTTP/1.1", 404),
        (b"GET /hello/ HTTP/1.1", 404),
        (b"GET /%68ello HTTP/1.1", 404),
        (b"POST /nowhere HTTP/1.1", 404),
        (b"POST /hello HTTP/1.1", 405),
        (b"DELETE /hello HTTP/1.1", 405),
        (b"BREW /hello HTTP/1.1", 405),
    ],
)
def test_paths_and_methods(line: bytes, status: int, run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            answer = await ask(server, line + b"\r\nHost: x\r\n\r\n")
            assert answer[0] == status
            assert ("allow" in answer[1]) == (status == 405)
            if status == 404:
                assert b"/hello" in answer[2]

    run(main)


@pytest.mark.parametrize(
    ("request_head", "stays"),
    [
        (GET, True),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\nConnection: x, Close\r\n\r\n", False),
        (b"GET /hello HTTP/1.0\r\n\r\n", False),
        (b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_keep_alive(request_head: bytes, stays: bool, run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            client = await Client.to(server)
            status, headers, _ = await client.send(request_head).response()
            assert (status, headers["connection"]) == (200, "keep-alive" if stays else "close")
            if stays:
                assert (await client.send(request_head).response())[0] == 200
            else:
                assert await client.ended() == b""
            await client.close()

    run(main)


def test_pipelined_requests_are_answered_in_order(run: Run) -> None:
    async def main() -> None:
        count = 0

        async def counting(_request: Request) -> Response:
            nonlocal count
            count += 1
            await asyncio.sleep(0)
            return Response(HTTPStatus.OK, b"%d" % count)

        limits = Limits(head_bytes=200)
        async with serving(limits, count=counting) as server:
            client = await Client.to(server)
            client.send(b"GET /count HTTP/1.1\r\nHost: x\r\n\r\n\r\n" * 300)
            for expected in range(1, 301):
                assert (await client.response())[2] == b"%d" % expected
            await client.close()

    run(main)


def test_a_request_may_come_in_any_pieces(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            client = await Client.to(server)
            for cut in range(1, len(GET)):
                client.send(GET[:cut])
                await client.writer.drain()
                await asyncio.sleep(0)
                assert (await client.send(GET[cut:]).response())[0] == 200
            await client.close()

    run(main)


def test_a_large_answer_arrives_whole(run: Run) -> None:
    async def big(_request: Request) -> Response:
        return Response(HTTPStatus.OK, b"x" * 20_000_000)

    async def main() -> None:
        async with serving(big=big) as server:
            client = await Client.to(server)
            for _ in range(2):
                client.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
                assert len((await client.response())[2]) == 20_000_000
            await client.close()

    run(main)


def test_a_half_closed_client_gets_its_answer(run: Run) -> None:
    async def main() -> None:
        async def slow(_request: Request) -> Response:
            await asyncio.sleep(0.02)
            return await hello(_request)

        async with serving(slow=slow) as server:
            for path in (b"/hello", b"/slow"):
                client = await Client.to(server)
                client.send(GET.replace(b"/hello", path))
                client.writer.write_eof()
                assert (await client.response())[0] == 200
                assert await client.ended() == b""
                await client.close()
            client = await Client.to(server)
            client.send(GET[:-2])
            client.writer.write_eof()
            assert await client.ended() == b""
            await client.close()

    run(main)


def test_a_handler_that_fails_or_hangs(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def failing(_request: Request) -> Response:
        raise RuntimeError("broken inside")

    async def hanging(_request: Request) -> Response:
        return await asyncio.Future()

    async def main() -> None:
        async with serving(Limits(handler_timeout_ms=20), fail=failing, hang=hanging) as server:
            status, _, body = await ask(server, GET.replace(b"/hello", b"/fail"))
            assert (status, b"broken" in body) == (500, False)
            assert (await ask(server, GET.replace(b"/hello", b"/hang")))[0] == 503
            assert (await ask(server, GET))[0] == 200

    run(main)
    assert "broken inside" in caplog.text


def test_closing_ends_what_is_idle_and_lets_answers_finish(run: Run) -> None:
    async def main() -> None:
        entered, go = asyncio.Event(), asyncio.Event()

        async def waiting(_request: Request) -> Response:
            entered.set()
            await go.wait()
            return await hello(_request)

        async with serving(wait=waiting) as server:
            idle, busy = await Client.to(server), await Client.to(server)
            await idle.send(GET).response()
            busy.send(GET.replace(b"/hello", b"/wait"))
            await entered.wait()
            closing = asyncio.create_task(server.close(timeout_ms=30_000))
            assert await idle.ended() == b""
            go.set()
            status, headers, _ = await busy.response()
            assert (status, headers["connection"]) == (200, "close")
            await busy.close()
            await closing
            assert server.connections == 0
            await idle.close()

    run(main)


def test_closing_does_not_wait_for_ever(run: Run) -> None:
    async def main() -> None:
        async def hanging(_request: Request) -> Response:
            return await asyncio.Future()

        async with serving(hang=hanging) as server:
            client = await Client.to(server)
            client.send(GET.replace(b"/hello", b"/hang"))
            while not server.connections:  # noqa: ASYNC110 - bounded by the test's deadline
                await asyncio.sleep(0.001)
            await server.close(timeout_ms=10)
            assert await client.ended() == b""
            await client.close()

    run(main)


def test_a_taken_port_is_explained(run: Run) -> None:
    async def main() -> None:
        async with serving() as server:
            assert server._server is not None
            port = server._server.sockets[0].getsockname()[1]
            with pytest.raises(StartupError) as caught:
                await HttpServer({}).listen(f"127.0.0.1:{port}")
            message = str(caught.value)
            assert f"127.0.0.1:{port}" in message
            assert "metrics_addr" in message
            assert "taken" in message
            assert caught.value.exit_code == 1
            with pytest.raises(StartupError, match="metrics_addr"):
                await HttpServer({}).listen("192.0.2.1:0")

    run(main)


def test_ipv6_if_there_is_any(run: Run) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {errno.errorcode.get(error.errno or 0)}")

    async def main() -> None:
        server = HttpServer({"/hello": hello})
        host, port = await server.listen("[::1]:0")
        reader, writer = await asyncio.open_connection(host, port)
        assert (await Client(reader, writer).send(GET).response())[0] == 200
        writer.close()
        await server.close()

    run(main)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:9090", ("127.0.0.1", 9090)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "9090", ":9090", "host:", "host:x", "host:65536", "::1:9090", "host:-1", "h:²"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(StartupError, match="write host:port") as caught:
        split_address(address)
    assert caught.value.exit_code == 2


def test_the_daemons_endpoints_for_a_real_client(run: Run) -> None:
    working: list[CheckResult] = [(True, "")]

    async def check() -> CheckResult:
        return working[0]

    def fetch(port: int, path: str, method: str = "GET") -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type"), response.read()
        finally:
            connection.close()

    async def main() -> None:
        now = [1000.0]
        metrics = Metrics()
        scraper = Scraper(metrics)
        health = Health("1.2.3", role=Role.WORKER, clock=lambda: now[0])
        for name in ("session", "containerd", "api"):
            health.add(name, check)
        works = Works(health)
        metrics.register(works)
        server = HttpServer(routes(health, works, scraper))
        declare_http(metrics, server)
        _, port = await server.listen("127.0.0.1:0")
        try:
            await ask_everything(server, port, now)
        finally:
            scraper.close()
            await server.close()

    async def ask_everything(server: HttpServer, port: int, now: list[float]) -> None:
        async def get(path: str, method: str = "GET") -> tuple[int, str | None, bytes]:
            return await asyncio.to_thread(fetch, port, path, method)

        status, _, body = await get("/live")
        assert (status, json.loads(body)["status"]) == (200, "alive")
        for path, good in (("/health", "healthy"), ("/ready", "ready")):
            status, kind, body = await get(path)
            assert (status, kind) == (200, "application/json")
            assert json.loads(body)["components"] == dict.fromkeys(
                ["api", "containerd", "session"], good
            )
            assert await get(path, "HEAD") == (200, "application/json", b"")
        working[0] = (False, "dead")
        now[0] += 2
        for path, bad in (("/health", "unhealthy"), ("/ready", "not_ready")):
            status, _, body = await get(path)
            assert (status, json.loads(body)["status"]) == (503, bad)
            assert (await get(path, "HEAD"))[0] == 503
        assert (await get("/live"))[0] == 200
        assert (await get("/metrics", "POST"))[0] == 405
        await ask(server, b"garbage\r\n\r\n")
        status, kind, body = await get("/metrics")
        assert (status, kind) == (200, CONTENT_TYPE)
        assert b"warren_observe_http_connections 1.0\n" in body
        assert b'warren_observe_http_refusals_total{reason="400"} 1.0\n' in body

    run(main)


GZIP_GET = GET.replace(b"\r\n\r\n", b"\r\nAccept-Encoding: ")


@pytest.mark.parametrize(
    ("asked", "size", "coding"),
    [
        (b"gzip", 10_000, "gzip"),
        (b"deflate, GZIP;q=0.5", 10_000, "gzip"),
        (b"*", 10_000, "gzip"),
        (b"gzip", 100, None),
        (b"identity", 10_000, None),
        (b"gzip;q=0, *", 10_000, None),
        (b"gzip;q=0.000", 10_000, None),
        (b"gzip;q=x", 10_000, None),
        (b"gzip;level=9", 10_000, None),
        (b";;,", 10_000, None),
    ],
)
def test_gzip_where_it_is_asked_for_and_worth_it(
    asked: bytes, size: int, coding: str | None, run: Run
) -> None:
    text = b"0123456789" * (size // 10)

    async def hello(_request: Request) -> Response:
        return Response(HTTPStatus.OK, text)

    async def main() -> None:
        async with serving(hello=hello) as server:
            request = GZIP_GET + asked + b"\r\n\r\n"
            status, headers, body = await ask(server, request)
            assert status == 200
            assert headers.get("content-encoding") == coding
            assert (gzip.decompress(body) if coding else body) == text
            assert (len(body) < len(text) / 10) == (coding is not None)
            # A cache in between must not hand the one to who asks for the other.
            assert ("vary" in headers) == (size >= 1024)
            client = await Client.to(server)
            client.send(request.replace(b"GET", b"HEAD"))
            assert await client.response(head=True) == (200, headers, b"")
            await client.close()

    run(main)


def test_a_scrape_does_not_wait_for_what_holds_the_loops_threads(run: Run) -> None:
    held, released = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert released.wait(30)

    async def hello(_request: Request) -> Response:
        return Response(HTTPStatus.OK, b"0123456789" * 1000)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, hold)
        try:
            while not held.is_set():  # noqa: ASYNC110 - a condition; `run` has a deadline
                await asyncio.sleep(0)
            async with serving(hello=hello) as server, asyncio.timeout(10):
                status, headers, _ = await ask(server, GZIP_GET + b"gzip\r\n\r\n")
                assert (status, headers["content-encoding"]) == (200, "gzip")
        finally:
            released.set()
            await busy

    run(main)

"""A raw HTTP client and a server to point it at, for the tests of the HTTP server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

from warren.observe.http import HttpServer, Limits, Request, Response

GET = b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n"
Run = Callable[..., Any]


async def hello(_request: Request) -> Response:
    return Response(HTTPStatus.OK, b'{"hello":1}')


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, server: HttpServer) -> Client:
        assert server._server is not None
        host, port = server._server.sockets[0].getsockname()[:2]
        return cls(*await asyncio.open_connection(host, port))

    def send(self, data: bytes) -> Client:
        self.writer.write(data)
        return self

    async def response(self, *, head: bool = False) -> tuple[int, dict[str, str], bytes]:
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = 0 if head else int(headers["content-length"])
        assert status.startswith("HTTP/1.1 ")
        return int(status.split()[1]), headers, await self.reader.readexactly(length)

    async def ended(self) -> bytes:
        """What still comes until the server closes or resets."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(limits: Limits | None = None, **handlers: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer({f"/{n}": h for n, h in {"hello": hello, **handlers}.items()}, limits)
    await server.listen("127.0.0.1:0")
    try:
        yield server
    finally:
        await server.close()
        while server.connections:  # noqa: ASYNC110 - bounded by the test's deadline
            await asyncio.sleep(0.001)


async def ask(server: HttpServer, data: bytes) -> tuple[int, dict[str, str], bytes]:
    client = await Client.to(server)
    try:
        return await client.send(data).response()
    finally:
        await client.close()

"""A small HTTP/1.1 server for probes and scrapes: GET and HEAD, a handful of exact paths.

Written here, because what is needed is small (RFC 9112 without request bodies) and the known
servers are not: they would be this daemon's largest dependency, for four paths, and their limits
would still have to be set one by one. All limits are in `Limits`; a client that is slow, large,
or silent costs one bounded buffer for a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final, cast

from warren.errors import StartupError
from warren.observe.encoding import WORTH_IT_BYTES, accepts_gzip, gzipped

JSON_TYPE: Final = "application/json"
METHODS: Final = ("GET", "HEAD")
REFUSALS: Final = ("400", "431", "500", "503", "connections", "timeout")
"""Why a connection or request got no handler's answer: a status code, or what befell it."""

_log = logging.getLogger("warren.observe")

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/1\.([01])")
_HEADER_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_HEAD_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """`head_bytes`: request line and headers. `head_timeout_ms`: from a request's first byte, or
    from the connection's opening, to its last header. `idle_timeout_ms`: between requests.
    `handler_timeout_ms`: for making an answer. `write_timeout_ms`: for the client to read it.
    `linger_ms`: for a client that is to be gone to close its side.
    """

    connections: int = 64
    head_bytes: int = 8192
    head_timeout_ms: int = 5_000
    idle_timeout_ms: int = 75_000
    handler_timeout_ms: int = 12_000
    write_timeout_ms: int = 10_000
    linger_ms: int = 1_000


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler answers. `body` is sent whole, in the content coding `coding`."""

    status: HTTPStatus
    body: bytes
    content_type: str = JSON_TYPE
    coding: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request head. `keep_alive`: whether the client wants to send another one. `gzip`:
    whether it takes that. `accept`: the header of that name, as it came.
    """

    method: str
    path: str
    keep_alive: bool
    gzip: bool = False
    accept: bytes = b""


Handler = Callable[[Request], Awaitable[Response]]


class BadRequestError(Exception):
    """The bytes are no request that this server takes; the text says why."""


def parse_head(head: bytes) -> Request:
    """Parse a request line and headers, without the empty line. BadRequestError when malformed.

    Takes what RFC 9112 sections 3 and 5 allow, except request bodies.
    """
    first, *lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadRequestError("the request line is not 'METHOD target HTTP/1.1'")
    headers: dict[bytes, bytes] = {}
    for text in lines:
        header = _HEADER_LINE.fullmatch(text)
        if header is None:
            raise BadRequestError("a header line is not 'Name: value'")
        name = header[1].lower()
        if name == b"host" and name in headers:
            raise BadRequestError("more than one Host header")
        headers[name] = headers[name] + b"," + header[2] if name in headers else header[2]
    if line[3] == b"1" and b"host" not in headers:
        raise BadRequestError("the Host header is missing")
    method = line[1].decode()
    body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
    if body and method in METHODS:
        raise BadRequestError("a request body is not taken here")
    options = {option.strip().lower() for option in headers.get(b"connection", b"").split(b",")}
    keep_alive = b"close" not in options if line[3] == b"1" else b"keep-alive" in options
    # A body is not read, so nothing that follows it can be.
    gzip = accepts_gzip(headers.get(b"accept-encoding", b""))
    accept = headers.get(b"accept", b"")
    return Request(method, _path(line[2].decode()), keep_alive and not body, gzip, accept)


def _path(target: str) -> str:
    """The path of a request target in origin or absolute form (RFC 9112, section 3.2)."""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise BadRequestError("the request target is no path")
        target = "/" + rest.partition("/")[2]
    return target.partition("?")[0].partition("#")[0]


def text_response(status: HTTPStatus, text: str) -> Response:
    """A plain sentence as an answer."""
    return Response(status, text.encode() + b"\n", "text/plain; charset=utf-8")


class _Connection(asyncio.Protocol):
    """One client. States: reading a head → answering → reading the next, until closed."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._limits = server.limits
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._client_done = False
        self._idle = False
        self._lingering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self._server.admit(self):
            busy = text_response(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections: try later")
            self._write(busy, head_only=False, keep_alive=False)
            self._transport.close()
            return
        self._arm(self._limits.head_timeout_ms)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._writable.set()
        if self._answering is not None:
            self._answering.cancel()
        self._server.release(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def eof_received(self) -> bool:
        """A client may close its side after the request and still wait for the answer."""
        self._client_done = True
        return self._answering is not None

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._closing():
            return
        if self._idle:
            self._idle = False
            self._arm(self._limits.head_timeout_ms)
        self._buffer += data
        if self._answering is None:
            self._next_request()
        elif len(self._buffer) > self._limits.head_bytes:
            self._pause_reading()

    def _next_request(self) -> None:
        """Take one request off the buffer, if a whole one is there."""
        # RFC 9112, section 2.2: an empty line before a request line is to be ignored.
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        end = self._buffer.find(_HEAD_END, 0, self._limits.head_bytes)
        if end < 0:
            if len(self._buffer) >= self._limits.head_bytes:
                self._refuse(
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                    f"request line and headers are limited to {self._limits.head_bytes} bytes",
                )
            return
        head = bytes(self._buffer[:end])
        del self._buffer[: end + len(_HEAD_END)]
        try:
            request = parse_head(head)
        except BadRequestError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        self._disarm()
        self._answering = asyncio.get_running_loop().create_task(self._answer(request))

    async def _answer(self, request: Request) -> None:
        response = await self._server.respond(request)
        keep_alive = request.keep_alive and not self._client_done and not self._server.closing
        self._arm(self._limits.write_timeout_ms)
        self._write(response, head_only=request.method == "HEAD", keep_alive=keep_alive)
        await self._writable.wait()
        self._answering = None
        if self._closing():
            return
        if not keep_alive:
            self._close()
            return
        self._idle = not self._buffer
        self._arm(self._limits.idle_timeout_ms if self._idle else self._limits.head_timeout_ms)
        self._resume_reading()
        if self._buffer:
            self._next_request()

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self._server.count_refusal(str(status.value))
        self._write(text_response(status, why), head_only=False, keep_alive=False)
        self._close()

    def _write(self, response: Response, *, head_only: bool, keep_alive: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        status = response.status
        allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
        coding = "Vary: Accept, Accept-Encoding\r\n" if len(response.body) >= WORTH_IT_BYTES else ""
        if response.coding:
            coding = f"Content-Encoding: {response.coding}\r\nVary: Accept, Accept-Encoding\r\n"
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"Content-Type: {response.content_type}\r\n"
            f"Content-Length: {len(response.body)}\r\n"
            f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n"
            f"Cache-Control: no-store\r\n{coding}{allow}\r\n"
        )
        # Apart: metrics may be megabytes, and putting them together would copy them.
        self._transport.writelines([head.encode(), b"" if head_only else response.body])

    def _arm(self, timeout_ms: int) -> None:
        """Abort the connection in `timeout_ms` unless armed anew or disarmed."""
        self._disarm()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(timeout_ms / 1000, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        if not self._lingering:
            self._server.count_refusal("timeout")
        if self._transport is not None:
            self._transport.abort()

    def _closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _close(self) -> None:
        """Close once the answer is out and the client has closed too, or time is up.

        Closing with bytes unread would reset the connection, and the answer could be lost on its
        way (RFC 9112, section 9.6).
        """
        if self._transport is None or self._lingering:
            return
        self._lingering = True
        self._arm(self._limits.linger_ms)
        self._resume_reading()
        if self._client_done:
            self._transport.close()
        else:
            self._transport.write_eof()

    def _pause_reading(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_reading():
            self._transport.resume_reading()

    def close_if_idle(self) -> None:
        """Close unless a request is under way, whose answer will say that it was the last."""
        if self._idle and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


class HttpServer:
    """Serves the handlers in `routes`, keyed by exact path.

    `refusals` counts by reason what got no handler's answer: a status code, `timeout`,
    `connections`.
    """

    def __init__(self, routes: Mapping[str, Handler], limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.refusals: Counter[str] = Counter()
        self.closing = False
        self._routes = dict(routes)
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._empty = asyncio.Event()
        # Not the loop's own threads: what hangs on a disk may hold them all, just when one looks.
        self._packing = ThreadPoolExecutor(1, thread_name_prefix="warren-gzip")

    async def listen(self, address: str) -> tuple[str, int]:
        """Listen on `host:port` (`[::1]:port` for IPv6) and give what was bound; port 0 is any.

        StartupError, with what to do about it, when that is no address or cannot be had.
        """
        host, port = split_address(address)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _Connection(self), host, port, backlog=self.limits.connections
            )
        except OSError as error:
            raise StartupError(_listen_failure(address, port, error)) from error
        bound = self._server.sockets[0].getsockname()
        return str(bound[0]), int(bound[1])

    async def close(self, timeout_ms: int = 1000) -> None:
        """Take no more connections, let answers under way finish for `timeout_ms`, then cut."""
        self.closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close_if_idle()
        if self._connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), timeout_ms / 1000)
        for connection in list(self._connections):
            connection.abort()
        self._packing.shutdown(wait=False, cancel_futures=True)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def respond(self, request: Request) -> Response:
        """The answer to a well-formed request."""
        handler = self._routes.get(request.path)
        if handler is None:
            known = " ".join(sorted(self._routes))
            return text_response(HTTPStatus.NOT_FOUND, f"not here; there are: {known}")
        if request.method not in METHODS:
            return text_response(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are served")
        try:
            async with asyncio.timeout(self.limits.handler_timeout_ms / 1000):
                response = await handler(request)
                if request.gzip and len(response.body) >= WORTH_IT_BYTES:
                    body = await gzipped(response.body, self._packing)
                    response = replace(response, body=body, coding="gzip")
                return response
        except TimeoutError:
            self.count_refusal("503")
            return text_response(HTTPStatus.SERVICE_UNAVAILABLE, "took too long: try again")
        except Exception:  # noqa: BLE001 - answered with a 500, and logged
            _log.exception("a request could not be answered", extra={"path": request.path})
            self.count_refusal("500")
            return text_response(
                HTTPStatus.INTERNAL_SERVER_ERROR, "failed; the daemon's log says why"
            )

    def admit(self, connection: _Connection) -> bool:
        """Whether there is room for one more connection; holds the room if so."""
        if len(self._connections) >= self.limits.connections:
            self.count_refusal("connections")
            return False
        self._connections.add(connection)
        return True

    def release(self, connection: _Connection) -> None:
        """Give a connection's room back."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def count_refusal(self, reason: str) -> None:
        """Count a request or connection that no handler answered."""
        self.refusals[reason] += 1


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[ipv6]:port` in its parts. StartupError when it is neither."""
    host, separator, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        separator = ""
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise StartupError(
            f"metrics_addr {address!r} is no address: write host:port, such as 127.0.0.1:9090",
            exit_code=2,
        )
    return host, int(port)


def _listen_failure(address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot serve metrics on {address}: the port is taken. Stop what holds it "
            f"(`ss -ltnp 'sport = :{port}'` shows it) or set metrics_addr to another address"
        )
    reason = error.strerror or str(error)
    return (
        f"cannot serve metrics on {address}: {reason}. "
        "Set metrics_addr to an address and port of this host"
    )

"""Calling and serving Warren's gRPC services without generated stubs.

The tables `MANAGER`, `NODE_LOCAL` and `DISPATCHER` are read from the schema's descriptors. A client
binds one to a channel with `Stub` (synchronous or asyncio: both have the same four call makers); a
server binds one to functions with `service`. Refusals travel as a gRPC status for any client, and
as an encoded `warren.v1.Error` in the trailing metadata for ours.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, commands_pb2, node_pb2, session_pb2

__all__ = [
    "CLIENT_OPTIONS",
    "DISPATCHER",
    "ERROR_METADATA_KEY",
    "KEEPALIVE_OPTIONS",
    "MANAGER",
    "MESSAGE_LIMIT_BYTES",
    "NODE_LOCAL",
    "ON_BEHALF_KEY",
    "REQUEST_ID_KEY",
    "SERVER_OPTIONS",
    "STALE_KEY",
    "STATUS_OF_CODE",
    "Method",
    "Stub",
    "abort",
    "cancelled_here",
    "failure",
    "is_read",
    "never_sent",
    "no_answer",
    "request_id_of",
    "request_id_text",
    "service",
    "status_of",
    "too_large",
]

ERROR_METADATA_KEY: Final = "warren-error-bin"
ON_BEHALF_KEY: Final = "warren-on-behalf-of"
"""Metadata of a request that a manager forwards: who asked. Believed of managers only."""
REQUEST_ID_KEY: Final = "warren-request-id"
"""Metadata of a request: by what name it stands in the logs of all who deal with it."""
STALE_KEY: Final = "warren-stale"
"""Metadata of a read, `1`: the manager's own state will do, which may be old."""

MESSAGE_LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Largest request. What is larger (archives, logs) streams in pieces."""

# gRPC words its own refusal badly and cuts off later than we do, so that the sentence is ours for
# what is only somewhat too large; beyond it `failure` words it on the client's side.
_TRANSPORT_LIMIT_BYTES: Final = 4 * MESSAGE_LIMIT_BYTES
# Answers list whole clusters: 10,000 containers are about 4 MiB.
_ANSWER_LIMIT_BYTES: Final = 64 * 1024 * 1024

# Two UUIDs, or a trace's and a span's id, and room for more; nothing that a log could trip over.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,80}")

_READS: Final = ("Get", "List", "Watch", "Ping", "Explain", "Plan", "Logs", "Backup")

# gRPC's words of a message that is an answer, and how large that is; of a request it says the
# same with the sides changed.
_ANSWER_TOO_LARGE: Final = re.compile(
    r"(?:SERVER: Sent|CLIENT: Received) message larger than max \((\d+) vs\. (\d+)\)"
)
_REQUEST_TOO_LARGE: Final = re.compile(r"(?:SERVER: Received|CLIENT: Sent) message larger than max")

# gRPC's words where there was no connection that a request could have gone over.
_NEVER_SENT: Final = ("failed to connect", "DNS resolution failed")

Options = list[tuple[str, int]]

SERVER_OPTIONS: Final[Options] = [
    ("grpc.max_receive_message_length", _TRANSPORT_LIMIT_BYTES),
    ("grpc.max_send_message_length", _ANSWER_LIMIT_BYTES),
    ("grpc.so_reuseport", 0),
    # `KEEPALIVE_OPTIONS` ask more often than a server takes unless told.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
]

CLIENT_OPTIONS: Final[Options] = [
    ("grpc.max_receive_message_length", _ANSWER_LIMIT_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # The default takes seconds to notice that a restarted daemon is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]

KEEPALIVE_OPTIONS: Final[Options] = [
    # A host that is cut off, or stopped, sends nothing that would end a connection.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # In fact how long one attempt to connect may take: a handshake between busy hosts.
    ("grpc.min_reconnect_backoff_ms", 2_000),
]
"""For clients of other hosts, over `CLIENT_OPTIONS`."""

STATUS_OF_CODE: Final[Mapping[str, grpc.StatusCode]] = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "ambiguous": grpc.StatusCode.INVALID_ARGUMENT,
    "name_taken": grpc.StatusCode.ALREADY_EXISTS,
    "version_conflict": grpc.StatusCode.ABORTED,
    "removing": grpc.StatusCode.FAILED_PRECONDITION,
    "image_not_loaded": grpc.StatusCode.FAILED_PRECONDITION,
    "not_in_cluster": grpc.StatusCode.FAILED_PRECONDITION,
    "already_in_cluster": grpc.StatusCode.ALREADY_EXISTS,
    "denied": grpc.StatusCode.PERMISSION_DENIED,
    "overloaded": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "outcome_unknown": grpc.StatusCode.DEADLINE_EXCEEDED,
    "request_too_old": grpc.StatusCode.FAILED_PRECONDITION,
    "request_reused": grpc.StatusCode.INVALID_ARGUMENT,
    "too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "no_space": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "no_leader": grpc.StatusCode.UNAVAILABLE,
    "not_leader": grpc.StatusCode.UNAVAILABLE,
    "no_quorum": grpc.StatusCode.UNAVAILABLE,
    "handing_over": grpc.StatusCode.ABORTED,
    "shutting_down": grpc.StatusCode.UNAVAILABLE,
    "data_dir": grpc.StatusCode.FAILED_PRECONDITION,
    "log_damaged": grpc.StatusCode.DATA_LOSS,
    "backup_unusable": grpc.StatusCode.INVALID_ARGUMENT,
    "stale_session": grpc.StatusCode.ABORTED,
    "unknown_method": grpc.StatusCode.UNIMPLEMENTED,
    "unknown_level": grpc.StatusCode.FAILED_PRECONDITION,
    "level_not_reached": grpc.StatusCode.FAILED_PRECONDITION,
    "member_removed": grpc.StatusCode.FAILED_PRECONDITION,
    "wrong_data_dir": grpc.StatusCode.FAILED_PRECONDITION,
    "node_removed": grpc.StatusCode.FAILED_PRECONDITION,
    # Refusals of single items at apply.
    "slot_taken": grpc.StatusCode.ABORTED,
    "node_not_eligible": grpc.StatusCode.FAILED_PRECONDITION,
    "no_capacity": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "state_went_back": grpc.StatusCode.ABORTED,
    # The Python edges' own.
    "answer_too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "archive_invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "image_in_use": grpc.StatusCode.FAILED_PRECONDITION,
    "internal": grpc.StatusCode.INTERNAL,
    "runtime_unavailable": grpc.StatusCode.UNAVAILABLE,
    "no_answer": grpc.StatusCode.DEADLINE_EXCEEDED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "worker_only": grpc.StatusCode.FAILED_PRECONDITION,
}
"""Every code of a refusal, and the status that a client without our metadata sees."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the schema: its types and which sides stream."""

    service: str  # full name, as in warren.v1.Manager
    name: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool

    @property
    def path(self) -> str:
        """As it stands in the HTTP/2 request."""
        return f"/{self.service}/{self.name}"

    @property
    def arity(self) -> str:
        """gRPC's word for the kind of call, as in `unary_stream`."""
        sides = (self.client_streaming, self.server_streaming)
        return "_".join("stream" if streaming else "unary" for streaming in sides)


def _table(descriptor: ServiceDescriptor) -> dict[str, Method]:
    return {
        method.name: Method(
            service=descriptor.full_name,
            name=method.name,
            request=GetMessageClass(method.input_type),
            response=GetMessageClass(method.output_type),
            client_streaming=method.client_streaming,
            server_streaming=method.server_streaming,
        )
        for method in descriptor.methods
    }


MANAGER: Final = _table(api_pb2.DESCRIPTOR.services_by_name["Manager"])
NODE_LOCAL: Final = _table(node_pb2.DESCRIPTOR.services_by_name["NodeLocal"])
DISPATCHER: Final = _table(session_pb2.DESCRIPTOR.services_by_name["Dispatcher"])


class Stub:
    """The methods of one table as attributes: `Stub(channel, MANAGER).Ping(request, timeout=5)`.

    `channel` is a `grpc.Channel` or a `grpc.aio.Channel`; what a call returns is what that
    channel's calls return. Failures are `grpc.RpcError`: `failure` turns them into ours.
    """

    def __init__(self, channel: Any, methods: Mapping[str, Method]) -> None:
        for method in methods.values():
            make = getattr(channel, method.arity)
            call = make(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")


def service(
    methods: Mapping[str, Method], functions: Mapping[str, Callable[..., Any]], *, raw: bool = False
) -> grpc.GenericRpcHandler:
    """A server's handler for `methods`; `functions` has one of each name, as `(request, context)`.

    `raw`: the functions take and give encoded messages as bytes instead of message objects.
    Raises ValueError unless the names on both sides are the same.
    """
    if methods.keys() != functions.keys():
        differing = sorted(methods.keys() ^ functions.keys())
        raise ValueError(f"methods without a function, or the reverse: {', '.join(differing)}")
    handlers = {}
    for name, method in methods.items():
        make = getattr(grpc, f"{method.arity}_rpc_method_handler")
        handlers[name] = make(
            functions[name],
            request_deserializer=None if raw else method.request.FromString,
            response_serializer=None if raw else method.response.SerializeToString,
        )
    full_name = next(iter(methods.values())).service
    return grpc.method_handlers_generic_handler(full_name, handlers)


def status_of(code: str) -> grpc.StatusCode:
    """The status for a refusal's code; a code that nobody listed is a fault of ours: INTERNAL."""
    return STATUS_OF_CODE.get(code, grpc.StatusCode.INTERNAL)


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: WarrenError) -> None:
    """End a call with a refusal. Does not return: gRPC raises through the handler."""
    encoded = api_pb2.Error(
        code=error.code, message=error.message, leader_address=error.leader_address
    ).SerializeToString()
    await context.abort(status_of(error.code), error.message, ((ERROR_METADATA_KEY, encoded),))


def request_id_text(request_id: commands_pb2.RequestId) -> str:
    """How a write's own id stands in logs: the client in hex, and which of its requests it is."""
    return f"{request_id.client.hex()}-{request_id.sequence}"


def request_id_of(metadata: Mapping[str, Any]) -> str:
    """The name of a request, from its metadata; one of our own where it has none that will do."""
    given = metadata.get(REQUEST_ID_KEY)
    if isinstance(given, str) and _REQUEST_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()


def too_large(what: str, actual_bytes: int | None) -> WarrenError:
    """The refusal of a message over `MESSAGE_LIMIT_BYTES`."""
    size = "more bytes than that" if actual_bytes is None else f"{actual_bytes:,} bytes"
    return WarrenError(
        "too_large",
        f"{what} is larger than the limit of {MESSAGE_LIMIT_BYTES:,} bytes ({size}); "
        "make it smaller, or split it",
    )


def cancelled_here() -> bool:
    """Whether it is the running task that is being cancelled.

    grpc.aio raises CancelledError also of a call that alone was cancelled, as by the end of its
    channel.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def is_read(method: str) -> bool:
    """Whether a method changes nothing, whatever becomes of it."""
    return method.startswith(_READS)


def no_answer() -> WarrenError:
    """The failure of a read that got none in time."""
    return WarrenError(
        "no_answer",
        "no answer in time; on the host that was asked, `warrenctl doctor` says what is wrong",
    )


def never_sent(message: str) -> bool:
    """Whether `unavailable` with this sentence means that the request has reached nobody."""
    return any(words in message for words in _NEVER_SENT)


def failure(error: grpc.RpcError, method: str = "") -> WarrenError:
    """What a failed call means: the manager's own refusal, or what gRPC itself could not do.

    `method`: which was called, where that is known. Of a read, no answer is no open question; of
    a change, a connection that broke while it was under way is one.
    """
    own = _own_refusal(error)
    refusal = own or _failure(error)
    if refusal.code == "outcome_unknown" and is_read(method):
        return no_answer()
    broke = own is None and refusal.code == "unavailable" and not never_sent(refusal.message)
    if broke and method and not is_read(method):
        return WarrenError(
            "outcome_unknown",
            "the connection to the daemon broke; the request may still take effect: look at the "
            "result before trying anew",
        )
    return refusal


def _own_refusal(error: grpc.RpcError) -> WarrenError | None:
    for key, value in _trailing_metadata(error):
        if key == ERROR_METADATA_KEY:
            return _decoded(value)
    return None


def _failure(error: grpc.RpcError) -> WarrenError:
    status = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = (error.details() if hasattr(error, "details") else None) or str(error)
    if status is grpc.StatusCode.UNAVAILABLE:
        return WarrenError("unavailable", f"cannot reach the daemon: {details}")
    if status is grpc.StatusCode.DEADLINE_EXCEEDED:
        return WarrenError(
            "outcome_unknown",
            "no answer in time; the request may still take effect: look at the result before "
            "trying anew",
        )
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return _exhausted(details)
    if status is grpc.StatusCode.UNIMPLEMENTED:
        return WarrenError(
            "unknown_method", "the daemon does not know this call; is the client newer than it?"
        )
    return WarrenError("internal", f"the call failed: {details} ({status.name})")


def _exhausted(details: str) -> WarrenError:
    """One status for three causes, which only gRPC's sentence tells apart."""
    if answer := _ANSWER_TOO_LARGE.search(details):
        return WarrenError(
            "answer_too_large",
            f"the answer has {int(answer[1]):,} bytes and the limit is {int(answer[2]):,}; "
            "ask for one thing instead of the list of all",
        )
    if _REQUEST_TOO_LARGE.search(details):
        return too_large("the message", None)
    return WarrenError(
        "overloaded",
        f"the daemon has more to do than it takes on ({details.rstrip('!.')}); "
        "try again in a moment",
    )


def _trailing_metadata(error: grpc.RpcError) -> Iterable[tuple[str, Any]]:
    if not hasattr(error, "trailing_metadata"):
        return ()
    metadata: Iterable[Any] = error.trailing_metadata() or ()
    return [(pair[0], pair[1]) for pair in metadata]


def _decoded(value: bytes) -> WarrenError | None:
    try:
        message = api_pb2.Error.FromString(value)
    except DecodeError:
        return None
    return WarrenError(message.code, message.message, message.leader_address)

"""Who calls: the connection's certificate, and what a manager that forwards says.

The core decides what each may do. Here is only found out who it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import grpc

from warren import rpc
from warren.errors import WarrenError
from warren.manager.core_port import LOCAL
from warren.tls import SpiffeId

__all__ = ["Caller", "Identify", "by_certificate", "by_socket"]

Context = grpc.aio.ServicerContext[Any, Any]

_TLS: Final = "TLSv1.3"
# The longest there is: a role and a client's name.
_IDENTITY_BYTES_MAX: Final = 7 + 255


class Caller(NamedTuple):
    """Who asks, as the core is told; `forwarded`: by way of another manager.

    `request_id`: by what name the request stands in logs.
    """

    identity: str
    forwarded: bool = False
    stale: bool = False
    request_id: str = ""


Identify = Callable[[Context], Caller]
"""Who calls. WarrenError `denied` where that cannot be told."""


def by_socket(context: Context) -> Caller:
    """On the Unix socket everybody is `local`: its mode and group decide who can."""
    metadata = _metadata(context)
    if rpc.ON_BEHALF_KEY in metadata:
        raise _denied("only managers speak for others, and they come over TLS")
    return Caller(
        LOCAL,
        stale=metadata.get(rpc.STALE_KEY) == "1",
        request_id=rpc.request_id_of(metadata),
    )


def by_certificate(trust_domain: str) -> Identify:
    """Over TLS a caller is who its certificate says, in `trust_domain`."""

    def identify(context: Context) -> Caller:
        peer = peer_of(context.auth_context(), trust_domain)
        metadata = _metadata(context)
        stale = metadata.get(rpc.STALE_KEY) == "1"
        request_id = rpc.request_id_of(metadata)
        behalf = metadata.get(rpc.ON_BEHALF_KEY)
        if behalf is None:
            return Caller(peer.identity, stale=stale, request_id=request_id)
        if peer.role != "manager":
            raise _denied(f"{peer.identity} is no manager, and only managers speak for others")
        if not 0 < len(behalf) <= _IDENTITY_BYTES_MAX:
            raise _denied("it is not said for whom the other manager asks")
        return Caller(behalf, forwarded=True, stale=stale, request_id=request_id)

    return identify


def peer_of(properties: Mapping[str, Any], trust_domain: str) -> SpiffeId:
    """Whose certificate the other side has shown; `properties` as gRPC gives them.

    WarrenError `denied` unless it is of `trust_domain` and the connection's TLS is 1.3.
    """
    version = _only(properties, "ssl_tls_version")
    if version != _TLS:
        raise _denied(f"the connection has {version or 'no TLS'}, and {_TLS} is asked for")
    try:
        # gRPC gives it where the certificate has one URI name, which looks like a SPIFFE ID.
        peer = SpiffeId.parse(_only(properties, "peer_spiffe_id"))
    except ValueError as error:
        raise _denied(f"the certificate does not say whose it is: {error}") from None
    if peer.trust_domain != trust_domain:
        raise _denied(
            f"the certificate is of the cluster {peer.trust_domain}, and this is {trust_domain}"
        )
    return peer


def _only(properties: Mapping[str, Any], name: str) -> str:
    values = list(properties.get(name, ()))
    return values[0].decode("utf-8", "replace") if len(values) == 1 else ""


def _metadata(context: Context) -> dict[str, Any]:
    return dict(context.invocation_metadata() or ())


def _denied(why: str) -> WarrenError:
    return WarrenError("denied", why)

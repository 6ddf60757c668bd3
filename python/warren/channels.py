"""Connections to managers: one channel an address, made with the certificates in force.

An address is `host:port`, or `unix:/path` for a daemon on this host. Channels connect by
themselves, also again; what a caller sees is that a call fails. Why, `explain` finds out.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import OrderedDict
from typing import Any, Final

import grpc

from warren import rpc
from warren.errors import WarrenError
from warren.tls import Credentials, Material, SpiffeId, manager_host_name

__all__ = ["Channels", "explain"]

CHANNELS_MAX: Final = 64
"""Many more than a cluster has managers; those that were used least lately are closed."""

# Calls that are under way over a channel that is not used any more go on to their end: a watch
# lasts as long as somebody looks. gRPC wants a number.
_CLOSE_GRACE_S: Final = 365 * 86_400.0
_LOOK_TIMEOUT_S: Final = 3.0
_UNSUITABLE_PURPOSE: Final = 26  # X509_V_ERR_INVALID_PURPOSE: it may not serve
_NO_CERTIFICATES: Final = (
    "this host has no certificates, and managers talk to nobody without; set tls_ca, tls_cert and "
    "tls_key, and restart the daemon"
)


class Channels:
    """Gives channels, keeps them, and makes new ones when the certificates have changed."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._open: OrderedDict[str, tuple[int, grpc.aio.Channel]] = OrderedDict()
        self._closing: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    def get(self, address: str) -> grpc.aio.Channel:
        """The channel to `address`. WarrenError `unavailable` where there can be none."""
        generation, material = 0, None
        if not address.startswith("unix:"):
            if self._credentials is None:
                raise WarrenError("unavailable", _NO_CERTIFICATES)
            material = self._credentials.material()
            generation = self._credentials.generation
        known = self._open.get(address)
        if known is not None and known[0] == generation:
            self._open.move_to_end(address)
            return known[1]
        if known is not None:
            self._close_later(known[1])
        channel = _channel(address, material)
        self._open[address] = (generation, channel)
        while len(self._open) > CHANNELS_MAX:
            self._close_later(self._open.popitem(last=False)[1][1])
        return channel

    async def explain(self, address: str) -> str:
        """Why calls to `address` fail, in a sentence; empty where nothing is found."""
        if address.startswith("unix:") or self._credentials is None:
            return ""
        return await explain(address, self._credentials.material())

    async def close(self) -> None:
        """Close all of them, at once."""
        opened = [channel for _, channel in self._open.values()]
        opened += self._closing.values()
        self._open.clear()
        for task in self._closing:
            task.cancel()
        await asyncio.gather(
            *self._closing, *(channel.close() for channel in opened), return_exceptions=True
        )

    def _close_later(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.create_task(channel.close(_CLOSE_GRACE_S))
        self._closing[task] = channel
        task.add_done_callback(self._closing.pop)


def _channel(address: str, material: Material | None) -> grpc.aio.Channel:
    if material is None:
        return grpc.aio.insecure_channel(address, options=rpc.CLIENT_OPTIONS)
    merged: dict[str, Any] = {**dict(rpc.CLIENT_OPTIONS), **dict(rpc.KEEPALIVE_OPTIONS)}
    options = [*merged.items(), *material.channel_options()]
    return grpc.aio.secure_channel(address, material.channel_credentials(), options=options)


async def explain(address: str, material: Material) -> str:
    """Look at what answers at `address`, once, and say what keeps it from being a manager of ours.

    Empty where nothing does.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_LOOK_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                host.strip("[]"),
                int(port),
                ssl=material.ssl_context(),
                server_hostname=manager_host_name(material.identity.trust_domain),
            )
            try:
                return await _look(address, material, reader, writer)
            finally:
                writer.transport.abort()
    except TimeoutError:
        return f"{address} does not answer; is the host up, and does a firewall let it through?"
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _UNSUITABLE_PURPOSE:
            return f"{address} has no manager's certificate; name a manager's address"
        return (
            f"the certificate of {address} is not of this cluster's CA ({error.verify_message}); "
            "is it the right address, and tls_ca the right file?"
        )
    except socket.gaierror:
        return f"no address is known for {host}; is the name right?"
    except ConnectionRefusedError:
        return (
            f"nothing listens at {address}; is warrend running there, with a manager's "
            "certificate, and is that its API's port (listen_addr, 2377)?"
        )
    except (ssl.SSLError, ConnectionError, EOFError):
        return f"what answers at {address} is no manager's API; name its listen_addr's port, 2377"
    except (OSError, ValueError) as error:
        return f"cannot connect to {address}: {error}"


async def _look(
    address: str, material: Material, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> str:
    tls = writer.get_extra_info("ssl_object")
    names = (tls.getpeercert() or {}).get("subjectAltName", ())
    problem = _stranger(names, material)
    if problem:
        return f"{address} {problem}"
    if tls.selected_alpn_protocol() != "h2":
        return f"what answers at {address} is no manager's API; name its listen_addr's port, 2377"
    # The other side looks at our certificate only now, and speaks first if it likes it.
    try:
        if not await reader.read(1):
            raise EOFError
    except (ssl.SSLError, ConnectionError, EOFError):
        return (
            f"the manager at {address} does not take this host's certificate; is the CA that "
            "issued it in tls_ca there?"
        )
    return ""


def _stranger(names: Any, material: Material) -> str:
    """What keeps a certificate with these names from being a manager's of our trust domain."""
    uris = [value for kind, value in names if kind == "URI"]
    own = material.identity.trust_domain
    try:
        if len(uris) != 1:
            raise ValueError(f"it has {len(uris)} URI names")
        identity = SpiffeId.parse(uris[0])
    except ValueError as error:
        return f"has a certificate that does not say who it is: {error}"
    if identity.trust_domain != own:
        return f"belongs to the cluster {identity.trust_domain}, and this host to {own}"
    if identity.role != "manager":
        return f"has a {identity.role}'s certificate; name a manager's address"
    if ("DNS", manager_host_name(own)) not in names:
        return f"has a manager's certificate without the DNS name {manager_host_name(own)}"
    return ""

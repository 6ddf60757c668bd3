"""Clients of a test cluster's managers: over TLS with a certificate, or on a host's own socket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc

from tests.cluster import network
from tests.cluster.certificates import Files
from tests.cluster.simulated import IMAGE
from warren import rpc
from warren.pb.v1 import api_pb2, commands_pb2, node_pb2, objects_pb2

CALL_TIMEOUT_S: Final = 10.0
CONNECT_TIMEOUT_S: Final = 5.0
FOREVER: Final = ("sleep", "100000")
#: A shell that ends at once on SIGTERM, which process 1 otherwise does not hear.
OBEDIENT: Final = ("sh", "-c", "trap exit TERM; sleep 100000 & wait")
_PIECE_BYTES: Final = 1 << 16


class Door:
    """A Unix socket here that leads to a TCP address as a network namespace sees it.

    gRPC makes its own sockets, in this process' own network: it is given a socket that it can
    reach. What passes is bytes; TLS is between the two ends.
    """

    def __init__(self, path: Path, namespace: str, host: str, port: int) -> None:
        self.path = path
        self._namespace = namespace
        self._address = (host, port)
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Makes the socket."""
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._enter, self.path)

    async def close(self) -> None:
        """Ends every connection and removes the socket."""
        if self._server is not None:
            self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: the one that streams would make complains of being cancelled.
        task = asyncio.create_task(self._pass_or_close(reader, writer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _pass_or_close(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._pass(reader, writer)
        except (OSError, TimeoutError):
            pass  # closing tells the client
        finally:
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.to_thread(network.tcp_socket, self._namespace)
        there.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await loop.sock_connect(there, self._address)
        except BaseException:
            there.close()
            raise
        far_reader, far_writer = await asyncio.open_connection(sock=there)
        ways = [
            asyncio.create_task(_pump(reader, far_writer)),
            asyncio.create_task(_pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            far_writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(_PIECE_BYTES):
            writer.write(piece)
            await writer.drain()


class Client:
    """Calls of one client; a refusal is a `WarrenError`. Made by `over_tls` or `on_socket`."""

    def __init__(self, channel: grpc.aio.Channel, door: Door | None = None) -> None:
        self._channel = channel
        self._door = door
        self._stub = rpc.Stub(channel, rpc.MANAGER)
        self.node = rpc.Stub(channel, rpc.NODE_LOCAL)
        self._id = secrets.token_bytes(16)
        self._sequence = itertools.count(1)

    @classmethod
    def on_socket(cls, path: Path) -> Client:
        """As `local`, whom the host's own socket lets in."""
        return cls(grpc.aio.insecure_channel(f"unix:{path}", options=rpc.CLIENT_OPTIONS))

    @classmethod
    async def over_tls(cls, door: Door, files: Files, server_name: str) -> Client:
        """With the certificate in `files`, through `door`."""
        await door.open()
        credentials = grpc.ssl_channel_credentials(
            files.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes()
        )
        # As other hosts do: a handshake with a busy one may take its time.
        patient = {**dict(rpc.CLIENT_OPTIONS), **dict(rpc.KEEPALIVE_OPTIONS)}
        options = [*patient.items(), ("grpc.ssl_target_name_override", server_name)]
        target = f"unix:{os.fspath(door.path)}"
        return cls(grpc.aio.secure_channel(target, credentials, options=options), door)

    async def close(self) -> None:
        """Ends its connection."""
        await self._channel.close()
        if self._door is not None:
            await self._door.close()

    def request_id(self) -> commands_pb2.RequestId:
        """A new one; the same again has no second effect."""
        return commands_pb2.RequestId(client=self._id, sequence=next(self._sequence))

    async def call(
        self, method: str, request: Any, *, stale: bool = False, timeout_s: float = CALL_TIMEOUT_S
    ) -> Any:
        """One call of the manager's API. Raises WarrenError."""
        metadata = (("warren-stale", "1"),) if stale else ()
        try:
            return await getattr(self._stub, method)(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise rpc.failure(error) from None

    async def join(self, address: str, *, manager: bool, timeout_s: float = 30.0) -> Any:
        """Has this host join the cluster that a manager at `address` belongs to."""
        request = node_pb2.JoinClusterRequest(address=address, manager=manager)
        try:
            return await self.node.JoinCluster(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise rpc.failure(error) from None

    async def leave(self, *, force: bool = False, timeout_s: float = 30.0) -> None:
        """Has this host leave its cluster."""
        request = node_pb2.LeaveClusterRequest(force=force)
        try:
            await self.node.LeaveCluster(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise rpc.failure(error) from None

    # What tests do most often

    async def create(
        self,
        name: str,
        replicas: int = 1,
        command: Sequence[str] = OBEDIENT,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        **spec: Any,
    ) -> api_pb2.CreateServiceResponse:
        """Creates a replicated service; `spec` goes into its container."""
        request = api_pb2.CreateServiceRequest(
            request=self.request_id(), spec=service(name, replicas, command, **spec)
        )
        return await self.call("CreateService", request, timeout_s=timeout_s)

    async def scale(self, name: str, replicas: int) -> int:
        """Changes how many containers a service has; the new version."""
        there = (await self.service(name)).service
        there.spec.replicas = replicas
        request = api_pb2.UpdateServiceRequest(
            request=self.request_id(),
            service_id=there.id,
            expected_version=there.version,
            spec=there.spec,
        )
        return int((await self.call("UpdateService", request)).version)

    async def remove(self, name: str) -> None:
        """Removes a service."""
        there = (await self.service(name)).service
        request = api_pb2.RemoveServiceRequest(request=self.request_id(), service_id=there.id)
        await self.call("RemoveService", request)

    async def service(self, name: str, *, stale: bool = False) -> objects_pb2.Service:
        """One service, with how many of its containers run."""
        request = api_pb2.GetServiceRequest(ref=name)
        return (await self.call("GetService", request, stale=stale)).service

    async def services(self, *, stale: bool = False) -> list[Any]:
        """All services."""
        answer = await self.call("ListServices", api_pb2.ListServicesRequest(), stale=stale)
        return list(answer.services)

    async def containers(self, service: str = "", *, stale: bool = False) -> list[Any]:
        """Containers that are not over, of one service or of all."""
        answer = await self.call("ListContainers", api_pb2.ListContainersRequest(), stale=stale)
        views = [view.container for view in answer.containers]
        return [one for one in views if service in ("", one.service_name)]

    async def nodes(self, *, stale: bool = False) -> dict[str, objects_pb2.Node]:
        """All nodes by name."""
        answer = await self.call("ListNodes", api_pb2.ListNodesRequest(), stale=stale)
        return {view.node.description.name: view.node for view in answer.nodes}

    async def members(self) -> list[api_pb2.MemberView]:
        """The members of consensus."""
        return list((await self.call("ListMembers", api_pb2.ListMembersRequest())).members)

    async def cluster(self, *, stale: bool = False) -> api_pb2.GetClusterResponse:
        """The cluster, as the answering manager sees it."""
        return await self.call("GetCluster", api_pb2.GetClusterRequest(), stale=stale)


def service(
    name: str, replicas: int, command: Sequence[str] = OBEDIENT, **container: Any
) -> objects_pb2.ServiceSpec:
    """The spec of a replicated service."""
    return objects_pb2.ServiceSpec(
        name=name,
        mode=objects_pb2.SERVICE_MODE_REPLICATED,
        replicas=replicas,
        container=objects_pb2.ContainerSpec(
            image=IMAGE,
            command=command,
            **{"restart": objects_pb2.RESTART_CONDITION_ANY, "stop_timeout_ms": 1000, **container},
        ),
    )

"""Several real daemons on this machine, with certificates, on ports of the loopback address."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import grpc

from tests.support.certificates import Authority, node_id
from tests.support.containerd import Containerd
from tests.support.node import WarrenNode, eventually, free_port
from warren import rpc
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, commands_pb2, node_pb2
from warren.tls import load

CALL_TIMEOUT_S = 30.0


class Host(WarrenNode):
    """One daemon that others can reach: `number` is its node id's digits and its name's end."""

    def __init__(
        self, containerd: Containerd, authority: Authority, number: int, *, manager: bool = True
    ) -> None:
        super().__init__(containerd.address, containerd.new_namespace())
        self.number = number
        self.node_id = node_id(number)
        self.authority = authority
        self.api = f"127.0.0.1:{free_port()}"
        self.peer = f"127.0.0.1:{free_port()}"
        issue = authority.manager if manager else authority.worker
        self.files = issue(self.node_id)
        self._client = os.urandom(16)
        self._sequence = 0

    def flags(self) -> list[str]:
        flags = [flag for flag in super().flags() if not flag.startswith("--node-name")]
        return [
            *flags,
            f"--node-name=node-{self.number}",
            f"--listen-addr={self.api}",
            f"--advertise-addr={self.api}",
            f"--peer-addr={self.peer}",
            f"--tls-ca={self.files.ca}",
            f"--tls-cert={self.files.cert}",
            f"--tls-key={self.files.key}",
            "--wal-segment-bytes=1048576",
        ]

    def request_id(self) -> commands_pb2.RequestId:
        """A new one; the same again has no second effect."""
        self._sequence += 1
        return commands_pb2.RequestId(client=self._client, sequence=self._sequence)

    def call(self, method: str, request: Any, **more: Any) -> Any:
        """One call of the API over the Unix socket. Raises grpc.RpcError."""
        with self._local() as channel:
            return getattr(rpc.Stub(channel, rpc.MANAGER), method)(
                request, timeout=CALL_TIMEOUT_S, **more
            )

    def call_as(self, files: Any, method: str, request: Any, **more: Any) -> Any:
        """One call of the API over TLS, by the bearer of a certificate."""
        material = load(files)
        with grpc.secure_channel(
            self.api, material.channel_credentials(), options=material.channel_options()
        ) as channel:
            return getattr(rpc.Stub(channel, rpc.MANAGER), method)(
                request, timeout=CALL_TIMEOUT_S, **more
            )

    def join(self, address: str, *, manager: bool) -> node_pb2.JoinClusterResponse:
        """Ask the daemon to join. Raises grpc.RpcError."""
        request = node_pb2.JoinClusterRequest(address=address, manager=manager)
        with self._local() as channel:
            answer: node_pb2.JoinClusterResponse = rpc.Stub(channel, rpc.NODE_LOCAL).JoinCluster(
                request, timeout=CALL_TIMEOUT_S
            )
            return answer

    def leave(self, *, force: bool = False) -> None:
        """Ask the daemon to leave. Raises grpc.RpcError."""
        with self._local() as channel:
            rpc.Stub(channel, rpc.NODE_LOCAL).LeaveCluster(
                node_pb2.LeaveClusterRequest(force=force), timeout=90
            )

    def describe(self) -> node_pb2.GetDaemonResponse:
        """What the daemon says of itself."""
        with self._local() as channel:
            answer: node_pb2.GetDaemonResponse = rpc.Stub(channel, rpc.NODE_LOCAL).GetDaemon(
                node_pb2.GetDaemonRequest(), timeout=CALL_TIMEOUT_S
            )
            return answer

    def members(self) -> dict[str, api_pb2.MemberView]:
        """The members of consensus, by node id."""
        answer = self.call("ListMembers", api_pb2.ListMembersRequest())
        return {view.member.node_id.hex(): view for view in answer.members}

    def nodes(self) -> dict[str, api_pb2.NodeView]:
        """The nodes of the cluster, by node id."""
        answer = self.call("ListNodes", api_pb2.ListNodesRequest())
        return {view.node.id.hex(): view for view in answer.nodes}

    def _local(self) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.socket}", options=rpc.CLIENT_OPTIONS)


def three_managers(make: Callable[[int], Host]) -> list[Host]:
    """A cluster of three that vote; the first has founded it."""
    one, two, three = make(1), make(2), make(3)
    one.call("InitCluster", api_pb2.InitClusterRequest())
    for host in (two, three):
        host.join(one.api, manager=True)
    eventually(lambda: len([v for v in one.members().values() if v.voter]) == 3, "three vote")
    return [one, two, three]


def leader_of(hosts: list[Host]) -> Host:
    """Who leads, as one of them says that is up."""

    def leading() -> Host | None:
        for host in hosts:
            if host.alive():
                leaders = [view for view in host.members().values() if view.leader]
                ids = [view.member.node_id.hex() for view in leaders]
                return next((host for host in hosts if [host.node_id] == ids), None)
        return None

    leader = eventually(leading, "somebody leads")
    assert leader is not None
    return leader


def refusal_of(call: Callable[[], object]) -> WarrenError:
    """What a call is refused with."""
    try:
        call()
    except grpc.RpcError as error:
        return rpc.failure(error)
    raise AssertionError("it was not refused")

"""Waiting for this host's own node after it has become part of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from warren.cli import members, wait
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, node_pb2, objects_pb2

if TYPE_CHECKING:
    from warren.cli.client import Client

__all__ = ["wait_ready", "wait_votes"]

# A daemon that opens its log answers these for a moment.
_NOT_YET: Final = frozenset({"not_found", "not_in_cluster", "worker_only"})


def wait_ready(client: Client, node_id: bytes, so_far: str) -> None:
    """Until the node can run containers. `so_far`: what has been done. Raises as `wait.until`."""
    wait.until(
        client,
        lambda: _not_ready(client, node_id),
        what="the node",
        so_far=so_far,
        look="warrenctl node ls",
    )


def wait_votes(client: Client, member_id: int, so_far: str) -> None:
    """Until the member votes. Raises as `wait.until`."""

    def missing() -> str:
        try:
            return members.not_voting(client, member_id)
        except WarrenError as error:
            if error.code not in _NOT_YET:
                raise
            return "it has not started yet"

    wait.until(
        client,
        missing,
        what="the manager",
        so_far=so_far,
        look="warrenctl cluster members",
    )


def _not_ready(client: Client, node_id: bytes) -> str:
    """Why the node cannot run containers yet; empty when it can."""
    daemon: node_pb2.GetDaemonResponse = client.call("GetDaemon", node_pb2.GetDaemonRequest())
    if daemon.ready_message:
        return daemon.ready_message
    try:
        answer: api_pb2.GetNodeResponse = client.call(
            "GetNode", api_pb2.GetNodeRequest(ref=node_id.hex())
        )
    except WarrenError as error:
        # A daemon that does not manage knows itself only: that it is ready has to do.
        if error.code == "worker_only":
            return ""
        if error.code not in _NOT_YET:
            raise
        return "it has not joined yet"
    ready = answer.node.node.status == objects_pb2.NODE_STATUS_READY
    return "" if ready else "its worker has no session yet"

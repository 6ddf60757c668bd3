"""`warrenctl cluster`: the cluster as a whole."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from warren.cli.cluster_settings import thaw, update
from warren.cli.common import Group, Settings, common_options, detach_option

if TYPE_CHECKING:
    from warren.cli.client import Client

__all__ = ["cluster"]

_POLL_PAUSE_S: Final = 0.05


@click.group(cls=Group)
def cluster() -> None:
    """Create the cluster and look at it."""


for command in (thaw, update):
    cluster.add_command(command)


@cluster.command()
@click.option(
    "--advertise-addr", default="", metavar="HOST[:PORT]", help="Where other nodes find this one."
)
@detach_option
@common_options
@click.pass_obj
def init(settings: Settings, advertise_addr: str, detach: bool) -> None:
    """Make this host a cluster of one, and wait until it is ready."""
    from warren.cli import render, shapes
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        # Without a request id: a repetition could answer that the cluster exists.
        answer: api_pb2.InitClusterResponse = client.call(
            "InitCluster", api_pb2.InitClusterRequest(advertise_addr=advertise_addr), retry=False
        )
        if not detach:
            _wait_ready(client, answer.node_id)
    created = shapes.ClusterCreated(answer.cluster_id.hex(), answer.node_id.hex())
    render.show_line(
        settings, created, f"cluster {created.id} is there; this is node {created.node_id}"
    )


def _wait_ready(client: Client, node_id: bytes) -> None:
    from warren.cli.wait import Progress
    from warren.errors import WarrenError

    why = "the daemon does not answer"
    try:
        with Progress(client.settings) as progress:
            while client.deadline.remaining_s() > 0:
                why = _not_ready(client, node_id)
                if not why:
                    return
                progress.say(f"waiting for the node: {why}")
                time.sleep(_POLL_PAUSE_S)
    except KeyboardInterrupt:
        raise WarrenError(
            "interrupted", "not waiting any more; the cluster is there: warrenctl cluster info"
        ) from None
    raise WarrenError(
        "timeout",
        f"the cluster is there, but its node is not ready after {client.deadline.timeout_s:g} s: "
        f"{why}; look again with: warrenctl node ls",
    )


def _not_ready(client: Client, node_id: bytes) -> str:
    """Why the node cannot run containers yet; empty when it can."""
    from warren.errors import WarrenError
    from warren.pb.v1 import api_pb2, node_pb2, objects_pb2

    daemon: node_pb2.GetDaemonResponse = client.call("GetDaemon", node_pb2.GetDaemonRequest())
    if daemon.ready_message:
        return daemon.ready_message
    try:
        answer: api_pb2.GetNodeResponse = client.call(
            "GetNode", api_pb2.GetNodeRequest(ref=node_id.hex())
        )
    except WarrenError as error:
        if error.code != "not_found":
            raise
        return "it has not joined yet"
    ready = answer.node.node.status == objects_pb2.NODE_STATUS_READY
    return "" if ready else "its worker has no session yet"


@cluster.command()
@common_options
@click.pass_obj
def info(settings: Settings) -> None:
    """Show the cluster: its members, what it holds, what is allocated."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        answer: api_pb2.GetClusterResponse = client.call("GetCluster", api_pb2.GetClusterRequest())
    render.show(settings, views.cluster(answer))

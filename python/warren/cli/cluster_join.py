"""`warrenctl cluster join|leave`: this host becomes part of a cluster, and is none any more."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, common_options, detach_option
from warren.cli.params import Parsed

if TYPE_CHECKING:
    from warren.cli.client import Client
    from warren.pb.v1 import node_pb2

__all__ = ["join", "leave"]

JOIN_TIMEOUT_S: Final = 60.0
LEAVE_TIMEOUT_S: Final = 120.0
"""Its containers are stopped meanwhile, each with the time that its service gives it."""


@click.command(cls=Command)
@click.argument("address", metavar="HOST:PORT", type=Parsed("host:port", parse.address))
@click.option(
    "--role",
    type=click.Choice(["manager", "worker"]),
    default="worker",
    help="Run containers only, or keep the cluster's state too.  [default: worker]",
)
@detach_option
@common_options
@click.pass_obj
def join(settings: Settings, address: tuple[str, int], role: str, detach: bool) -> None:
    """Make this host a part of a cluster.

    HOST:PORT is the API of any of the cluster's managers. Waits until this node is ready and, as a
    manager, votes. Its daemon needs certificates. Repeating it goes on where it stopped.
    """
    from warren.cli import ready, render, shapes
    from warren.cli.client import Client
    from warren.pb.v1 import node_pb2

    manager = role == "manager"
    with Client(settings, JOIN_TIMEOUT_S, local=True) as client:
        # The daemon keeps what makes a repetition the same join; but who has joined is told so.
        answer: node_pb2.JoinClusterResponse = client.call(
            "JoinCluster",
            node_pb2.JoinClusterRequest(address=parse.address_text(address), manager=manager),
            retry=False,
            attempt_timeout_s=client.deadline.timeout_s,
        )
        so_far = "this host has joined"
        if not detach:
            ready.wait_ready(client, answer.node_id, so_far)
        if not detach and answer.member_id:
            ready.wait_votes(client, answer.member_id, so_far)
        member_id = _member_id(client, answer)
    is_now = "manager" if member_id else "worker"
    joined = shapes.ClusterJoined(answer.cluster_id.hex(), answer.node_id.hex(), is_now, member_id)
    number = f", member {member_id}" if member_id else ""
    render.show_line(
        settings, joined, f"node {joined.node_id} is a {is_now} of cluster {joined.id}{number}"
    )


def _member_id(client: Client, answer: node_pb2.JoinClusterResponse) -> str | None:
    """Of a host that had joined before it may be there though it was not asked for."""
    from warren.cli.members import all_members
    from warren.pb.v1 import node_pb2

    if answer.member_id:
        return str(answer.member_id)
    daemon: node_pb2.GetDaemonResponse = client.call("GetDaemon", node_pb2.GetDaemonRequest())
    if not daemon.manages:
        return None
    found, _ = all_members(client)
    return next((each.id for each in found if each.node_id == answer.node_id.hex()), None)


@click.command(cls=Command)
@click.option("--force", is_flag=True, help="Also if no manager can be told.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@common_options
@click.pass_obj
def leave(settings: Settings, force: bool, yes: bool) -> None:
    """Take this host out of its cluster.

    Its containers are stopped and removed; services get others elsewhere. A manager leaves
    consensus first.
    """
    from warren.cli import render, shapes
    from warren.cli.client import Client
    from warren.pb.v1 import node_pb2

    if not yes:
        _confirm()
    with Client(settings, LEAVE_TIMEOUT_S, local=True) as client:
        daemon: node_pb2.GetDaemonResponse = client.call("GetDaemon", node_pb2.GetDaemonRequest())
        client.call(
            "LeaveCluster",
            node_pb2.LeaveClusterRequest(force=force),
            retry=False,
            attempt_timeout_s=client.deadline.timeout_s,
        )
    left = shapes.ClusterLeft(daemon.node_id.hex())
    render.show_line(settings, left, f"node {left.node_id} has left its cluster")


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("this stops all containers of this host; say so with --yes")
    click.confirm(
        "This stops and removes all containers of this host. Leave the cluster?",
        abort=True,
        err=True,
    )

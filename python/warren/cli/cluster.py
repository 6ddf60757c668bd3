"""`warrenctl cluster`: the cluster as a whole."""

from __future__ import annotations

import click

from warren.cli.backup import backup, recover
from warren.cli.cluster_join import join, leave
from warren.cli.cluster_members import add_member, members, remove_member, transfer_leadership
from warren.cli.cluster_settings import thaw, update
from warren.cli.common import Group, Settings, common_options, detach_option, read_options
from warren.cli.status import status

__all__ = ["cluster"]


@click.group(cls=Group)
def cluster() -> None:
    """Create, join and leave the cluster, look at it, and see to its managers."""


for command in (
    add_member,
    backup,
    join,
    leave,
    members,
    recover,
    remove_member,
    status,
    thaw,
    transfer_leadership,
    update,
):
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
    from warren.cli import ready, render, shapes
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings, local=True) as client:
        # Without a request id: a repetition could answer that the cluster exists.
        answer: api_pb2.InitClusterResponse = client.call(
            "InitCluster", api_pb2.InitClusterRequest(advertise_addr=advertise_addr), retry=False
        )
        if not detach:
            ready.wait_ready(client, answer.node_id, "the cluster is there")
    created = shapes.ClusterCreated(answer.cluster_id.hex(), answer.node_id.hex())
    render.show_line(
        settings, created, f"cluster {created.id} is there; this is node {created.node_id}"
    )


@cluster.command()
@read_options
@click.pass_obj
def info(settings: Settings) -> None:
    """Show the cluster: its members, what it holds, what is allocated."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.cli.members import all_members
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        answer: api_pb2.GetClusterResponse = client.call("GetCluster", api_pb2.GetClusterRequest())
        of_members, joint = all_members(client)
    render.show(settings, views.cluster(answer, of_members, joint=joint))

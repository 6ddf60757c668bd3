"""`warrenctl node`: the group, and the commands that only look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from warren.cli.common import Group, Settings, read_options
from warren.cli.node_changes import demote, promote, remove, update
from warren.cli.node_drain import activate, drain

if TYPE_CHECKING:
    from warren.cli.shapes import NodeDetail, NodeView, ResourcesView, UsageView
    from warren.pb.v1 import api_pb2

__all__ = ["node"]


@click.group(cls=Group)
def node() -> None:
    """Look at the hosts of the cluster, and see to who manages."""


for command in (activate, demote, drain, promote, update, remove):
    node.add_command(command)


@node.command()
@read_options
@click.pass_obj
def ls(settings: Settings) -> None:
    """List the nodes."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.cli.members import all_members
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        # People do not see the images in the table, and of ten thousand nodes they are many.
        request = api_pb2.ListNodesRequest(with_images=settings.format != "table")
        answer: api_pb2.ListNodesResponse = client.call("ListNodes", request)
        of_members, _ = all_members(client, answer)
    nodes = [views.node(view, of_members) for view in answer.nodes]
    nodes.sort(key=lambda each: each.name)
    header = ("ID", "NAME", "STATUS", "AVAILABILITY", "ROLES", "CONTAINERS", "CPUS", "MEMORY")
    render.show_list(settings, nodes, header, _row)


def _row(each: NodeView) -> tuple[str, ...]:
    from warren.cli.render import bytes_text, cpus_text, short

    roles = []
    # By its membership: what a node says of itself comes a moment later.
    if each.member_id:
        plain = "manager" if each.voter else "learner"
        roles.append("leader" if each.leader else plain)
    roles += ["worker"] if each.worker else []
    used, whole = each.allocated, each.allocatable
    return (
        short(each.id),
        each.name,
        each.status,
        _availability(each),
        ", ".join(roles) or "-",
        f"{each.containers_running}/{each.containers}",
        f"{cpus_text(used.cpu_milli)}/{cpus_text(whole.cpu_milli)}",
        f"{bytes_text(used.memory_bytes)}/{bytes_text(whole.memory_bytes)}",
    )


def _availability(each: NodeView) -> str:
    if each.drain_overdue:
        return "drain, overdue"
    if each.drain_deadline is None:
        return each.availability
    return f"{each.availability} until {each.drain_deadline[11:19]}Z"


@node.command()
@click.argument("node")
@read_options
@click.pass_obj
def inspect(settings: Settings, node: str) -> None:
    """Show everything about a node, and the containers assigned to it."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.cli.members import all_members
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        answer: api_pb2.GetNodeResponse = client.call("GetNode", api_pb2.GetNodeRequest(ref=node))
        of_members, _ = all_members(client)
    detail = views.node_detail(answer, of_members)
    amounts = dict.fromkeys(("reserved", "allocatable", "allocated", "used"))
    render.show(settings, detail, {**amounts, "capacity": _amounts(detail)})


def _amounts(each: NodeDetail) -> str:
    """What the node has, and what has become of it: a row for each resource."""
    from warren.cli.render import age, bytes_text, cells_text, cpus_text

    def cpus(amount: ResourcesView | UsageView) -> str:
        return cpus_text(amount.cpu_milli)

    def memory(amount: ResourcesView | UsageView) -> str:
        return bytes_text(amount.memory_bytes)

    def disk(amount: ResourcesView | UsageView) -> str:
        return bytes_text(amount.disk_bytes)

    def pids(amount: ResourcesView | UsageView) -> str:
        return str(amount.pids)

    planned = (each.capacity, each.reserved, each.allocatable, each.allocated)
    rows: list[tuple[str, ...]] = [("", "CAPACITY", "RESERVED", "ALLOCATABLE", "ALLOCATED", "USED")]
    for name, text in (("cpus", cpus), ("memory", memory), ("disk", disk), ("pids", pids)):
        used = "-" if each.used is None else text(each.used)
        rows.append((name, *map(text, planned), used))
    if each.used is None:
        said = "used: not known; the node tells the leader while it has a session"
    else:
        said = f"used: measured {age(each.used.measured_at)} ago"
    return f"{cells_text(rows)}\n{said}"

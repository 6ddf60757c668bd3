"""`warrenctl node promote|demote|rm`: who manages, and who belongs to the cluster at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import click

from warren.cli.common import Command, Settings, common_options, detach_option

if TYPE_CHECKING:
    import msgspec

    from warren.cli.client import Client
    from warren.cli.shapes import NodeChanged, NodeRemoved
    from warren.pb.v1 import objects_pb2

    T = TypeVar("T", bound=msgspec.Struct)

__all__ = ["demote", "promote", "remove"]

# A name that is not there any more is often the beginning of another node's id.
_DIGITS_MIN: Final = 4

_NODES = click.argument("nodes", metavar="NODE...", nargs=-1, required=True)


@click.command(cls=Command)
@_NODES
@detach_option
@common_options
@click.pass_obj
def promote(settings: Settings, nodes: tuple[str, ...], detach: bool) -> None:
    """Make workers managers too.

    Waits until each votes. A host can manage if its certificate says so.
    """

    def change(client: Client, node: objects_pb2.Node) -> tuple[NodeChanged, str]:
        from warren.cli import ready, shapes
        from warren.pb.v1 import api_pb2

        name = node.description.name
        request = api_pb2.PromoteNodeRequest(request=client.request_id(), ref=node.id.hex())
        answer: api_pb2.PromoteNodeResponse = client.call("PromoteNode", request)
        if not detach:
            ready.wait_votes(client, answer.member_id, f"node {name} is to be a manager")
        member_id = str(answer.member_id)
        how = "is to be a manager" if detach else "is a manager and votes"
        return (
            shapes.NodeChanged(node.id.hex(), name, "manager", member_id),
            f"node {name} {how} (member {member_id})",
        )

    _each(settings, nodes, change)


@click.command(cls=Command)
@_NODES
@detach_option
@common_options
@click.pass_obj
def demote(settings: Settings, nodes: tuple[str, ...], detach: bool) -> None:
    """Make managers workers only.

    Waits until they have left consensus. The leader hands the lead over first.
    """

    def change(client: Client, node: objects_pb2.Node) -> tuple[NodeChanged, str]:
        from warren.cli import members, shapes, wait
        from warren.pb.v1 import api_pb2

        name = node.description.name
        request = api_pb2.DemoteNodeRequest(request=client.request_id(), ref=node.id.hex())
        client.call("DemoteNode", request)
        if not detach:
            wait.until(
                client,
                lambda: members.not_gone(client, node.id),
                what="the others",
                so_far=f"node {name} is to manage no more",
                look="warrenctl cluster members",
            )
        return shapes.NodeChanged(node.id.hex(), name, "worker", None), f"node {name} is a worker"

    _each(settings, nodes, change)


@click.command("rm", cls=Command)
@_NODES
@click.option("--force", is_flag=True, help="Also while it is up; its containers are stopped.")
@common_options
@click.pass_obj
def remove(settings: Settings, nodes: tuple[str, ...], force: bool) -> None:
    """Take nodes out of the cluster.

    What they ran is started elsewhere. For hosts that are lost: one that is up leaves by itself
    (`cluster leave`, typed there). A removed one is refused until it joins anew.
    """

    def change(client: Client, node: objects_pb2.Node) -> tuple[NodeRemoved, str]:
        from warren.cli import shapes
        from warren.pb.v1 import api_pb2

        request = api_pb2.RemoveNodeRequest(
            request=client.request_id(), ref=node.id.hex(), force=force
        )
        client.call("RemoveNode", request)
        name = node.description.name
        return shapes.NodeRemoved(node.id.hex(), name), f"node {name} is removed"

    _each(settings, nodes, change)


def _each(
    settings: Settings,
    refs: tuple[str, ...],
    change: Callable[[Client, objects_pb2.Node], tuple[T, str]],
) -> None:
    """Change one node after the other, and say so of each. A wrong name changes none."""
    from warren.cli import render
    from warren.cli.client import Client

    changed = []
    with Client(settings) as client:
        for node in [_found(client, ref) for ref in refs]:
            view, sentence = change(client, node)
            changed.append(view)
            if settings.format == "table":
                click.echo(sentence)
    if settings.format != "table":
        render.show_list(settings, changed, (), lambda _: ())


def _found(client: Client, ref: str) -> objects_pb2.Node:
    """The node of that name, id, or beginning of an id that is long enough to be meant as one."""
    from warren.errors import WarrenError
    from warren.pb.v1 import api_pb2

    answer: api_pb2.GetNodeResponse = client.call("GetNode", api_pb2.GetNodeRequest(ref=ref))
    node = answer.node.node
    if len(ref) < _DIGITS_MIN and ref != node.description.name:
        raise WarrenError(
            "not_found",
            f"no node is named `{ref}`; to mean {node.description.name or 'a node'} by its id, "
            f"give at least {_DIGITS_MIN} digits: {node.id.hex()[:12]}",
        )
    return node

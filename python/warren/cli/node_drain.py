"""`warrenctl node drain|activate`: whether a node takes containers, and keeps those that it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, common_options, detach_option
from warren.cli.node_changes import NODES, each_node, found
from warren.cli.params import Parsed
from warren.cli.planning import plan_option

if TYPE_CHECKING:
    from warren.cli.client import Client
    from warren.cli.shapes import NodeAvailability
    from warren.pb.v1 import objects_pb2

__all__ = ["activate", "drain"]

WAIT_TIMEOUT_S: Final = 300.0
_DEADLINE: Final = Parsed("duration", parse.duration_ms)


@click.command(cls=Command)
@NODES
@click.option(
    "--deadline",
    type=_DEADLINE,
    metavar="DURATION",
    help="After this long, as in 10m, what is still there is stopped, room elsewhere or not.",
)
@plan_option
@detach_option
@common_options
@click.pass_obj
def drain(
    settings: Settings, nodes: tuple[str, ...], deadline: int | None, plan: bool, detach: bool
) -> int:
    """Move what runs on nodes elsewhere, and give them nothing new.

    Waits until nothing is left there. Of each service a few containers at a time are stopped, as
    in an update, and only as many as find room elsewhere; one that finds none stays, until the
    deadline if there is one. Containers are told to stop as ever: --stop-timeout is theirs. `node
    activate` has a node take containers again.
    """
    from warren.cli.client import Client
    from warren.pb.v1 import objects_pb2

    if plan:
        from warren.cli import planning
        from warren.pb.v1 import explain_pb2

        with Client(settings) as client:
            ids = [found(client, ref).id.hex() for ref in nodes]
            items = [explain_pb2.PlanItem(drain_node=node_id) for node_id in ids]
            return planning.ask(settings, client, items)

    def change(client: Client, node: objects_pb2.Node) -> tuple[NodeAvailability, str]:
        from warren.cli import shapes, wait

        _set(client, node, objects_pb2.AVAILABILITY_DRAIN, deadline or 0)
        name = node.description.name
        left = _left(client, node)
        if not detach and left:
            wait.until(
                client,
                lambda: _not_empty(client, node),
                what="the containers",
                so_far=f"node {name} is being drained",
                look=f"warrenctl node inspect {name}",
            )
            left = 0
        how = f"is being drained, {left} containers are left" if left else "is drained"
        return shapes.NodeAvailability(node.id.hex(), name, "drain", left), f"node {name} {how}"

    each_node(settings, nodes, change, WAIT_TIMEOUT_S)
    return 0


@click.command(cls=Command)
@NODES
@common_options
@click.pass_obj
def activate(settings: Settings, nodes: tuple[str, ...]) -> None:
    """Have drained or paused nodes take containers again. What has moved away stays where it is."""

    def change(client: Client, node: objects_pb2.Node) -> tuple[NodeAvailability, str]:
        from warren.cli import shapes
        from warren.pb.v1 import objects_pb2

        _set(client, node, objects_pb2.AVAILABILITY_ACTIVE, 0)
        name, left = node.description.name, _left(client, node)
        view = shapes.NodeAvailability(node.id.hex(), name, "active", left)
        return view, f"node {name} takes containers"

    each_node(settings, nodes, change)


def _set(
    client: Client,
    node: objects_pb2.Node,
    availability: objects_pb2.Availability,
    drain_within_ms: int,
) -> None:
    from warren.pb.v1 import api_pb2

    request = api_pb2.SetNodeAvailabilityRequest(
        request=client.request_id(),
        ref=node.id.hex(),
        availability=availability,
        drain_within_ms=drain_within_ms,
    )
    client.call("SetNodeAvailability", request)


def _left(client: Client, node: objects_pb2.Node) -> int:
    """Containers that may still be running on it."""
    from warren.pb.v1 import api_pb2, objects_pb2

    answer: api_pb2.GetNodeResponse = client.call(
        "GetNode", api_pb2.GetNodeRequest(ref=node.id.hex())
    )
    alive = objects_pb2.CONTAINER_STATE_RUNNING
    return sum(it.status.state <= alive for it in answer.containers)


def _not_empty(client: Client, node: objects_pb2.Node) -> str:
    left = _left(client, node)
    return f"{left} are left" if left else ""

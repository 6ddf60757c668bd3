"""`warrenctl node promote|demote|update|rm`: roles, labels, and who belongs to the cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import click

from warren import amounts
from warren.cli import parse
from warren.cli.common import Command, Settings, common_options, detach_option
from warren.cli.params import Parsed

if TYPE_CHECKING:
    import msgspec

    from warren.amounts import Taint
    from warren.cli.client import Client
    from warren.cli.shapes import NodeChanged, NodeRemoved, NodeUpdated
    from warren.pb.v1 import objects_pb2

    T = TypeVar("T", bound=msgspec.Struct)

__all__ = ["NODES", "demote", "each_node", "found", "promote", "remove", "update"]

CHANGE_TIMEOUT_S: Final = 60.0

# A name that is not there any more is often the beginning of another node's id.
_DIGITS_MIN: Final = 4

_LABEL: Final = Parsed("name=value", parse.label)
_TAINT: Final = Parsed("taint", amounts.taint)

NODES = click.argument("nodes", metavar="NODE...", nargs=-1, required=True)


@click.command(cls=Command)
@NODES
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

    each_node(settings, nodes, change)


@click.command(cls=Command)
@NODES
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

    each_node(settings, nodes, change)


@click.command(cls=Command)
@NODES
@click.option(
    "--label-add",
    "--label",
    "-l",
    "label",
    type=_LABEL,
    multiple=True,
    help="Add or replace a label.",
)
@click.option("--label-rm", multiple=True, metavar="NAME", help="Remove a label.")
@click.option(
    "--taint-add",
    "--taint",
    "taint",
    type=_TAINT,
    multiple=True,
    help="KEY[=VALUE]:no-schedule keeps containers off that do not tolerate it, "
    "KEY[=VALUE]:prefer-no-schedule while there is another node.",
)
@click.option("--taint-rm", multiple=True, metavar="KEY[:EFFECT]", help="Remove a taint.")
@common_options
@click.pass_obj
def update(
    settings: Settings,
    nodes: tuple[str, ...],
    label: tuple[tuple[str, str], ...],
    label_rm: tuple[str, ...],
    taint: tuple[Taint, ...],
    taint_rm: tuple[str, ...],
) -> None:
    """Set labels and taints of nodes.

    They are the cluster's, apart from what a host is configured with, and come before that. What
    already runs on a node stays there.
    """
    if not (label or label_rm or taint or taint_rm):
        raise click.UsageError("nothing to change; give --label, --label-rm, --taint or --taint-rm")

    def change(client: Client, node: objects_pb2.Node) -> tuple[NodeUpdated, str]:
        from warren.cli import shapes
        from warren.cli.placement import EFFECTS
        from warren.cli.views_placement import taints
        from warren.pb.v1 import api_pb2, objects_pb2

        removed = [text.partition(":") for text in taint_rm]
        request = api_pb2.UpdateNodeRequest(
            request=client.request_id(),
            ref=node.id.hex(),
            labels_add=dict(label),
            labels_remove=label_rm,
            taints_add=[
                objects_pb2.Taint(key=it.key, value=it.value, effect=EFFECTS[it.effect])
                for it in taint
            ],
            taints_remove=[
                objects_pb2.Taint(key=key.partition("=")[0], effect=_effect(effect))
                for key, _, effect in removed
            ],
        )
        answer: api_pb2.UpdateNodeResponse = client.call("UpdateNode", request)
        name, now = node.description.name, answer.node
        view = shapes.NodeUpdated(
            node.id.hex(), name, dict(sorted(now.labels.items())), taints(now.taints)
        )
        words = [f"{key}={value}" for key, value in view.labels_set.items()]
        words += [
            f"{it.key}={it.value}:{it.effect}" if it.value else f"{it.key}:{it.effect}"
            for it in view.taints_set
        ]
        return view, f"node {name}: {', '.join(words) or 'no labels or taints are set'}"

    each_node(settings, nodes, change)


def _effect(word: str) -> objects_pb2.TaintEffect:
    from warren.cli.placement import EFFECTS

    if word not in EFFECTS:
        raise click.UsageError(f"'{word}' is no effect; write no-schedule or prefer-no-schedule")
    return EFFECTS[word]


@click.command("rm", cls=Command)
@NODES
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

    each_node(settings, nodes, change)


def each_node(
    settings: Settings,
    refs: tuple[str, ...],
    change: Callable[[Client, objects_pb2.Node], tuple[T, str]],
    timeout_s: float = CHANGE_TIMEOUT_S,
) -> None:
    """Change one node after the other, and say so of each. A wrong name changes none."""
    from warren.cli import render
    from warren.cli.client import Client

    changed = []
    with Client(settings, timeout_s) as client:
        for node in [found(client, ref) for ref in refs]:
            view, sentence = change(client, node)
            changed.append(view)
            if settings.format == "table":
                click.echo(sentence)
    if settings.format != "table":
        render.show_list(settings, changed, (), lambda _: ())


def found(client: Client, ref: str) -> objects_pb2.Node:
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

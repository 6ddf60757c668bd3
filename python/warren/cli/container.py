"""`warrenctl container`: single containers, whatever their service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from warren.cli.common import Group, Settings, read_options

if TYPE_CHECKING:
    from warren.cli.shapes import ContainerView
    from warren.pb.v1 import api_pb2

__all__ = ["container"]


@click.group(cls=Group)
def container() -> None:
    """Look at containers."""


@container.command()
@click.option("--all", "-a", "everything", is_flag=True, help="Also those that have ended.")
@read_options
@click.pass_obj
def ls(settings: Settings, everything: bool) -> None:
    """List the containers of all services."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        answer: api_pb2.ListContainersResponse = client.call(
            "ListContainers", api_pb2.ListContainersRequest(all=everything)
        )
    containers = [views.container(view) for view in answer.containers]
    containers.sort(key=lambda each: (each.service, each.slot, each.created_at or "", each.id))
    header = ("ID", "NAME", "NODE", "DESIRED", "STATE", "ATTEMPT", "AGE", "WHY")
    render.show_list(settings, containers, header, _row)


def _row(each: ContainerView) -> tuple[str, ...]:
    from warren.cli.render import age, short

    node = each.node or short(each.node_id)
    return (
        short(each.id),
        f"{each.service}.{each.slot or node}",
        node,
        each.desired,
        each.state,
        str(each.attempt),
        age(each.started_at or each.created_at),
        each.reason or "",
    )


@container.command()
@click.argument("container")
@read_options
@click.pass_obj
def inspect(settings: Settings, container: str) -> None:
    """Show everything about a container: an id, the beginning of one, or SERVICE.SLOT."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        answer: api_pb2.GetContainerResponse = client.call(
            "GetContainer", api_pb2.GetContainerRequest(ref=container)
        )
    render.show(settings, views.container_detail(answer.container))

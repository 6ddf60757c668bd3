"""`warrenctl service`: the group, and the commands that only look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli.common import Group, Settings, read_options
from warren.cli.logs import logs
from warren.cli.service_changes import create, remove, scale, update

if TYPE_CHECKING:
    from warren.cli.shapes import ServiceDetail, ServiceView, SlotView
    from warren.pb.v1 import api_pb2

__all__ = ["service"]

_EVENTS_SHOWN: Final = 10


@click.group(cls=Group)
def service() -> None:
    """Create, change, watch and remove services."""


for command in (create, update, scale, remove, logs):
    service.add_command(command)


@service.command()
@read_options
@click.pass_obj
def ls(settings: Settings) -> None:
    """List the services.

    LOOPING counts containers that crash again and again. It is shown where there are any; the
    leader alone knows of them.
    """
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        answer: api_pb2.ListServicesResponse = client.call(
            "ListServices", api_pb2.ListServicesRequest()
        )

    services = sorted((views.service(view) for view in answer.services), key=lambda s: s.name)
    # Names and images leave no room for a column of zeros.
    looping = ("LOOPING",) if any(each.crash_looping for each in services) else ()

    def row(each: ServiceView) -> tuple[str, ...]:
        running = f"{each.running}/{each.desired}"
        return (
            render.short(each.id),
            each.name,
            each.mode,
            f"{running} (being removed)" if each.removing else running,
            *(str(each.crash_looping or "-") for _ in looping),
            render.age(each.created_at),
            each.container.image,
        )

    header = ("ID", "NAME", "MODE", "RUNNING", *looping, "AGE", "IMAGE")
    render.show_list(settings, services, header, row)


@service.command()
@click.argument("service")
@click.option("--all", "-a", "everything", is_flag=True, help="Also those stopped or leaving.")
@read_options
@click.pass_obj
def ps(settings: Settings, service: str, everything: bool) -> None:
    """List the slots of a service: what runs where, and why what does not."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        answer: api_pb2.ListSlotsResponse = client.call(
            "ListSlots", api_pb2.ListSlotsRequest(ref=service, all=everything)
        )
    slots = [views.slot(message, answer.service) for message in answer.slots]
    header = ("SLOT", "CONTAINER", "NODE", "DESIRED", "STATE", "ATTEMPT", "AGE", "WHY")
    render.show_list(settings, slots, header, _slot_row)


def _slot_row(each: SlotView) -> tuple[str, ...]:
    from warren.cli import render

    why = each.reason or ""
    if each.exit_code is not None and str(each.exit_code) not in why:
        why = f"{why}; exit code {each.exit_code}" if why else f"exit code {each.exit_code}"
    if (loop := each.crash_loop) is not None:
        failed = f"crash-looping: failed {loop.failures} times since {loop.since}"
        why = f"{failed}; {why}" if why else failed
    node = each.node or render.short(each.node_id)
    return (
        f"{each.service}.{each.slot}" if each.slot else f"{each.service}.{node}",
        render.short(each.container_id),
        node,
        each.desired,
        each.state,
        str(each.attempt) if each.attempt else "-",
        render.age(each.started_at or each.created_at),
        why,
    )


@service.command()
@click.argument("service")
@read_options
@click.pass_obj
def inspect(settings: Settings, service: str) -> None:
    """Show everything about a service, and its newest events."""
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.cli.history import newest_events
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        answer: api_pb2.GetServiceResponse = client.call(
            "GetService", api_pb2.GetServiceRequest(ref=service)
        )
        # By its id: a service of the same name may have come meanwhile.
        ref = answer.service.service.id.hex()
        events, why = newest_events(client, ref, _EVENTS_SHOWN)
    detail = views.service_detail(answer.service, events)
    render.show(settings, detail, {"events": _history(detail, why)})


def _history(each: ServiceDetail, why: str) -> str:
    """The newest events as a table, or why there is none."""
    from warren.cli.history import EVENT_HEADER, event_row
    from warren.cli.render import cells_text

    if each.events is None:
        return f"events: not known: {why}"
    if not each.events:
        return "events: none since the present leader leads"
    rows = [EVENT_HEADER, *(event_row(event) for event in each.events)]
    table = "\n".join(f"  {row}" for row in cells_text(rows).splitlines())
    return f"events (the newest {len(each.events)}; more: warrenctl events {each.name}):\n{table}"

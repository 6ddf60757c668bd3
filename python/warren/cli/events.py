"""`warrenctl events`: what was decided about containers and what happened to everything else."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, common_options, until_ctrl_c
from warren.cli.params import Parsed
from warren.errors import PASSING, WarrenError

if TYPE_CHECKING:
    from collections.abc import Collection

    from warren.cli.client import Client
    from warren.cli.shapes_explain import EventView
    from warren.pb.v1 import explain_pb2


__all__ = ["KINDS", "events"]

KINDS: Final = (
    *("placed", "pending", "replaced", "moved", "stays", "scaled_down", "slot_moved"),
    *("preempted", "preemption_given_up", "crash_looping", "crash_loop_over"),
    *("avoided", "forgiven"),
    *("service_created", "service_updated", "service_removing", "service_removed"),
    *("node_joined", "node_removed", "node_ready", "node_down"),
    *("node_active", "node_paused", "node_draining"),
    *("manager_added", "manager_removed", "leader_elected"),
    *("replacement_frozen", "replacement_resumed", "cluster_changed"),
)
_SHOWN: Final = 100
#: At most so many come with one answer while they are followed.
_FOLLOWED_MAX: Final = 1000
_POLL_S: Final = 1.0
# A manager that starts manages nothing yet. Before anything was told, the host is the wrong one.
_STARTING: Final = "worker_only"


@click.command(cls=Command)
@click.argument("service", required=False)
@click.option("--watch", "-w", is_flag=True, help="Go on showing what is decided, until Ctrl-C.")
@click.option(
    "--limit",
    type=Parsed("n", parse.count),
    default=_SHOWN,
    help=f"The newest so many, to begin with.  [default: {_SHOWN}]",
)
@click.option(
    "--since",
    "since_ms",
    type=Parsed("duration", parse.duration_ms),
    help="Not older than this, by the manager's clock.",
)
@click.option("--type", "kinds", type=click.Choice(KINDS), multiple=True, help="Of these only.")
@click.option("--service", "named", metavar="NAME", help="Of this service, as the argument says.")
@click.option(
    "--node", "nodes", metavar="NODE", multiple=True, help="On these nodes only: names or ids."
)
@common_options
@click.pass_obj
def events(
    settings: Settings,
    service: str | None,
    watch: bool,
    limit: int,
    since_ms: int | None,
    kinds: tuple[str, ...],
    named: str | None,
    nodes: tuple[str, ...],
) -> None:
    """List what happened in the cluster, or to a service, and why, the oldest first.

    To services, nodes and managers: created, updated, removed; joined, down, ready, draining; who
    leads. Of containers what was decided: placed, pending, replaced, moved, stays (on a node that
    is being drained), scaled down, slot moved (what stays took another number); preempted,
    preemption given up; crash looping, crash loop over; avoided, forgiven (a node on which the
    service keeps failing). The last 4096 of each; of decisions, those since the present leader
    leads. --limit counts what the other options let pass. A service or node that is gone is known
    by its name or its whole id.

    With --watch nothing is missed or shown twice, across lost connections too; where that cannot
    be, since another manager leads, which does not know what the one before has decided, or too
    much happened meanwhile, it is said (start_over), and what is known is shown. As JSON it is a
    line for each.
    """
    from warren.cli import render
    from warren.cli.client import Client
    from warren.cli.history import EVENT_HEADER, event_row
    from warren.pb.v1 import explain_pb2

    if service is not None and named is not None and service != named:
        raise click.UsageError(f"two services: {service} and --service {named}; name one")
    request = explain_pb2.ListEventsRequest(
        ref=service or named or "",
        count_max=limit or _SHOWN,
        kinds=dict.fromkeys(kinds),
        nodes=dict.fromkeys(nodes),
        # 0 would be of any age.
        newer_than_ms=0 if since_ms is None else max(1, since_ms),
    )
    with Client(settings) as client:
        if watch:
            with until_ctrl_c(settings):
                _follow(client, request)
            return
        listed = _wanted(client, request, client.call("ListEvents", request))
    render.show_list(settings, listed, EVENT_HEADER, event_row)


def _wanted(
    client: Client,
    request: explain_pb2.ListEventsRequest,
    answer: explain_pb2.ListEventsResponse,
) -> list[EventView]:
    """The events that were asked for; of an older manager's answer those of them that are in it."""
    from warren.cli import views_explain
    from warren.pb.v1 import api_pb2

    found = [views_explain.event(it) for it in answer.events]
    if answer.filtered:
        return found
    if request.ref and not request.HasField("after"):
        # It says nothing of a service that is not there.
        client.call("GetService", api_pb2.GetServiceRequest(ref=request.ref))
    since_ms = 0.0
    if request.newer_than_ms and not request.HasField("after"):
        since_ms = time.time() * 1000 - request.newer_than_ms
    return [
        view
        for view, event in zip(found, answer.events, strict=True)
        if event.time_ms >= since_ms
        and (not request.kinds or event.kind in request.kinds)
        and (not request.nodes or _is_named(event, request.nodes))
    ]


def _is_named(event: explain_pb2.ServiceEvent, nodes: Collection[str]) -> bool:
    id_ = event.node_id.hex()
    return bool(id_) and (event.node_name in nodes or any(id_.startswith(it) for it in nodes))


def _follow(client: Client, request: explain_pb2.ListEventsRequest) -> None:
    """Asks again and again for what came after what was shown; ends by Ctrl-C, or by an error that
    trying again does not mend.
    """
    from warren.cli import render

    settings, trouble = client.settings, ""
    asked_ms, began_s = request.newer_than_ms, time.monotonic()
    while True:
        client.renew()
        if asked_ms:
            # Should it start over, then from the same moment as at first.
            request.newer_than_ms = asked_ms + int((time.monotonic() - began_s) * 1000)
        try:
            answer: explain_pb2.ListEventsResponse = client.call("ListEvents", request)
            told = _wanted(client, request, answer)
        except WarrenError as error:
            followed = request.HasField("after")
            # Who watches an outage wants to see the end of it, also where the majority is away.
            if error.code not in PASSING and not (followed and error.code == _STARTING):
                raise
            if error.message != trouble:
                click.echo(f"{error.message}; trying on", err=True)
            trouble = error.message
            time.sleep(_POLL_S)
            continue
        trouble = ""
        if not answer.HasField("revision"):
            raise WarrenError(
                "unsupported",
                "this manager's release cannot be followed: update it, or leave out --watch",
            )
        if answer.start_over:
            _say_start_over(settings)
        render.show_records(settings, told, _line)
        full = len(answer.events) >= request.count_max and request.HasField("after")
        request.after.CopyFrom(answer.revision)
        request.count_max = _FOLLOWED_MAX
        if not full:
            time.sleep(_POLL_S)


def _say_start_over(settings: Settings) -> None:
    if settings.format == "table":
        click.echo(
            "start over: another manager leads, or too much happened meanwhile; what the one "
            "before has decided may be missing",
            err=True,
        )
    elif settings.format == "json":
        click.echo('{"start_over":true}')
    else:
        click.echo("---\nstart_over: true")


def _line(each: EventView) -> str:
    from warren.cli.history import event_row

    return "  ".join((each.time or "", *event_row(each)[1:]))

"""`warrenctl events`: what was decided lately about containers, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, common_options
from warren.cli.params import Parsed

if TYPE_CHECKING:
    from warren.pb.v1 import explain_pb2

__all__ = ["events"]

_SHOWN: Final = 100


@click.command(cls=Command)
@click.argument("service", required=False)
@click.option(
    "--limit",
    type=Parsed("n", parse.count),
    default=_SHOWN,
    help=f"The newest so many.  [default: {_SHOWN}]",
)
@common_options
@click.pass_obj
def events(settings: Settings, service: str | None, limit: int) -> None:
    """List what was decided about the containers of a service, or of all, the oldest first.

    Placed, pending, replaced, moved, stays (on a node that is being drained), scaled down, slot
    moved (what stays took another number); preempted, preemption given up; crash looping, crash
    loop over; avoided, forgiven (a node on which the service keeps failing). The last 4096
    decisions since the present leader leads.
    """
    from warren.cli import render, views_explain
    from warren.cli.client import Client
    from warren.cli.history import EVENT_HEADER, event_row
    from warren.pb.v1 import explain_pb2

    with Client(settings) as client:
        if service is not None:
            from warren.pb.v1 import api_pb2

            # A wrong name is told as ever.
            client.call("GetService", api_pb2.GetServiceRequest(ref=service))
        request = explain_pb2.ListEventsRequest(ref=service or "", count_max=limit or _SHOWN)
        answer: explain_pb2.ListEventsResponse = client.call("ListEvents", request)
    listed = [views_explain.event(it) for it in answer.events]
    render.show_list(settings, listed, EVENT_HEADER, event_row)

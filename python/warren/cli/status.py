"""`warrenctl cluster status`: one screen that says how the cluster is and what to look at first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli.common import Command, Settings, read_options
from warren.cli.exits import EXIT_ATTENTION

if TYPE_CHECKING:
    from warren.cli.client import Client
    from warren.cli.views_status import Asked
    from warren.pb.v1 import api_pb2, node_pb2

__all__ = ["ask", "status"]

TIMEOUT_S: Final = 10.0
_EVENTS_ASKED: Final = 500
_OF_LOOPS: Final = ("crash_looping", "crash_loop_over")


@click.command(cls=Command)
@read_options
@click.pass_obj
def status(settings: Settings) -> int:
    """Show on one screen how the cluster is, and what to look at first.

    Managers that answer and how many may still be lost; nodes; services that do not run as they
    should, and why; the newest events. Findings are ranked: critical, warning, note; each names the
    command that says more. Without a majority of managers it shows what one of them has, and how
    old that is.

    Exit code 0: nothing needs attention (there may be notes). 8: something does. 3: no manager
    could be asked.
    """
    import time

    from warren.cli import render, status_screen, terminal, views_status
    from warren.cli.client import Client

    with Client(settings, TIMEOUT_S) as client:
        asked = ask(client)
    now_ms = time.time_ns() // 1_000_000
    view = views_status.status(asked, now_ms=now_ms)
    if settings.format == "table":
        lines = status_screen.lines(view, terminal.columns(), now_ms / 1000)
        terminal.write(lines)
    else:
        render.show(settings, view)
    return 0 if view.healthy else EXIT_ATTENTION


def ask(client: Client) -> Asked:
    """Everything that the screen shows.

    Where there is no majority, of one manager's own state. Raises WarrenError where no manager
    answers at all.
    """
    from warren.cli import second_look

    return second_look.look(client, lambda no_quorum: _asked(client, no_quorum))


def _asked(client: Client, no_quorum: str) -> Asked:
    from warren.cli import members, views_status
    from warren.cli.history import newest_events
    from warren.pb.v1 import api_pb2

    cluster: api_pb2.GetClusterResponse = client.call("GetCluster", api_pb2.GetClusterRequest())
    nodes: api_pb2.ListNodesResponse = client.call("ListNodes", api_pb2.ListNodesRequest())
    services: api_pb2.ListServicesResponse = client.call(
        "ListServices", api_pb2.ListServicesRequest()
    )
    told = members.told_by_leader(client, nodes)
    stale = client.settings.stale
    events, events_why = newest_events(client, "", _EVENTS_ASKED)
    loop_events = events
    if events is not None and cluster.node_id != cluster.leader_node_id:
        # By themselves: a loop may have begun long before the newest of all.
        loop_events, _ = newest_events(client, "", _EVENTS_ASKED, _OF_LOOPS)
    return views_status.Asked(
        cluster=cluster,
        members=told.members,
        joint=told.joint,
        nodes=nodes.nodes,
        services=services.services,
        slots=_slots(client, views_status.candidates(services.services, loop_events)),
        events=events,
        loop_events=loop_events,
        events_why=events_why,
        no_quorum=no_quorum,
        stale=stale,
        newest_change_ms=_newest_change_ms(client, services) if stale else 0,
        daemon=_daemon(client),
    )


def _daemon(client: Client) -> node_pb2.GetDaemonResponse | None:
    """What the daemon that was asked says of itself; over the network it says nothing: None."""
    from warren.errors import WarrenError
    from warren.pb.v1 import node_pb2

    try:
        answer: node_pb2.GetDaemonResponse = client.call(
            "GetDaemon", node_pb2.GetDaemonRequest(), retry=False
        )
    except WarrenError:
        return None
    return answer


def _slots(client: Client, services: list[api_pb2.ServiceView]) -> dict[bytes, list[api_pb2.Slot]]:
    from warren.cli.views_status import SERVICES_ASKED_MAX
    from warren.errors import WarrenError
    from warren.pb.v1 import api_pb2

    found = {}
    for each in services[:SERVICES_ASKED_MAX]:
        request = api_pb2.ListSlotsRequest(ref=each.service.id.hex())
        try:
            answer: api_pb2.ListSlotsResponse = client.call("ListSlots", request)
        except WarrenError as error:
            if error.code != "not_found":
                raise
            continue  # it was removed meanwhile
        found[each.service.id] = list(answer.slots)
    return found


def _newest_change_ms(client: Client, services: api_pb2.ListServicesResponse) -> int:
    """When the newest change that the state knows of happened."""
    from warren.pb.v1 import api_pb2

    times = [it.service.updated_at_ms for it in services.services]
    answer: api_pb2.ListContainersResponse = client.call(
        "ListContainers", api_pb2.ListContainersRequest(all=True)
    )
    for it in answer.containers:
        status = it.container.status
        times += [it.container.created_at_ms, status.started_at_ms, status.finished_at_ms]
    return max(times, default=0)

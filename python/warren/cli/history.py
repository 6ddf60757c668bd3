"""The newest events, as several commands show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from warren.cli import views_explain
from warren.cli.render import age, short
from warren.errors import WarrenError
from warren.pb.v1 import explain_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from warren.cli.client import Client
    from warren.cli.shapes_explain import EventView

__all__ = ["EVENT_HEADER", "event_row", "newest_events"]

EVENT_HEADER: Final = ("AGE", "CONTAINER", "WHAT", "NODE", "WHY")


def newest_events(
    client: Client, ref: str, count: int, kinds: Sequence[str] = ()
) -> tuple[list[EventView] | None, str]:
    """The newest `count` events of a service (of all: ""), the oldest first; of `kinds` only, where
    any are named and the manager filters.

    They are the leader's: where it cannot be asked, None, and why.
    """
    request = explain_pb2.ListEventsRequest(ref=ref, count_max=count, kinds=kinds)
    try:
        answer: explain_pb2.ListEventsResponse = client.call("ListEvents", request, retry=False)
    except WarrenError as error:
        return None, error.message
    return [views_explain.event(it) for it in answer.events], ""


def event_row(each: EventView, now_s: float | None = None) -> tuple[str, ...]:
    """The cells below EVENT_HEADER. `now_s`: since the epoch; default: the clock's."""
    service = each.service or short(each.service_id or "")
    return (
        age(each.time, now_s),
        f"{service}.{each.slot}" if each.slot else service,
        each.kind.replace("_", " "),
        each.node or short(each.node_id),
        each.why,
    )

"""What plans are asked with, and how they are shown. Shared by the commands that have `--plan`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from warren.cli.exits import EXIT_WAITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from warren.cli.client import Client
    from warren.cli.common import Settings
    from warren.cli.shapes_explain import PlannedNodeView, PlannedServiceView, PlanView
    from warren.pb.v1 import explain_pb2

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["ask", "plan_option"]

_NODES_SHOWN: Final = 8
_PREEMPTED_SHOWN: Final = 20


def plan_option(function: F) -> F:
    """`--plan`: on every command that changes where containers are."""
    return click.option(
        "--plan",
        is_flag=True,
        help=f"Say what would happen, and change nothing; exit code {EXIT_WAITS} if something "
        "would find no room.",
    )(function)


def ask(settings: Settings, client: Client, items: Iterable[explain_pb2.PlanItem]) -> int:
    """Ask what the items would lead to, and show it; the exit code."""
    from warren.cli import render, views_explain
    from warren.pb.v1 import explain_pb2

    answer: explain_pb2.PlanResponse = client.call("Plan", explain_pb2.PlanRequest(items=items))
    view = views_explain.plan(answer)
    if settings.format == "table":
        click.echo("\n".join(_lines(view)))
    else:
        render.show(settings, view)
    return 0 if view.fits else EXIT_WAITS


def _lines(view: PlanView) -> list[str]:
    lines = []
    for service in view.services:
        lines += _service(service)
    for it in view.preempted[:_PREEMPTED_SHOWN]:
        lines.append(
            f"{_name(it.service, it.slot)} on {it.node} (priority {it.priority}) would make room "
            f"for {_name(it.by_service, it.by_slot)} (priority {it.by_priority})"
        )
    more = view.preempted_total - min(len(view.preempted), _PREEMPTED_SHOWN)
    if more:
        lines.append(f"{more} more would make room")
    if not view.services:
        lines.append("nothing would change")
    if not view.finished:
        lines.append("this is not all: it took too many steps; plan less at once")
    return lines


def _name(service: str, slot: int | None) -> str:
    return service if slot is None else f"{service}.{slot}"


def _service(each: PlannedServiceView) -> list[str]:
    lines = [f"{each.service}: {_ACTIONS[each.action]}"]
    lines += [f"  {it.field}: {_value(it.old)} -> {_value(it.new)}" for it in each.changes]
    if each.unchanged:
        lines.append(f"  {each.unchanged} of {each.desired} stay as they are")
    for words, nodes in (
        ("would be stopped", each.stopped),
        ("would be preempted", each.preempted),
        ("would be started", each.placed),
    ):
        if nodes:
            total = sum(it.containers for it in nodes)
            lines.append(f"  {total} {words}: {_on(nodes)}")
    if each.pending:
        lines.append(f"  {each.pending} would find no node: {each.pending_reason}")
    if each.blocked:
        lines.append(f"  {each.blocked} would stay: {each.blocked_reason}")
    return lines


_ACTIONS: Final = {
    "create": "would be created",
    "update": "would be changed",
    "none": "nothing to change",
    "moved": "would move",
    "preempted": "would lose containers to others",
}


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_value(each) for each in value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    return str(value)


def _on(nodes: Sequence[PlannedNodeView]) -> str:
    shown = [f"{it.node} {it.containers}" for it in nodes[:_NODES_SHOWN]]
    if len(nodes) > _NODES_SHOWN:
        left = nodes[_NODES_SHOWN:]
        shown.append(f"{sum(it.containers for it in left)} on {len(left)} more")
    return ", ".join(shown)

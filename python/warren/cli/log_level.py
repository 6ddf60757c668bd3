"""`warrenctl debug log-level`: what a daemon logs, while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from warren.cli import render
from warren.cli.client import Client
from warren.cli.shapes import LogLevelsView, LogLevelView
from warren.errors import WarrenError
from warren.pb.v1 import node_pb2

if TYPE_CHECKING:
    from warren.cli.common import Settings

__all__ = ["show_levels"]

_Answer = node_pb2.GetLogLevelsResponse | node_pb2.SetLogLevelResponse


def show_levels(
    settings: Settings, component: str | None, level: str | None, for_ms: int | None
) -> None:
    """Show the levels, of all or of `component`; change one first, where `level` is given.

    Raises WarrenError: `invalid` where there is no such component or level.
    """
    if for_ms is not None and level in (None, "default"):
        raise WarrenError(
            "invalid", "--for goes with a level: warrenctl debug log-level raft debug --for 10m"
        )
    if for_ms == 0:
        raise WarrenError("invalid", "--for 0 would change nothing; leave it out, or name a time")
    with Client(settings, local=True) as client:
        if level is None:
            answer: _Answer = client.call("GetLogLevels", node_pb2.GetLogLevelsRequest())
        else:
            request = node_pb2.SetLogLevelRequest(
                component=component or "", level=level, for_ms=for_ms or 0
            )
            answer = client.call("SetLogLevel", request)
    view = _view(answer, component)
    if component is not None and not view.levels:
        known = ", ".join(each.component for each in answer.levels)
        raise WarrenError("invalid", f"no component '{component}' logs; there are {known}")
    if settings.format != "table":
        render.show(settings, view)
        return
    click.echo(f"{'COMPONENT':14}LEVEL")
    for each in view.levels:
        click.echo(f"{each.component:14}{each.level:7}{_note(each, view.configured)}".rstrip())


def _view(answer: _Answer, component: str | None) -> LogLevelsView:
    return LogLevelsView(
        configured=answer.configured,
        levels=[
            LogLevelView(
                component=each.component,
                level=each.level,
                changed=each.changed,
                remaining_ms=each.remaining_ms or None,
            )
            for each in answer.levels
            if component in (None, each.component)
        ],
    )


def _note(row: LogLevelView, configured: str) -> str:
    if row.changed:
        ends = "until changed or restarted"
        if row.remaining_ms is not None:
            ends = f"for {max(1, round(row.remaining_ms / 1000))} s more"
        return f"changed, {ends}; configured: {configured}"
    return "as configured" if row.component == "all" else ""

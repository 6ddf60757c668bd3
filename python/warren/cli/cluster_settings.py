"""`warrenctl cluster update` and `thaw`: settings of the whole cluster, and the end of a freeze."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli import parse
from warren.cli.common import Command, Settings, common_options
from warren.cli.options import Parsed

if TYPE_CHECKING:
    from warren.cli.shapes import ClusterChanged

__all__ = ["thaw", "update"]

_SHARE: Final = Parsed("percent", parse.percent)
_GRACE: Final = Parsed("duration", parse.duration_ms)


@click.command(cls=Command)
@click.option(
    "--lost-freeze",
    type=_SHARE,
    help="Replace nothing while more of the workers than this are lost; 100%: always replace.",
)
@click.option("--node-grace", type=_GRACE, help="Silence after which a worker is down.")
@common_options
@click.pass_obj
def update(settings: Settings, lost_freeze: int | None, node_grace: int | None) -> None:
    """Change settings of the whole cluster; what is not said stays as it is."""
    from warren.cli import render

    if not lost_freeze and not node_grace:
        raise click.UsageError("nothing to change; give --lost-freeze or --node-grace")
    changed = _update(settings, lost_freeze or 0, node_grace or 0, thaw=False)
    text = (
        f"nothing is replaced while more than {changed.lost_nodes_freeze_percent}% of the workers "
        f"are lost; a worker is down after {changed.node_grace_ms / 1000:g} s of silence"
    )
    render.show_line(settings, changed, text)


@click.command(cls=Command)
@common_options
@click.pass_obj
def thaw(settings: Settings) -> None:
    """Let containers of lost workers be replaced again.

    For when so many were lost at once that replacement froze, and they are not coming back. Only
    workers that are lost from now on can freeze it again.
    """
    from warren.cli import render

    changed = _update(settings, 0, 0, thaw=True)
    render.show_line(settings, changed, "containers of lost workers are replaced")


def _update(settings: Settings, percent: int, grace_ms: int, *, thaw: bool) -> ClusterChanged:
    from warren.cli import shapes
    from warren.cli.client import Client
    from warren.pb.v1 import api_pb2

    with Client(settings) as client:
        request = api_pb2.UpdateClusterRequest(
            request=client.request_id(),
            lost_nodes_freeze_percent=percent,
            node_grace_ms=grace_ms,
            thaw=thaw,
        )
        answer: api_pb2.UpdateClusterResponse = client.call("UpdateCluster", request)
    now = answer.settings
    return shapes.ClusterChanged(now.lost_nodes_freeze_percent, now.node_grace_ms)

"""`warrenctl cluster update` and `thaw`: settings of the whole cluster, and the end of a freeze."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from warren.cli import asks, parse
from warren.cli.common import Command, Settings, common_options
from warren.cli.params import Parsed

if TYPE_CHECKING:
    from warren.cli.shapes import ClusterChanged
    from warren.pb.v1 import api_pb2

__all__ = ["thaw", "update"]

_SHARE: Final = Parsed("percent", parse.percent)
_GRACE: Final = Parsed("duration", parse.duration_ms)
_OVERCOMMIT: Final = Parsed("percent", asks.overcommit)


@click.command(cls=Command)
@click.option(
    "--lost-freeze",
    type=_SHARE,
    help="Replace nothing while more of the workers than this are lost; 100%: always replace.",
)
@click.option("--node-grace", type=_GRACE, help="Silence after which a worker is down.")
@click.option("--overcommit-cpu", type=_OVERCOMMIT, help="CPUs that may be reserved on nodes.")
@click.option("--overcommit-memory", type=_OVERCOMMIT, help="Memory, likewise, as in 120%.")
@click.option("--overcommit-disk", type=_OVERCOMMIT, help="Disk, likewise.")
@click.option("--overcommit-pids", type=_OVERCOMMIT, help="Processes, likewise.")
@common_options
@click.pass_obj
def update(
    settings: Settings, /, lost_freeze: int | None, node_grace: int | None, **overcommit: int | None
) -> None:
    """Change settings of the whole cluster; what is not said stays as it is.

    Overcommit is in percent of what nodes have for containers; what already runs stays.
    """
    from warren.cli import render
    from warren.pb.v1 import api_pb2

    request = api_pb2.UpdateClusterRequest(
        lost_nodes_freeze_percent=lost_freeze or 0, node_grace_ms=node_grace or 0
    )
    for name, percent in overcommit.items():
        setattr(request, f"{name}_percent", percent or 0)
    if request == api_pb2.UpdateClusterRequest():
        raise click.UsageError(
            "nothing to change; give --lost-freeze, --node-grace or an --overcommit option"
        )
    changed = _update(settings, request)
    share = changed.overcommit
    text = (
        f"nothing is replaced while more than {changed.lost_nodes_freeze_percent}% of the workers "
        f"are lost; a worker is down after {changed.node_grace_ms / 1000:g} s of silence; of what "
        f"nodes have, {share.cpu_percent}% of the CPUs, {share.memory_percent}% of the memory, "
        f"{share.disk_percent}% of the disk and {share.pids_percent}% of the processes may be "
        "reserved"
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
    from warren.pb.v1 import api_pb2

    changed = _update(settings, api_pb2.UpdateClusterRequest(thaw=True))
    render.show_line(settings, changed, "containers of lost workers are replaced")


def _update(settings: Settings, request: api_pb2.UpdateClusterRequest) -> ClusterChanged:
    from warren.cli import shapes, views
    from warren.cli.client import Client

    with Client(settings) as client:
        request.request.CopyFrom(client.request_id())
        answer: api_pb2.UpdateClusterResponse = client.call("UpdateCluster", request)
    now = answer.settings
    return shapes.ClusterChanged(
        now.lost_nodes_freeze_percent, now.node_grace_ms, views.overcommit(now)
    )

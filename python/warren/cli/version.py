"""`warrenctl version`: this client's, and the daemon's it would talk to."""

from __future__ import annotations

import click

from warren.cli.common import Command, Settings, common_options

__all__ = ["version"]


@click.command(cls=Command)
@click.option("--client", "client_only", is_flag=True, help="Do not ask the daemon.")
@common_options
@click.pass_obj
def version(settings: Settings, client_only: bool) -> None:
    """Show the version of the client and of the daemon."""
    from warren import __version__
    from warren.cli import render, views
    from warren.cli.client import Client
    from warren.cli.shapes import DaemonView, VersionView
    from warren.errors import WarrenError
    from warren.pb.v1 import node_pb2

    daemon: DaemonView | None = None
    failure: WarrenError | None = None
    if not client_only:
        try:
            with Client(settings) as client:
                daemon = views.daemon(client.call("GetDaemon", node_pb2.GetDaemonRequest()))
        except WarrenError as error:
            failure = error
    render.show(settings, VersionView(client=__version__, daemon=daemon))
    if failure is not None:
        raise failure

"""`warrenctl plan`: what a file of services would lead to."""

from __future__ import annotations

import click

from warren.cli.common import Command, Settings, read_options

__all__ = ["plan"]


@click.command(cls=Command)
@click.option(
    "--file", "-f", "files", multiple=True, required=True, metavar="FILE", help="YAML; - is stdin."
)
@read_options
@click.pass_obj
def plan(settings: Settings, files: tuple[str, ...]) -> int:
    """Say what creating or changing the services of a file would lead to, and change nothing.

    The file is a list of services. Each has a name, and what the flags of `service create` have, by
    the names of the flags; lists and mappings stand for flags that are repeated. What is not said
    is as in `service create`, but the image of a service that there is already stays what it is.

    Exit codes: 0 nothing to change, or everything finds room; 7 something would wait.
    """
    from warren.cli import manifest, planning
    from warren.cli.client import Client
    from warren.pb.v1 import explain_pb2

    specs = [spec for name in files for spec in manifest.read(name)]
    with Client(settings) as client:
        items = [explain_pb2.PlanItem(service=spec) for spec in specs]
        return planning.ask(settings, client, items)

"""`warrenctl dashboard`: the dashboards for Grafana that belong to this release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from warren.cli.common import Group, Settings, format_option
from warren.dashboards import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from warren.cli.shapes import DashboardView

__all__ = ["dashboard"]


@click.group(cls=Group)
def dashboard() -> None:
    """Write dashboards for Grafana."""


@dashboard.command()
@click.argument("name", metavar="[NAME]", required=False, type=click.Choice(NAMES))
@click.option(
    "--output",
    "-o",
    metavar="DIR",
    type=click.Path(file_okay=False),
    help="Write warren-NAME.json there; the directory is made, older files are replaced.",
)
@click.option(
    "--runbooks",
    metavar="URL",
    help="Where docs/runbooks can be read: panels link to URL/ALERT.md.  "
    "[default: panels only name the pages]",
)
@format_option
@click.pass_obj
def export(settings: Settings, name: str | None, output: str | None, runbooks: str | None) -> None:
    """Write what Grafana imports: cluster, managers, workers, services.

    Without NAME all four, into the directory of --output. Without --output the one that is named,
    to standard output. No daemon is asked.

    They show what Prometheus has with the configuration and rules of deploy/prometheus. Grafana
    keeps them apart by their uid, warren-NAME: importing one again replaces it.
    """
    from pathlib import Path

    from warren.cli import render
    from warren.dashboards import grafana

    address = _url(runbooks) if runbooks else ""
    if output is None:
        if name is None:
            raise click.UsageError(
                f"name one of {', '.join(NAMES)}, or a directory with --output for all of them"
            )
        click.echo(grafana.written(name, address), nl=False)
        return
    made = [_write(each, Path(output), address) for each in ([name] if name else NAMES)]
    render.show_list(settings, made, ("TITLE", "FILE"), lambda each: (each.title, each.file))


def _url(text: str) -> str:
    """As it was given. A link to anything else would lead into Grafana itself, or run a script."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise click.BadParameter(
            f"{text!r} is no URL that a name can follow, as in https://wiki.example/runbooks",
            param_hint="--runbooks",
        )
    return text


def _write(name: str, folder: Path, runbooks: str) -> DashboardView:
    """Whole under its name or not there: Grafana may be watching the directory.

    Raises WarrenError `failed`.
    """
    import os

    from warren.cli.shapes import DashboardView
    from warren.dashboards import described, grafana
    from warren.errors import WarrenError

    path = folder / grafana.file_name(name)
    part = path.with_name(path.name + ".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(grafana.written(name, runbooks), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WarrenError(
            "failed", f"cannot write {path}: {error.strerror}; name another directory"
        ) from None
    shown = described(name)
    return DashboardView(name, shown.uid, shown.title, str(path))

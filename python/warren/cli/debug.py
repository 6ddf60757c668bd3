"""`warrenctl debug`: what support needs, log levels, and looks into a data directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from warren.cli.common import (
    Group,
    Settings,
    common_options,
    format_option,
    this_daemon_options,
)
from warren.cli.params import Parsed
from warren.cli.parse import duration_ms

if TYPE_CHECKING:
    from warren.core import LogFrame

__all__ = ["debug"]


@click.group(cls=Group)
def debug() -> None:
    """Gather what support needs, set log levels, look into a data directory."""


@debug.command()
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Where to.  [default: warren-debug-HOST-TIME.tar.gz here]",
)
@this_daemon_options
@format_option
@click.pass_obj
def bundle(settings: Settings, output: str | None, file: str | None, host: str | None) -> None:
    """Write what support needs of this host into one file, without secrets.

    Versions, what doctor finds, the configuration, health, metrics, cluster, members, nodes,
    services, containers, the newest events and the daemon's newest log; of the data directory
    names and sizes, and what debug wal verify says. The cluster is shown as this host has it, which
    may be old. Run it as root; without a daemon it takes what there is. What could not be had
    stands in errors.txt and is no failure.

    Values of variables of services never go in, nor do the arguments of their commands (names of
    flags do) and contents of the data directory. Passwords, tokens and keys are taken out where
    they can be told by name, form or value. At most 64 MiB go in; only its owner can read the
    file.
    """
    import time
    from pathlib import Path

    from warren.cli import render
    from warren.cli.bundle import collect, default_name
    from warren.cli.doctor import setup_of

    setup, socket = setup_of(settings, file, host)
    path = Path(output or default_name(time.time()))
    quiet = settings.format != "table"
    say = (lambda _: None) if quiet else (lambda name: click.echo(f"reading {name}", err=True))
    made = collect(setup, socket, path, say)
    if quiet:
        render.show(settings, made)
        return
    for each in made.entries:
        click.echo(f"{each.size_bytes:>12,}  {each.name}")
    for line in made.errors:
        click.echo(f"not there: {line}")
    click.echo(
        f"\n{made.file}: {render.bytes_text(made.size_bytes)}. Values of variables and arguments\n"
        "of commands are redacted, and what looks like a secret elsewhere; look through it\n"
        "before you hand it on."
    )


@debug.command()
@click.argument("component", required=False)
@click.argument("level", required=False)
@click.option(
    "--for",
    "for_ms",
    type=Parsed("duration", duration_ms),
    metavar="DURATION",
    help="Go back by itself after this long, as in 10m.",
)
@common_options
@click.pass_obj
def log_level(
    settings: Settings, component: str | None, level: str | None, for_ms: int | None
) -> None:
    """Show from which level on a daemon logs, or change that while it runs.

    Without a level it shows what is: of each component, or of COMPONENT. LEVEL is debug, info,
    warn, error or fatal; default takes COMPONENT back to the level that is configured. COMPONENT
    all stands for those that have no level of their own, and "all default" ends every change. What
    was changed lasts until the daemon ends, or for the time that --for names.

    For example: warrenctl debug log-level raft debug --for 10m
    """
    from warren.cli.log_level import show_levels

    show_levels(settings, component, level, for_ms)


@debug.group(cls=Group)
def wal() -> None:
    """Look into the log of a manager."""


_directory = click.argument("directory", metavar="DIR", type=click.Path(file_okay=False))


@wal.command()
@_directory
@format_option
@click.pass_obj
def verify(settings: Settings, directory: str) -> None:
    """Check a log as a start of the daemon would, and show what it holds and how it ends.

    DIR is a data directory, its raft directory, or the log's own. Nothing is written, and the
    daemon may be running.

    Exit code 0: a start takes the log. 1: it is damaged or cannot be read. 4: there is none.
    """
    from warren.cli import render, wal_views
    from warren.core import verify_log

    place = wal_views.locate(directory)
    report = wal_views.report(place, verify_log(place.wal_dir))
    if settings.format == "table":
        click.echo(wal_views.report_text(report))
    else:
        render.show(settings, report)
    wal_views.complain_of_damage(report)


@wal.command()
@_directory
@click.option(
    "--from-index",
    type=click.IntRange(min=1),
    metavar="INDEX",
    help="Begin with the first entry at this index or above.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N frames.")
@click.option("--payload", is_flag=True, help="Show the bytes of each frame, in hex.")
@format_option
@click.pass_obj
def dump(
    settings: Settings, directory: str, from_index: int | None, limit: int | None, payload: bool
) -> None:
    """Print the frames of a log, oldest first: a line each.

    DIR is as in verify, and so are the exit codes. The frames of an incomplete batch are printed
    too; how the log ends follows on standard error.
    """
    from warren.cli import render, wal_views
    from warren.core import dump_log

    place = wal_views.locate(directory)

    def show(frames: list[LogFrame]) -> None:
        render.show_records(settings, map(wal_views.frame, frames), wal_views.frame_text)

    if settings.format == "table":
        click.echo(wal_views.FRAME_HEADER)
    found = dump_log(
        place.wal_dir, show, from_index=from_index or 0, limit=limit, with_payload=payload
    )
    if found is None:
        return
    report = wal_views.report(place, found)
    wal_views.complain_of_damage(report)
    if settings.format == "table":
        click.echo(f"the log ends {wal_views.end_text(report)}", err=True)

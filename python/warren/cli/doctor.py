"""`warrenctl doctor`: looks at this host and its daemon, and says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from warren.cli.common import (
    DEFAULT_HOST,
    Command,
    Settings,
    format_option,
    this_daemon_options,
)
from warren.cli.exits import EXIT_FAILED

if TYPE_CHECKING:
    from pathlib import Path

    from warren.cli.shapes import CheckView, DoctorReport
    from warren.doctor.daemon import Setup

__all__ = ["doctor", "report", "setup_of"]


@click.command(cls=Command)
@this_daemon_options
@format_option
@click.pass_obj
def doctor(settings: Settings, file: str | None, host: str | None) -> None:
    """Check this host and its daemon, and say what to do.

    The daemon's own health, and of the host: kernel, cgroups, containerd, disk, ports, MTU, clock,
    memory and open files. Works without a daemon and without root; what cannot be seen then is
    skipped, and says so. Nothing is changed; into the data directory, or the nearest directory
    above it, a file without a name is written for at most 2 s.

    Each check is ok, warning, failed or skipped. Exit code 0: none failed. 1: one did.
    """
    from warren.cli import render

    found, path = setup_of(settings, file, host)
    told = report(found, path)
    if settings.format == "table":
        _show(told)
    else:
        render.show(settings, told)
    if told.failed:
        raise click.exceptions.Exit(EXIT_FAILED)


def setup_of(settings: Settings, file: str | None, host: str | None) -> tuple[Setup, Path]:
    """The daemon's configuration, and the socket to ask at.

    The socket is the first that `host`, or WARREN_HOST, names; else that of the configuration.
    """
    import os
    from pathlib import Path

    from warren.cli import hosts
    from warren.doctor.daemon import read_setup

    text = host or settings.host
    sockets = [each.path for each in hosts.parse(text) if each.path]
    given = Path(sockets[0]) if sockets and text != DEFAULT_HOST else None
    found = read_setup(given, Path(file) if file else None, os.environ)
    return found, given or found.config.socket


def report(found: Setup, path: Path) -> DoctorReport:
    """Run every check."""
    import platform
    import time
    from collections import Counter

    from warren import __version__
    from warren.cli.shapes import CheckView, DoctorReport
    from warren.cli.views import time_text
    from warren.doctor.checks import examine
    from warren.doctor.verdict import worst

    began_s = time.monotonic()
    verdicts = examine(found, path)
    counts = Counter(each.status for each in verdicts)
    return DoctorReport(
        status=worst(verdicts),
        version=__version__,
        host=platform.node(),
        time=time_text(int(time.time() * 1000)) or "",
        duration_ms=int((time.monotonic() - began_s) * 1000),
        ok=counts["ok"],
        warning=counts["warning"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        checks=[
            CheckView(each.name, each.status, each.found, each.advice or None, dict(each.readings))
            for each in verdicts
        ],
    )


_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": None}


def _show(told: DoctorReport) -> None:
    """A line a check, and below it what to do; what is wrong once more at the end."""
    width = max(len(each.name) for each in told.checks)
    for each in told.checks:
        click.echo(_line(each, width))
        if each.advice:
            click.echo(f"{'':9}{'':{width}}  → {each.advice}")
    click.echo(
        f"\n{told.ok} ok, {told.warning} warnings, {told.failed} failed, {told.skipped} skipped"
    )
    wrong = [each.name for each in told.checks if each.status == "failed"]
    if wrong:
        click.echo(f"look at these first: {', '.join(wrong)}")


def _line(each: CheckView, width: int) -> str:
    import os

    word = f"{each.status:<7}"
    if "NO_COLOR" not in os.environ:
        word = click.style(word, fg=_COLOURS[each.status])  # click drops it off a terminal
    return f"{word}  {each.name:<{width}}  {each.found}"

"""What all commands share: the options of every command, the settings they fill, the groups.

Imported for `--help`: nothing heavy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from warren.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED

__all__ = [
    "DEFAULT_HOST",
    "Command",
    "Group",
    "Settings",
    "common_options",
    "detach_option",
    "end_line",
    "format_option",
    "read_options",
    "reader_left",
    "this_daemon_options",
    "until_ctrl_c",
]

DEFAULT_HOST: Final = "unix:///run/warren/warren.sock"
FORMATS: Final = ("table", "json", "yaml")

_HELP_WIDTH_MAX: Final = 100

F = TypeVar("F", bound=Callable[..., Any])


class Settings:
    """What the options of every command say. `timeout_ms` is None where none was given."""

    __slots__ = ("format", "host", "stale", "timeout_ms", "tls_ca", "tls_cert", "tls_key")

    def __init__(self) -> None:
        self.host = os.environ.get("WARREN_HOST") or DEFAULT_HOST
        self.tls_ca = _tls_file("CA")
        self.tls_cert = _tls_file("CERT")
        self.tls_key = _tls_file("KEY")
        self.format = "table"
        self.timeout_ms: int | None = None
        self.stale = False

    def timeout_s(self, default_s: float) -> float:
        """The time limit for the whole command, in seconds."""
        return default_s if self.timeout_ms is None else self.timeout_ms / 1000


def _tls_file(name: str) -> str:
    # WARREN_TLS_… are the daemon's, and were once this command's too.
    return os.environ.get(f"WARRENCTL_TLS_{name}") or os.environ.get(f"WARREN_TLS_{name}", "")


class Command(click.Command):
    """A command whose help is as wide as the terminal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = _context_settings(kwargs.get("context_settings"))
        super().__init__(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; a reader of the output who goes away ends it quietly."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Here, because releases of click differ in the exit code they make of it.
            reader_left()
            raise click.exceptions.Exit(EXIT_FAILED) from None


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = _context_settings(kwargs.get("context_settings"))
        super().__init__(*args, **kwargs)


def reader_left() -> None:
    """Let what is still buffered go nowhere: whoever read our output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_line(settings: Settings) -> None:
    """End the line in which a terminal shows `^C`; for programs there is none."""
    if settings.format == "table":
        click.echo(err=True)


@contextmanager
def until_ctrl_c(settings: Settings) -> Iterator[None]:
    """What goes on until Ctrl-C: that ends it, and is no error to be told of."""
    try:
        yield
    except KeyboardInterrupt:
        end_line(settings)
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def _context_settings(given: dict[str, Any] | None) -> dict[str, Any]:
    # click would import shutil, and with it three compression libraries, to learn the width.
    return {
        "help_option_names": ["-h", "--help"],
        "terminal_width": _terminal_columns(),
        "max_content_width": _HELP_WIDTH_MAX,
        **(given or {}),
    }


def _terminal_columns() -> int:
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(1).columns
    except (ValueError, OSError):
        columns = 80
    return max(40, min(columns, _HELP_WIDTH_MAX))


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is None:
        return
    setattr(ctx.ensure_object(Settings), str(param.name), value)


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from warren.cli.parse import duration_ms

    try:
        ctx.ensure_object(Settings).timeout_ms = duration_ms(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def format_option(function: F) -> F:
    """`--format`: on every command that prints."""
    return click.option(
        "--format",
        type=click.Choice(FORMATS),
        expose_value=False,
        callback=_keep,
        help="How to print.  [default: table]",
    )(function)


def _file_option(name: str, words: str) -> Callable[[F], F]:
    variable = f"WARRENCTL_{name.upper().replace('-', '_')}"
    return click.option(
        f"--{name}",
        metavar="FILE",
        expose_value=False,
        callback=_keep,
        help=f"{words}  [env: {variable}]",
    )


def common_options(function: F) -> F:
    """`--host`, `--tls-…`, `--timeout` and `--format`: on every command that asks the daemon."""
    for option in (
        format_option,
        click.option(
            "--timeout",
            metavar="DURATION",
            expose_value=False,
            callback=_duration,
            help="Give up after this long, as in 90s or 5m.",
        ),
        _file_option("tls-key", "Its private key, PEM."),
        _file_option("tls-cert", "Own certificate, PEM."),
        _file_option("tls-ca", "CA of the managers, PEM."),
        click.option(
            "--host",
            metavar="ADDRESS,...",
            expose_value=False,
            callback=_keep,
            help="Daemons: unix:///path, or HOST:PORT of managers.  "
            f"[env: WARREN_HOST; default: {DEFAULT_HOST}]",
        ),
    ):
        function = option(function)
    return function


def read_options(function: F) -> F:
    """`--stale` and the common ones: on every command that reads the cluster's state."""
    return click.option(
        "--stale",
        is_flag=True,
        default=None,
        expose_value=False,
        callback=_keep,
        help="Take what one manager has, which may be old; works without a majority.",
    )(common_options(function))


def detach_option(function: F) -> F:
    """`--detach`: on every command that would wait."""
    return click.option("--detach", "-d", is_flag=True, help="Do not wait for the outcome.")(
        function
    )


def this_daemon_options(command: F) -> F:
    """`--config` and `--host`, for what looks at this host's daemon whether or not it runs."""
    file = click.option(
        "--config",
        "file",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="The daemon's configuration file.  [default: that of the daemon, where one runs]",
    )
    host = click.option(
        "--host",
        metavar="ADDRESS",
        help="The daemon's socket, as unix:///path.  [env: WARREN_HOST; default: as configured]",
    )
    return file(host(command))

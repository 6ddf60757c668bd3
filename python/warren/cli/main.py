"""The entry point of `warrenctl`: finds the command, turns what went wrong into an exit code."""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import click

from warren.cli.common import Group, Settings, common_options, end_line, reader_left
from warren.cli.exits import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    exit_of,
)
from warren.errors import WarrenError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["cli", "main", "run"]

PROG: Final = "warrenctl"
_TRACEBACK: Final = "WARRENCTL_TRACEBACK"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")

# Module and short help, so that listing them imports none.
_COMMANDS: Final = {
    "cluster": ("warren.cli.cluster", "Create, join and leave the cluster; its managers."),
    "completion": ("warren.cli.completion", "Print a completion script for a shell."),
    "container": ("warren.cli.container", "Look at containers."),
    "dashboard": ("warren.cli.dashboard", "Write dashboards for Grafana."),
    "debug": ("warren.cli.debug", "Gather what support needs; set log levels; read a log."),
    "doctor": ("warren.cli.doctor", "Check this host and its daemon, and say what to do."),
    "events": ("warren.cli.events", "List what was decided about containers, and why."),
    "explain": ("warren.cli.explain", "Say why something is where it is, or nowhere."),
    "image": ("warren.cli.image", "Load, list and remove images on this host."),
    "node": ("warren.cli.node", "Look at the hosts; promote, demote and remove them."),
    "plan": ("warren.cli.plan", "Say what a file of services would lead to."),
    "service": ("warren.cli.service", "Create, change, watch and remove services."),
    "top": ("warren.cli.top", "Watch nodes, services, rates and latencies, live."),
    "version": ("warren.cli.version", "Show the version of the client and of the daemon."),
}


class LazyGroup(Group):
    """A group that imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(import_module(_COMMANDS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that is named; Ctrl-C raises `click.Abort`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Here, because click ends the terminal's line also in front of JSON.
            end_line(ctx.ensure_object(Settings))
            raise click.Abort from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])


@click.group(cls=LazyGroup, name=PROG)
@common_options
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run containers on a fleet of Linux hosts.

    Talks to the daemon, warrend, over its Unix socket, or to managers elsewhere (--host).

    Exit codes: 0 done, 1 failed, 2 usage, 3 cannot reach a manager, 4 not found, 5 exists,
    6 denied, 7 planned and something would find no room, 8 something needs attention.
    """
    ctx.ensure_object(Settings)


def main(args: Sequence[str] | None = None) -> None:
    """Run `warrenctl` and exit. `args`: without the program's name; default: the process's own."""
    arguments = sys.argv[1:] if args is None else list(args)
    _open_standard_streams()
    sys.exit(run(arguments))


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. What went wrong is printed to standard error."""
    try:
        # Of click's way to end the process only the exit codes are wanted; the words are ours.
        result = cli.main(arguments, prog_name=PROG, standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        _complain(arguments, "invalid", error.format_message(), _usage_hint(error))
        return EXIT_USAGE if isinstance(error, click.UsageError) else EXIT_FAILED
    except WarrenError as error:
        exit_code = exit_of(error.code)
        # Whoever only has to ask for something else needs no support.
        named = error.request_id and exit_code in (EXIT_FAILED, EXIT_UNREACHABLE)
        hint = f"request id: {error.request_id}" if named else ""
        _complain(arguments, error.code, error.message, hint, error.request_id)
        return exit_code
    except (click.Abort, KeyboardInterrupt):
        if _wants_json(arguments):
            _complain(arguments, "interrupted", "interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        reader_left()
        return EXIT_FAILED
    except OSError as error:
        _complain(arguments, "failed", f"{error.strerror or error}: {error.filename or 'output'}")
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - whatever it is, people get a sentence
        return _unforeseen(arguments, error)
    return result if isinstance(result, int) else 0


def _open_standard_streams() -> None:
    """Python has None for those that are closed, and another file would get their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process


def _unforeseen(arguments: list[str], error: Exception) -> int:
    if isinstance(error, UnicodeEncodeError) and _SURROGATE.search(error.object):
        _complain(arguments, "invalid", f"'{error.object}' is no text in UTF-8")
        return EXIT_USAGE
    if os.environ.get(_TRACEBACK):
        import traceback

        traceback.print_exception(error)
    _complain(
        arguments,
        "internal",
        f"a fault of {PROG}'s own: {type(error).__name__}: {error}",
        f"{_TRACEBACK}=1 in the environment shows where; please report that",
    )
    return EXIT_FAILED


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"See '{context.command_path} --help'." if context is not None else ""


def _complain(
    arguments: list[str], code: str, message: str, hint: str = "", request_id: str = ""
) -> None:
    # Bytes that are no UTF-8 stand in the words of a command line as what cannot be encoded.
    message = message.encode(errors="backslashreplace").decode()
    if _wants_json(arguments):
        import msgspec

        error = {"code": code, "message": message}
        if request_id:
            error["request_id"] = request_id
        click.echo(msgspec.json.encode({"error": error}), err=True)
        return
    click.echo(f"{PROG}: {message}", err=True)
    if hint:
        click.echo(hint, err=True)


def _wants_json(arguments: list[str]) -> bool:
    """Whether `--format json` stands among the arguments.

    Read from the words themselves: a wrong word before it ends click's parsing before the option
    is seen.
    """
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    pairs = pairwise(own)
    return "--format=json" in own or ("--format", "json") in pairs

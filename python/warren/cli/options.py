"""The flags of `service create` and `service update`, in Docker's words. Nothing heavy here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from warren.cli import parse
from warren.cli.options_placement import placement_options
from warren.cli.params import Parsed

__all__ = ["Parsed", "spec_options"]

F = TypeVar("F", bound=Callable[..., Any])


_COUNT: Final = Parsed("n", parse.count)
_MEMORY: Final = Parsed("size", parse.memory_bytes)
_CPUS: Final = Parsed("cpus", parse.cpu_milli)
_STOP_TIMEOUT: Final = Parsed("duration", parse.stop_timeout_ms)
_PARTITION: Final = Parsed("policy", parse.partition)
_LABEL: Final = Parsed("name=value", parse.label)
_MOUNT: Final = Parsed("mount", parse.mount)

_MOUNT_HELP: Final = (
    "type=bind,source=/HOST,target=/PATH[,readonly], type=tmpfs,target=/PATH[,tmpfs-size=SIZE] or "
    "type=volume,source=NAME,target=/PATH[,readonly][,exclusive]."
)


def _scalars(defaults: bool) -> tuple[Callable[[F], F], ...]:
    """Flags of both commands; `defaults`: whether what is not said has one."""

    def text(words: str, default: str) -> str:
        return f"{words}  [default: {default}]" if defaults else words

    return (
        click.option("--replicas", type=_COUNT, help=text("Containers to run.", "1")),
        click.option("--cpus", type=_CPUS, help="CPUs held for and given to each, as in 0.5."),
        click.option("--memory", type=_MEMORY, help="Memory held and its limit, as in 64m."),
        click.option(
            "--restart",
            type=click.Choice(["none", "on-failure", "any"]),
            help=text("When to start an ended container again.", "any"),
        ),
        click.option(
            "--restart-max-attempts",
            type=_COUNT,
            help="Restarts on one node before it is replaced; 0: no end.",
        ),
        click.option(
            "--network", type=click.Choice(["host", "none"]), help=text("Network.", "none")
        ),
        click.option("--user", "-u", help="UID[:GID], or a name that the image knows."),
        click.option("--workdir", "-w", metavar="PATH", help="Working directory, absolute."),
        click.option(
            "--stop-timeout", type=_STOP_TIMEOUT, help=text("From SIGTERM to SIGKILL.", "10s")
        ),
        click.option(
            "--partition",
            type=_PARTITION,
            metavar="POLICY",
            help=text(
                "While its node hears from no manager: keep, stop_after=TIME, or singleton=TIME "
                "(never twice).",
                "keep",
            ),
        ),
    )


_ENV_FILE: Final = click.option(
    "--env-file", multiple=True, metavar="FILE", help="Variables, one NAME=VALUE a line."
)

_CREATE: Final = (
    click.option("--image", required=True, metavar="IMAGE", help="Image to run."),
    click.option(
        "--mode",
        type=click.Choice(["replicated", "global"]),
        help="So many, or one on every node.  [default: replicated]",
    ),
    *_scalars(defaults=True),
    click.option("--env", "-e", multiple=True, metavar="NAME=VALUE", help="Variable."),
    _ENV_FILE,
    click.option("--mount", type=_MOUNT, multiple=True, help=_MOUNT_HELP),
    click.option("--label", "-l", type=_LABEL, multiple=True, help="Label of the service."),
    click.option("--container-label", type=_LABEL, multiple=True, help="Label of containers."),
)

_UPDATE: Final = (
    click.option("--image", metavar="IMAGE", help="Image to run."),
    *_scalars(defaults=False),
    click.option(
        "--env-add",
        "--env",
        "-e",
        "env",
        multiple=True,
        metavar="NAME=VALUE",
        help="Add or replace a variable.",
    ),
    click.option("--env-rm", multiple=True, metavar="NAME", help="Remove a variable."),
    _ENV_FILE,
    click.option(
        "--mount-add",
        "--mount",
        "mount",
        type=_MOUNT,
        multiple=True,
        help="Add a mount, or replace the one with its target.",
    ),
    click.option("--mount-rm", multiple=True, metavar="TARGET", help="Remove a mount."),
    click.option(
        "--label-add",
        "--label",
        "-l",
        "label",
        type=_LABEL,
        multiple=True,
        help="Add or replace a label of the service.",
    ),
    click.option("--label-rm", multiple=True, metavar="NAME", help="Remove a label."),
    click.option(
        "--container-label-add",
        "--container-label",
        "container_label",
        type=_LABEL,
        multiple=True,
        help="Add or replace a label of containers.",
    ),
    click.option(
        "--container-label-rm", multiple=True, metavar="NAME", help="Remove such a label."
    ),
)


def spec_options(*, update: bool) -> Callable[[F], F]:
    """The flags that make up a spec; the parameters are the fields of `spec.SpecFlags`."""

    def decorate(function: F) -> F:
        own = _UPDATE if update else _CREATE
        for option in reversed((*own, *placement_options(update=update))):
            function = option(function)
        return function

    return decorate

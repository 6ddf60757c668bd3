"""The flags of `service create` and `service update` on where containers go, and what they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from warren.cli import asks, parse
from warren.cli.params import Parsed

__all__ = ["placement_options"]

F = TypeVar("F", bound=Callable[..., Any])

_COUNT: Final = Parsed("n", parse.count)
_MEMORY: Final = Parsed("size", parse.memory_bytes)
_CPUS: Final = Parsed("cpus", parse.cpu_milli)
_TEXT: Final = Parsed("text", str)

# Name, type, how its value is written, what removes one, in words: create's and update's.
_LISTS: Final = (
    ("constraint", _TEXT, "EXPRESSION", "EXPRESSION", "Only nodes for which it holds"),
    (
        "affinity",
        Parsed("affinity", asks.affinity),
        "EXPRESSION[,weight=N]",
        "EXPRESSION",
        "Rather nodes for which it holds, -100 to 100 [weight: 50]",
    ),
    (
        "spread",
        Parsed("spread", asks.spread),
        "ATTRIBUTE[,VALUE=PERCENT...|,max-skew=N]",
        "ATTRIBUTE",
        "Spread evenly over its values, or as the targets say",
    ),
    ("distinct", _TEXT, "ATTRIBUTE", "ATTRIBUTE", "At most one container for each of its values"),
    (
        "anti-affinity",
        Parsed("anti-affinity", asks.anti_affinity),
        "SERVICE[,ATTRIBUTE]",
        "SERVICE",
        "Not where containers of that service are",
    ),
    ("platform", Parsed("platform", asks.platform), "OS/ARCH", "OS/ARCH", "Any of these"),
    (
        "tolerate",
        Parsed("toleration", asks.toleration),
        "KEY[=VALUE][:EFFECT]",
        "KEY",
        "Also nodes with that taint; * for every one",
    ),
    (
        "host-port",
        Parsed("port", asks.host_port),
        "PORT[/udp]",
        "PORT[/udp]",
        "Claim a port of the host",
    ),
    (
        "device",
        Parsed("device", asks.device),
        "KIND=AMOUNT[,model=A|B]",
        "KIND",
        "Devices, or a share of one, as in gpu=2 or gpu=0.5",
    ),
)


def _scalars() -> tuple[Callable[[F], F], ...]:
    return (
        click.option("--reserve-cpu", type=_CPUS, help="CPUs held for each, and no limit."),
        click.option("--reserve-memory", type=_MEMORY, help="Memory held for each, and no limit."),
        click.option("--reserve-disk", type=_MEMORY, help="Disk held for each."),
        click.option("--reserve-pids", type=_COUNT, help="Processes held for each, and no limit."),
        click.option("--limit-cpu", type=_CPUS, help="CPUs that none goes beyond; 0: no limit."),
        click.option(
            "--limit-memory", type=_MEMORY, help="Memory that none goes beyond; 0: no limit."
        ),
        click.option(
            "--limit-pids", type=_COUNT, help="Processes that none goes beyond; 0: no limit."
        ),
        click.option(
            "--max-replicas-per-node", type=_COUNT, help="Containers on one node; 0: no end."
        ),
        click.option(
            "--priority",
            type=Parsed("0-100", asks.priority),
            help="More is more urgent; 50 unless said.",
        ),
        click.option(
            "--preempt/--no-preempt",
            default=None,
            help="Whether it may take the place of what has a lower priority.",
        ),
        click.option(
            "--strategy",
            type=click.Choice(["spread", "pack", "consolidate"]),
            help="Which of the nodes that suit: the one with the fewest of the service, the one "
            "that strands least, or the fullest.",
        ),
    )


def _create() -> tuple[Callable[[F], F], ...]:
    lists = (
        click.option(f"--{name}", type=kind, multiple=True, metavar=metavar, help=f"{words}.")
        for name, kind, metavar, _, words in _LISTS
    )
    return (*lists, *_scalars())


def _update() -> tuple[Callable[[F], F], ...]:
    options: list[Callable[[F], F]] = []
    for name, kind, metavar, removed, words in _LISTS:
        options.append(
            click.option(
                f"--{name}-add",
                f"--{name}",
                name.replace("-", "_"),
                type=kind,
                multiple=True,
                metavar=metavar,
                help=f"{words}; added, or replaced.",
            )
        )
        options.append(
            click.option(f"--{name}-rm", multiple=True, metavar=removed, help="Remove such a one.")
        )
    return (*options, *_scalars())


def placement_options(*, update: bool) -> tuple[Callable[[F], F], ...]:
    """The options, in the order of the help; the parameters are fields of `spec.SpecFlags`."""
    return _update() if update else _create()

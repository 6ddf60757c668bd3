"""Of services: whether their containers run, where, and what they use."""

from __future__ import annotations

from typing import Final

from warren.dashboards.model import (
    Dashboard,
    Drill,
    Kind,
    Panel,
    Query,
    Row,
    Step,
    Unit,
    Variable,
    quantiles,
)

__all__ = ["DASHBOARD"]

_CLUSTER: Final = 'cluster="$cluster"'
_IN: Final = f'{_CLUSTER}, service=~"$service"'


def _rate(counter: str, by: str) -> str:
    return f"sum by ({by}) (rate({counter}{{{_IN}}}[$__rate_interval]))"


_FIRST: Final = Row(
    "Now",
    (
        Panel(
            title="Containers",
            answers="How many containers the services chosen have on hosts that answer.",
            queries=(Query(f"count(warren_container_pids{{{_IN}}})", "containers"),),
            kind=Kind.STAT,
            width=5,
            height=4,
        ),
        Panel(
            title="Hosts",
            answers="How many hosts these containers are on: what is on one goes with it.",
            queries=(Query(f"count(count by (node) (warren_container_pids{{{_IN}}}))", "hosts"),),
            kind=Kind.STAT,
            width=5,
            height=4,
        ),
        Panel(
            title="Restarts within the hour",
            answers="How often these containers ended and were started again on the same host.",
            queries=(
                Query(f"sum(increase(warren_container_restarts_total{{{_IN}}}[1h]))", "restarts"),
            ),
            kind=Kind.STAT,
            width=5,
            height=4,
            runbooks=("WarrenCrashLoops",),
        ),
        Panel(
            title="Pending in the cluster",
            answers="How many containers of all services wait for a node that suits them.",
            queries=(
                Query(f"cluster:warren_containers_pending:leader{{{_CLUSTER}}}", "containers"),
            ),
            kind=Kind.STAT,
            width=5,
            height=4,
            steps=(Step(1, "orange"),),
            runbooks=("WarrenContainersPending",),
        ),
        Panel(
            title="Services in the cluster",
            answers="How many services there are.",
            queries=(Query(f"max(warren_services_total{{{_CLUSTER}}})", "services"),),
            kind=Kind.STAT,
            width=4,
            height=4,
        ),
    ),
)

_RUNNING: Final = Row(
    "What runs: traffic and errors",
    (
        Panel(
            title="Containers by service",
            answers="Whether each service keeps the containers that it had.",
            queries=(Query(f"count by (service) (warren_container_pids{{{_IN}}})", "{{service}}"),),
        ),
        Panel(
            title="Containers by host",
            answers="How these containers are spread; a click leads to the host.",
            queries=(Query(f"count by (node) (warren_container_pids{{{_IN}}})", "{{node}}"),),
            stacked=True,
            drill=Drill("workers", "node"),
        ),
        Panel(
            title="Restarts",
            answers="Which slots' containers end and are started again: the ten most frequent.",
            queries=(
                Query(
                    "topk(10, "
                    + _rate("warren_container_restarts_total", "service, slot, node")
                    + ")",
                    "{{service}} {{slot}} on {{node}}",
                ),
            ),
            unit=Unit.PER_SECOND,
            runbooks=("WarrenCrashLoops",),
            drill=Drill("workers", "node"),
        ),
    ),
)

_USAGE: Final = Row(
    "What it uses",
    (
        Panel(
            title="CPU by service",
            answers="How many CPUs each service uses.",
            queries=(Query(_rate("warren_container_cpu_seconds_total", "service"), "{{service}}"),),
        ),
        Panel(
            title="Memory by service",
            answers="How much memory each service holds that cannot be dropped at once.",
            queries=(
                Query(
                    f"sum by (service) (warren_container_working_set_bytes{{{_IN}}})",
                    "{{service}}",
                ),
            ),
            unit=Unit.BYTES,
        ),
        Panel(
            title="Processes by service",
            answers="How many processes and threads each service has: one that only grows leaks.",
            queries=(Query(f"sum by (service) (warren_container_pids{{{_IN}}})", "{{service}}"),),
        ),
        Panel(
            title="Containers that use most CPU",
            answers="Which ten containers use most CPU, and on which host.",
            queries=(
                Query(
                    "topk(10, "
                    + _rate("warren_container_cpu_seconds_total", "service, slot, node")
                    + ")",
                    "{{service}} {{slot}} on {{node}}",
                ),
            ),
            width=12,
            drill=Drill("workers", "node"),
        ),
        Panel(
            title="Containers that hold most memory",
            answers="Which ten containers hold most memory, page cache included, and where.",
            queries=(
                Query(
                    "topk(10, sum by (service, slot, node) "
                    f"(warren_container_memory_bytes{{{_IN}}}))",
                    "{{service}} {{slot}} on {{node}}",
                ),
            ),
            unit=Unit.BYTES,
            width=12,
            drill=Drill("workers", "node"),
        ),
    ),
)

_CHANGING: Final = Row(
    "Changing services, in the whole cluster: latency",
    (
        *(
            Panel(
                title=title,
                answers=answers,
                queries=quantiles(f"warren_service_{verb}_duration_seconds", _CLUSTER),
                unit=Unit.SECONDS,
                width=6,
            )
            for verb, title, answers in (
                ("create", "Creating a service", "How long it takes to accept a new service."),
                ("update", "Updating a service", "How long it takes to accept a change."),
                ("delete", "Deleting a service", "How long it takes to accept that one goes."),
            )
        ),
        Panel(
            title="Placing a container",
            answers="How long a container waits until a node is chosen for it.",
            queries=quantiles("warren_scheduling_latency_seconds", _CLUSTER),
            unit=Unit.SECONDS,
            width=6,
            runbooks=("WarrenSchedulingFailures",),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="services",
    title="Warren: services",
    answers="Whether services' containers run, where, and what they use.",
    variables=(Variable("service", "Service", 'warren_container_pids{cluster="$cluster"}'),),
    rows=(_FIRST, _RUNNING, _USAGE, _CHANGING),
)

"""Of the hosts that run containers: whether they do, how fast, and what they have left."""

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

_IN: Final = 'cluster="$cluster", node=~"$node"'
_HOSTS: Final = 'job=~"warren-(manager|worker)"'


def _rate(counter: str, by: str = "node") -> str:
    return f"sum by ({by}) (rate({counter}{{{_IN}}}[$__rate_interval]))"


_FIRST: Final = Row(
    "What must not be",
    (
        Panel(
            title="Hosts that do not answer",
            answers="How many of the hosts chosen give Prometheus no metrics.",
            queries=(Query(f"count(up{{{_IN}, {_HOSTS}}} == 0) or vector(0)", "hosts"),),
            kind=Kind.STAT,
            width=5,
            height=4,
            steps=(Step(1, "red"),),
            runbooks=("WarrenTargetDown",),
        ),
        Panel(
            title="Hosts without a manager",
            answers="How many workers have no session with a manager, and go on by themselves.",
            queries=(
                Query(f"count(warren_session_connected{{{_IN}}} == 0) or vector(0)", "hosts"),
            ),
            kind=Kind.STAT,
            width=5,
            height=4,
            steps=(Step(1, "orange"),),
            runbooks=("WarrenNodeDown",),
        ),
        Panel(
            title="Stores that fail",
            answers="How many workers cannot keep what they are told: writes fail or hang.",
            queries=(Query(f"sum(warren_worker_store_failing{{{_IN}}})", "hosts"),),
            kind=Kind.STAT,
            width=5,
            height=4,
            steps=(Step(1, "red"),),
            runbooks=("WarrenDiskFull",),
        ),
        Panel(
            title="Least free disk",
            answers="Which share of the fullest data directory's file system is free.",
            queries=(Query(f"min(instance:warren_disk_free:ratio{{{_IN}}})", "free"),),
            kind=Kind.STAT,
            unit=Unit.RATIO,
            width=4,
            height=4,
            below="red",
            steps=(Step(0.1, "green"),),
            runbooks=("WarrenDiskNearFull",),
        ),
        Panel(
            title="Worst clock",
            answers="How far a host's clock is from that of Prometheus at most.",
            queries=(
                Query(
                    f"max(abs(warren_clock_seconds{{{_IN}}} "
                    f"- timestamp(warren_clock_seconds{{{_IN}}})))",
                    "off by",
                ),
            ),
            kind=Kind.STAT,
            unit=Unit.SECONDS,
            width=5,
            height=4,
            steps=(Step(2, "orange"),),
            runbooks=("WarrenClockSkew",),
        ),
        Panel(
            title="Components",
            answers="Whether each component works on all of the hosts, as daemons say themselves.",
            queries=(
                Query(f"min by (component) (warren_component_healthy{{{_IN}}})", "{{component}}"),
            ),
            kind=Kind.STATES,
            width=24,
            height=5,
            below="red",
            steps=(Step(1, "green"),),
            words=((0, "does not work"), (1, "works")),
            runbooks=("WarrenNotReady",),
        ),
    ),
)

_CONTAINERS: Final = Row(
    "Containers: traffic and errors",
    (
        Panel(
            title="Containers by service",
            answers="How many containers of each service run here; a click leads to the service.",
            queries=(Query(f"count by (service) (warren_container_pids{{{_IN}}})", "{{service}}"),),
            stacked=True,
            drill=Drill("services", "service"),
        ),
        Panel(
            title="Starts and stops",
            answers="How many containers are made, started and stopped.",
            queries=tuple(
                Query(
                    f"sum(rate(warren_container_{verb}_duration_seconds_count{{{_IN}}}"
                    "[$__rate_interval]))",
                    legend,
                )
                for verb, legend in (("create", "made"), ("start", "started"), ("stop", "stopped"))
            ),
            unit=Unit.PER_SECOND,
        ),
        Panel(
            title="Restarts by service",
            answers="Which services' containers end here and are started again.",
            queries=(Query(_rate("warren_container_restarts_total", "service"), "{{service}}"),),
            unit=Unit.PER_SECOND,
            runbooks=("WarrenCrashLoops",),
            drill=Drill("services", "service"),
        ),
    ),
)

_LATENCY: Final = Row(
    "Containers: latency",
    tuple(
        Panel(
            title=title,
            answers=answers,
            queries=quantiles(f"warren_container_{verb}_duration_seconds", _IN, (0.5, 0.9, 0.99)),
            unit=Unit.SECONDS,
        )
        for verb, title, answers in (
            ("create", "Making a container", "How long a snapshot and its container take to make."),
            (
                "start",
                "Starting a container",
                "How long it takes from a task's creation to its run.",
            ),
            (
                "stop",
                "Stopping a container",
                "How long a container takes to go when it is asked to.",
            ),
        )
    ),
)

_USAGE: Final = Row(
    "What is used, and what is left",
    (
        Panel(
            title="CPU of containers",
            answers="How many CPUs the containers of each host use.",
            queries=(Query(_rate("warren_container_cpu_seconds_total"), "{{node}}"),),
        ),
        Panel(
            title="Memory of containers",
            answers="How much memory that cannot be dropped at once each host's containers hold.",
            queries=(
                Query(f"sum by (node) (warren_container_working_set_bytes{{{_IN}}})", "{{node}}"),
            ),
            unit=Unit.BYTES,
        ),
        Panel(
            title="Free disk by host",
            answers="Which share of each data directory's file system is free.",
            queries=(Query(f"instance:warren_disk_free:ratio{{{_IN}}}", "{{node}}"),),
            unit=Unit.RATIO,
            below="red",
            steps=(Step(0.1, "green"),),
            runbooks=("WarrenDiskNearFull",),
        ),
        Panel(
            title="Work that waits",
            answers="How many container operations are under way, and statuses not yet told.",
            queries=(
                Query(f"sum by (node) (warren_worker_actions{{{_IN}}})", "{{node}}: operations"),
                Query(f"sum by (node) (warren_worker_outbox_depth{{{_IN}}})", "{{node}}: statuses"),
            ),
        ),
        Panel(
            title="Sessions opened again",
            answers="How often workers lost their manager and found one again.",
            queries=(Query(_rate("warren_session_reconnects_total"), "{{node}}"),),
            unit=Unit.PER_SECOND,
            runbooks=("WarrenNodeDown",),
        ),
        Panel(
            title="CPU of the daemon",
            answers="How many CPUs each host's daemon uses, without its containers.",
            queries=(Query(_rate("process_cpu_seconds_total"), "{{node}}"),),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="workers",
    title="Warren: workers",
    answers="Whether the hosts run what they are told, how fast, and what they have left.",
    variables=(Variable("node", "Host", f'up{{cluster="$cluster", {_HOSTS}}}'),),
    rows=(_FIRST, _CONTAINERS, _LATENCY, _USAGE),
)

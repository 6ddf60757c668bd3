"""Of a whole cluster: whether it works, how fast, and where to look next."""

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
    leaders,
    quantiles,
)

__all__ = ["DASHBOARD"]

_IN: Final = 'cluster="$cluster"'

_FIRST: Final = Row(
    "What to look at first",
    (
        Panel(
            title="Alerts that fire",
            answers="How many alerts fire for this cluster now.",
            queries=(Query(f'count(ALERTS{{{_IN}, alertstate="firing"}}) or vector(0)', "alerts"),),
            kind=Kind.STAT,
            width=4,
            height=4,
            steps=(Step(1, "red"),),
        ),
        Panel(
            title="Leader",
            answers="Whether any manager leads: without one nothing can be decided.",
            queries=(Query(f"max(warren_raft_is_leader{{{_IN}}}) or vector(0)", "leader"),),
            kind=Kind.STAT,
            width=4,
            height=4,
            below="red",
            steps=(Step(1, "green"),),
            words=((0, "none"), (1, "there")),
            runbooks=("WarrenNoLeader",),
        ),
        Panel(
            title="Managers that may still be lost",
            answers="How many more managers that vote may fail before the majority is gone.",
            queries=(
                Query(
                    f"floor((cluster:warren_raft_voters:leader{{{_IN}}} - 1) / 2) "
                    f"- cluster:warren_raft_voters_missing:max{{{_IN}}}",
                    "managers",
                ),
            ),
            kind=Kind.STAT,
            width=4,
            height=4,
            below="red",
            steps=(Step(0, "orange"), Step(1, "green")),
            runbooks=("WarrenQuorumAtRisk",),
        ),
        Panel(
            title="Nodes that are down",
            answers="How many nodes the leader has not heard from within the grace period.",
            queries=(
                Query(f'cluster_status:warren_nodes:leader{{{_IN}, status="down"}}', "nodes"),
            ),
            kind=Kind.STAT,
            width=4,
            height=4,
            steps=(Step(1, "orange"),),
            runbooks=("WarrenNodeDown",),
        ),
        Panel(
            title="Containers that wait for a node",
            answers="How many containers find no node that suits them.",
            queries=(Query(f"cluster:warren_containers_pending:leader{{{_IN}}}", "containers"),),
            kind=Kind.STAT,
            width=4,
            height=4,
            steps=(Step(1, "orange"),),
            runbooks=("WarrenContainersPending",),
        ),
        Panel(
            title="Containers that crash again and again",
            answers="How many containers are started ever more rarely because they keep failing.",
            queries=(
                Query(f"cluster:warren_containers_crash_looping:leader{{{_IN}}}", "containers"),
            ),
            kind=Kind.STAT,
            width=4,
            height=4,
            steps=(Step(1, "orange"),),
            runbooks=("WarrenCrashLoops",),
        ),
        Panel(
            title="Which alerts fire",
            answers="What fires and where; each alert has a page of its name in docs/runbooks.",
            queries=(Query(f'ALERTS{{{_IN}, alertstate="firing"}}', ""),),
            kind=Kind.TABLE,
            width=12,
            labels=("alertname", "severity", "node"),
            runbooks=("WarrenGettingWorse",),
        ),
        Panel(
            title="Hosts",
            answers="Which daemons answer Prometheus; a click leads to the host.",
            queries=(Query(f'up{{{_IN}, job=~"warren-(manager|worker)"}}', ""),),
            kind=Kind.TABLE,
            width=12,
            below="red",
            steps=(Step(1, "green"),),
            words=((0, "does not answer"), (1, "answers")),
            labels=("node", "job", "instance"),
            runbooks=("WarrenTargetDown", "WarrenDaemonRestarts"),
            drill=Drill("workers", "node"),
        ),
    ),
)

_API: Final = Row(
    "API: traffic, errors, latency",
    (
        Panel(
            title="Requests",
            answers="What clients ask for, by method, and how often.",
            queries=(
                Query(
                    f"sum by (method) (cluster_method_status:warren_api_requests:rate5m{{{_IN}}})",
                    "{{method}}",
                ),
            ),
            unit=Unit.REQUESTS_PER_SECOND,
            stacked=True,
        ),
        Panel(
            title="Requests that fail",
            answers="Which share of all requests is refused or gets no answer.",
            queries=(Query(f"cluster:warren_api_errors:ratio5m{{{_IN}}}", "of all"),),
            unit=Unit.RATIO,
            steps=(Step(0.1, "red"),),
            runbooks=("WarrenApiErrors",),
        ),
        Panel(
            title="Latency of requests (p99)",
            answers="How long the slowest hundredth of the answers takes, by method.",
            queries=(
                Query(
                    f"cluster_method:warren_api_request_duration_seconds:p99_5m{{{_IN}}}",
                    "{{method}}",
                ),
            ),
            unit=Unit.SECONDS,
            steps=(Step(1, "red"),),
            runbooks=("WarrenApiSlow",),
        ),
    ),
)

_DECIDING: Final = Row(
    "Agreeing and placing: latency, traffic, errors",
    (
        Panel(
            title="Latency of commits",
            answers="How long managers take to agree on a change; every write waits for it.",
            queries=(
                *quantiles("warren_raft_commit_duration_seconds", _IN, of=(0.5,)),
                Query(f"cluster:warren_raft_commit_duration_seconds:p99_5m{{{_IN}}}", "p99"),
            ),
            unit=Unit.SECONDS,
            steps=(Step(0.25, "red"),),
            runbooks=("WarrenCommitsSlow",),
        ),
        Panel(
            title="Latency of placements",
            answers="How long a container waits until a node is chosen for it.",
            queries=(
                *quantiles("warren_scheduling_latency_seconds", _IN, of=(0.5,)),
                Query(f"cluster:warren_scheduling_latency_seconds:p99_5m{{{_IN}}}", "p99"),
            ),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="Placements",
            answers="How many containers are placed, find no place, or have to make room.",
            queries=tuple(
                Query(
                    f"sum(rate(warren_containers_{counter}_total{{{_IN}}}[$__rate_interval]))",
                    legend,
                )
                for counter, legend in (
                    ("scheduled", "placed"),
                    ("failed", "failed"),
                    ("preempted", "preempted"),
                )
            ),
            unit=Unit.PER_SECOND,
            runbooks=("WarrenSchedulingFailures",),
        ),
    ),
)

_SATURATION: Final = Row(
    "What there is, and what is left",
    (
        Panel(
            title="Containers by state",
            answers="What became of all containers, as the leader knows it.",
            queries=(Query(f"sum by (state) {leaders('warren_containers_total')}", "{{state}}"),),
            stacked=True,
        ),
        Panel(
            title="Nodes by status",
            answers="How many nodes are ready and how many are down, as the leader knows it.",
            queries=(Query(f"cluster_status:warren_nodes:leader{{{_IN}}}", "{{status}}"),),
            stacked=True,
            runbooks=("WarrenNodeDown",),
        ),
        Panel(
            title="Free disk",
            answers="Which share of each data directory's file system is free.",
            queries=(Query(f"instance:warren_disk_free:ratio{{{_IN}}}", "{{node}}"),),
            unit=Unit.RATIO,
            below="red",
            steps=(Step(0.1, "green"),),
            runbooks=("WarrenDiskNearFull",),
            drill=Drill("workers", "node"),
        ),
        Panel(
            title="Who leads",
            answers="Which manager led when; a click leads to the manager.",
            queries=(Query(f"warren_raft_is_leader{{{_IN}}} == 1", "{{node}}"),),
            kind=Kind.STATES,
            width=12,
            height=6,
            words=((1, "leads"),),
            drill=Drill("managers", "node"),
        ),
        Panel(
            title="Containers by service",
            answers="How many containers of each service there are; a click leads to the service.",
            queries=(Query(f"count by (service) (warren_container_pids{{{_IN}}})", "{{service}}"),),
            width=12,
            height=6,
            stacked=True,
            drill=Drill("services", "service"),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="cluster",
    title="Warren: cluster",
    answers="Whether the cluster works, how fast, and where to look next.",
    rows=(_FIRST, _API, _DECIDING, _SATURATION),
)

"""Of the managers: who leads, what the log and the core cost, and what is full."""

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
_CLIENTS: Final = 'method!="Ping"'
"""By Ping each daemon asks itself whether its API answers, about once a second."""
_TIMED: Final = 'method!~"WatchService|BackupCluster|Ping"'
"""How long a stream is open says nothing."""


def _rate(counter: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({counter}{{{_IN}{more}}}[$__rate_interval]))"


def _p99(histogram: str) -> Query:
    """By manager."""
    rates = f"sum by (node, le) (rate({histogram}_bucket{{{_IN}}}[$__rate_interval]))"
    return Query(f"histogram_quantile(0.99, {rates})", "{{node}}")


_FIRST: Final = Row(
    "What must not be",
    (
        Panel(
            title="Contradictions between states",
            answers="How often managers that applied the same entries were found to differ: never.",
            queries=(Query(f"sum(warren_state_hash_mismatches_total{{{_IN}}})", "contradictions"),),
            kind=Kind.STAT,
            width=6,
            height=4,
            steps=(Step(1, "red"),),
            runbooks=("WarrenStateDiverged",),
        ),
        Panel(
            title="Logs without room",
            answers="How many managers refuse writes because their disk is full.",
            queries=(Query(f"sum(warren_wal_out_of_space{{{_IN}}})", "managers"),),
            kind=Kind.STAT,
            width=6,
            height=4,
            steps=(Step(1, "red"),),
            runbooks=("WarrenDiskFull",),
        ),
        Panel(
            title="Replacement",
            answers="Whether nothing is replaced because too many workers were lost at once.",
            queries=(Query(f"max(warren_reconciler_frozen{{{_IN}}})", "replacement"),),
            kind=Kind.STAT,
            width=6,
            height=4,
            steps=(Step(1, "red"),),
            words=((0, "goes on"), (1, "frozen")),
            runbooks=("WarrenReplacementFrozen",),
        ),
        Panel(
            title="Managers that do not answer",
            answers="How many of the managers chosen give Prometheus no metrics.",
            queries=(
                Query(f'count(up{{{_IN}, job="warren-manager"}} == 0) or vector(0)', "managers"),
            ),
            kind=Kind.STAT,
            width=6,
            height=4,
            steps=(Step(1, "red"),),
            runbooks=("WarrenTargetDown", "WarrenQuorumAtRisk"),
        ),
    ),
)

_LEADING: Final = Row(
    "Who leads, and who is behind",
    (
        Panel(
            title="Leader",
            answers="Which manager led when, and when none did.",
            queries=(Query(f"warren_raft_is_leader{{{_IN}}}", "{{node}}"),),
            kind=Kind.STATES,
            below="text",
            steps=(Step(1, "green"),),
            words=((0, "follows"), (1, "leads")),
            runbooks=("WarrenNoLeader",),
        ),
        Panel(
            title="Entries behind",
            answers="How many entries each manager still has to apply to be where the first is.",
            queries=(
                Query(
                    'scalar(max(warren_raft_log_index{cluster="$cluster"})) '
                    f"- warren_raft_applied_index{{{_IN}}}",
                    "{{node}}",
                ),
            ),
        ),
        Panel(
            title="Changes of leader",
            answers="How often the lead was taken or lost; more than a few an hour is too often.",
            queries=(
                Query(
                    f"sum by (node) (increase(warren_raft_leader_changes_total{{{_IN}}}"
                    "[$__rate_interval]))",
                    "{{node}}",
                ),
            ),
            runbooks=("WarrenLeaderUnstable", "WarrenFsyncSlow"),
        ),
    ),
)

_REQUESTS: Final = Row(
    "Requests: traffic, errors, latency",
    (
        Panel(
            title="Requests by manager",
            answers="Which manager clients ask, and how much.",
            queries=(
                Query(_rate("warren_api_requests_total", "node", f", {_CLIENTS}"), "{{node}}"),
            ),
            unit=Unit.REQUESTS_PER_SECOND,
            stacked=True,
        ),
        Panel(
            title="Requests that fail, by method",
            answers="Which ten methods are refused or get no answer most often.",
            queries=(
                Query(
                    "topk(10, "
                    + _rate("warren_api_requests_total", "method", f', status="error", {_CLIENTS}')
                    + ")",
                    "{{method}}",
                ),
            ),
            unit=Unit.REQUESTS_PER_SECOND,
            runbooks=("WarrenApiErrors",),
        ),
        Panel(
            title="Latency of requests",
            answers="How long these managers' answers to clients take, streams left out.",
            queries=quantiles(
                "warren_api_request_duration_seconds", f"{_IN}, {_TIMED}", of=(0.5, 0.9, 0.99)
            ),
            unit=Unit.SECONDS,
            steps=(Step(1, "red"),),
            runbooks=("WarrenApiSlow",),
        ),
    ),
)

_LOG: Final = Row(
    "Consensus: latency and traffic",
    (
        Panel(
            title="Latency of fdatasync (p99)",
            answers="How long each manager's disk takes to make a batch of the log durable.",
            queries=(
                Query(f"instance:warren_wal_fsync_duration_seconds:p99_5m{{{_IN}}}", "{{node}}"),
            ),
            unit=Unit.SECONDS,
            steps=(Step(0.1, "red"),),
            runbooks=("WarrenFsyncSlow",),
            drill=Drill("workers", "node"),
        ),
        Panel(
            title="Latency of commits by leader (p99)",
            answers="How long changes wait until a majority has them, by who led.",
            queries=(_p99("warren_raft_commit_duration_seconds"),),
            unit=Unit.SECONDS,
            steps=(Step(0.25, "red"),),
            runbooks=("WarrenCommitsSlow",),
        ),
        Panel(
            title="Latency of the core's steps (p99)",
            answers="How long each manager's core is busy with one step; all else waits.",
            queries=(_p99("warren_core_step_duration_seconds"),),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="Entries written",
            answers="How many changes each manager makes durable.",
            queries=(Query(_rate("warren_wal_entries_total", "node"), "{{node}}"),),
            unit=Unit.PER_SECOND,
        ),
        Panel(
            title="Log written",
            answers="How many bytes go into each manager's log.",
            queries=(Query(_rate("warren_wal_written_bytes_total", "node"), "{{node}}"),),
            unit=Unit.BYTES_PER_SECOND,
        ),
        Panel(
            title="Messages dropped between managers",
            answers="Which connections lose messages: they are too slow, broke, or are not there.",
            queries=tuple(
                Query(_rate(f"warren_peer_{counter}_total", "node, lane"), legend)
                for counter, legend in (
                    ("queue_full", "{{node}} {{lane}}: queue full"),
                    ("lost_frames", "{{node}} {{lane}}: broke"),
                    ("expired_frames", "{{node}} {{lane}}: waited too long"),
                )
            ),
            unit=Unit.PER_SECOND,
        ),
        Panel(
            title="Round trips between managers (p99)",
            answers="How long the leader waits for each manager's answer; by member id.",
            queries=(
                Query(
                    "histogram_quantile(0.99, sum by (node, peer, le) (rate("
                    f"warren_peer_round_trip_seconds_bucket{{{_IN}}}[$__rate_interval])))",
                    "{{node}} to {{peer}}",
                ),
            ),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="Entries not acknowledged",
            answers="How far each manager is behind, as the leader knows; by member id.",
            queries=(Query(f"max by (peer) (warren_raft_peer_lag_entries{{{_IN}}})", "{{peer}}"),),
        ),
        Panel(
            title="Changes on their way to workers (p99)",
            answers="How long it takes until a worker has what has changed for it.",
            queries=(_p99("warren_assignment_lag_seconds"),),
            unit=Unit.SECONDS,
            drill=Drill("workers", "node"),
        ),
    ),
)

_SATURATION: Final = Row(
    "What is full",
    (
        Panel(
            title="Queues of the core",
            answers="How full each queue is on the manager where it is fullest.",
            queries=(
                Query(
                    f"max by (queue) (warren_core_queue_depth{{{_IN}}} "
                    f"/ warren_core_queue_limit{{{_IN}}})",
                    "{{queue}}",
                ),
            ),
            unit=Unit.RATIO,
        ),
        Panel(
            title="Refused by full queues",
            answers="How much was refused because a queue was full.",
            queries=(Query(_rate("warren_core_queue_rejections_total", "queue"), "{{queue}}"),),
            unit=Unit.PER_SECOND,
        ),
        Panel(
            title="How late the event loop is (p99)",
            answers="How much later than asked each daemon's timers run: it is busy then.",
            queries=(_p99("warren_event_loop_lag_seconds"),),
            unit=Unit.SECONDS,
        ),
        Panel(
            title="CPU of the daemon",
            answers="How many CPUs each manager's daemon uses, without its containers.",
            queries=(Query(_rate("process_cpu_seconds_total", "node"), "{{node}}"),),
        ),
        Panel(
            title="Memory of the daemon",
            answers="How much memory each manager's daemon uses, without its containers.",
            queries=(Query(f"process_resident_memory_bytes{{{_IN}}}", "{{node}}"),),
            unit=Unit.BYTES,
        ),
        Panel(
            title="Log and snapshot on disk",
            answers="How much room the log and the newest snapshot take.",
            queries=(
                Query(f"warren_wal_allocated_bytes{{{_IN}}}", "{{node}}: log"),
                Query(f"warren_snapshot_bytes{{{_IN}}}", "{{node}}: snapshot"),
            ),
            unit=Unit.BYTES,
            runbooks=("WarrenDiskNearFull",),
        ),
    ),
)

DASHBOARD: Final = Dashboard(
    name="managers",
    title="Warren: managers",
    answers="Who leads, how fast the managers agree and answer, and what is full.",
    variables=(Variable("node", "Manager", 'up{cluster="$cluster", job="warren-manager"}'),),
    rows=(_FIRST, _LEADING, _REQUESTS, _LOG, _SATURATION),
)

"""Of `warren.cli.shapes`, those of the screens: `cluster status` and `top`."""

from __future__ import annotations

from msgspec import Struct

from warren.cli.shapes_explain import EventView
from warren.cli.shapes_members import MemberView
from warren.cli.shapes_placement import ResourcesView

__all__ = [
    "FindingView",
    "NodeCountsView",
    "NodeTroubleView",
    "QuorumView",
    "RatesView",
    "ServiceCountsView",
    "ServiceTroubleView",
    "StatusView",
    "TopNodeView",
    "TopServiceView",
    "TopView",
]


class FindingView(Struct, frozen=True):
    """Something to look at; `command` says more."""

    severity: str
    kind: str
    subject: str | None
    summary: str
    command: str


class QuorumView(Struct, frozen=True):
    """`answering`, `spare`: voters that answer, and how many of these may be lost.

    `held`: whether a majority answers; null where nobody was asked.
    """

    held: bool | None
    voters: int
    needed: int
    answering: int | None
    spare: int | None
    why: str | None


class NodeTroubleView(Struct, frozen=True):
    id: str
    name: str
    status: str
    availability: str
    containers: int
    why: str


class NodeCountsView(Struct, frozen=True):
    total: int
    ready: int
    down: int
    draining: int
    paused: int


class ServiceTroubleView(Struct, frozen=True):
    id: str
    name: str
    running: int
    desired: int
    pending: int
    failing: int
    crash_looping: int
    starting: int
    completed: int
    starting_since: str | None
    reason: str | None


class ServiceCountsView(Struct, frozen=True):
    total: int
    as_desired: int
    containers_desired: int
    containers_running: int


class StatusView(Struct, frozen=True):
    healthy: bool
    checked_at: str
    stale: bool
    newest_change: str | None
    findings: list[FindingView]
    findings_left_out: int
    cluster_id: str
    epoch: int
    feature_level: int
    answered_by: str
    leader: str | None
    leader_node_id: str | None
    term: int
    last_index: int
    applied_index: int
    quorum: QuorumView
    joint: bool
    members: list[MemberView]
    nodes: NodeCountsView
    node_troubles: list[NodeTroubleView]
    node_troubles_left_out: int
    allocatable: ResourcesView
    allocated: ResourcesView
    services: ServiceCountsView
    service_troubles: list[ServiceTroubleView]
    service_troubles_left_out: int
    events: list[EventView] | None
    events_why: str | None


class RatesView(Struct, frozen=True):
    """Of the daemon that was asked, between two looks; latencies in seconds.

    The p99 of requests is the bound of the bucket it lies in; `api_p99_over_s` stands instead where
    it is longer than any bound. p50 and p99 of commits and fsyncs are since the daemon started.
    """

    seconds: float
    api_per_s: float
    api_errors_per_s: float
    api_mean_s: float | None
    api_p99_s: float | None
    api_p99_over_s: float | None
    leads: bool
    commits_per_s: float
    commit_mean_s: float | None
    commit_p50_s: float | None
    commit_p99_s: float | None
    fsync_p99_s: float | None
    placed_per_s: float
    placements_failed_per_s: float
    containers: dict[str, int]


class TopNodeView(Struct, frozen=True):
    id: str
    name: str
    status: str
    availability: str
    containers: int
    containers_running: int
    allocatable: ResourcesView
    allocated: ResourcesView
    cpu_used_milli: int | None
    memory_used_bytes: int | None


class TopServiceView(Struct, frozen=True):
    id: str
    name: str
    running: int
    desired: int
    running_change_per_s: float | None


class TopView(Struct, frozen=True):
    at: str
    stale: bool
    stale_why: str | None
    cluster_id: str
    leader: str | None
    answered_by: str
    quorum: QuorumView
    nodes_ready: int
    nodes_total: int
    containers_running: int
    containers_desired: int
    services_total: int
    nodes: list[TopNodeView]
    services: list[TopServiceView]
    rates: RatesView | None
    rates_why: str | None

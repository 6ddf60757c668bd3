"""What of a cluster's state is worth a look, ranked: the worst first. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from warren.cli.shapes_status import FindingView
from warren.pb.v1.objects_pb2 import AVAILABILITY_DRAIN, AVAILABILITY_PAUSE, NODE_STATUS_DOWN

if TYPE_CHECKING:
    from warren.cli.shapes_members import MemberView
    from warren.cli.shapes_placement import ResourcesView
    from warren.cli.shapes_status import QuorumView, ServiceTroubleView
    from warren.pb.v1 import api_pb2, node_pb2

__all__ = [
    "SEVERITIES",
    "counts_text",
    "needs_attention",
    "node_why",
    "of_cluster",
    "of_daemon",
    "of_nodes",
    "of_room",
    "of_services",
    "ranked",
]

SEVERITIES: Final = ("critical", "warning", "note")
"""Notes are worth knowing; a cluster that has only these is healthy."""

LAG_MAX: Final = 10_000  # entries; a member that is so far behind is long in catching up
DISK_FREE_PERCENT_MIN: Final = 10
RESERVED_PERCENT_MAX: Final = 90
START_PATIENCE_S: Final = 300  # a start that takes longer is worth a look

_BY_NAME_MAX: Final = 3  # more nodes than that with one trouble share a finding
_SERVICES_MAX: Final = 8


def needs_attention(findings: Sequence[FindingView]) -> bool:
    """Whether any of these is more than a note."""
    return any(each.severity != "note" for each in findings)


def of_cluster(
    quorum: QuorumView,
    members: Sequence[MemberView],
    frozen_reason: str | None,
    *,
    joint: bool,
) -> Iterator[FindingView]:
    """About the managers, and what is true of the cluster as a whole."""
    if quorum.held is False:
        yield FindingView(
            "critical",
            "no_quorum",
            None,
            "nothing can be decided: " + (quorum.why or "no majority of the managers answers"),
            "warrenctl cluster members --stale",
        )
    if frozen_reason:
        yield FindingView(
            "critical", "frozen", None, f"nothing is replaced: {frozen_reason}", "warrenctl node ls"
        )
    if quorum.held:
        yield from _silent(quorum, members)
        yield from _behind(members, joint=joint)
    releases = sorted({each.release for each in members if each.release})
    if len(releases) > 1:
        said = f"managers are of several releases: {', '.join(releases)}"
        yield FindingView("note", "mixed_releases", None, said, "warrenctl cluster members")
    if quorum.voters == 2:
        said = "of two managers none may be lost: a third one is worth more than the second"
        yield FindingView("note", "two_voters", None, said, "warrenctl node promote --help")


def of_daemon(
    quorum: QuorumView, daemon: node_pb2.GetDaemonResponse | None
) -> Iterator[FindingView]:
    """About the host whose daemon was asked. Without a majority that is why it is not ready."""
    if daemon is None or not daemon.ready_message or quorum.held is False:
        return
    said = f"host {daemon.node_name} is not ready: {daemon.ready_message}"
    yield FindingView("warning", "not_ready", daemon.node_name, said, "warrenctl doctor")


def _silent(quorum: QuorumView, members: Sequence[MemberView]) -> Iterator[FindingView]:
    silent = [each for each in members if each.active is False and each.role != "learner"]
    for each in silent:
        said = f"manager {_name(each)} does not answer the leader"
        if quorum.spare == 0:
            said += ": the next manager that is lost stops the cluster"
        severity = "critical" if quorum.spare == 0 else "warning"
        yield FindingView(
            severity, "manager_silent", each.node, said, _inspect(each.node or each.node_id)
        )


def _behind(members: Sequence[MemberView], *, joint: bool) -> Iterator[FindingView]:
    command = "warrenctl cluster members"
    for each in members:
        if each.role == "learner" and each.wanted == "voter":
            behind = "" if each.lag is None else f", {each.lag} entries behind"
            said = f"manager {_name(each)} does not vote yet: it catches up{behind}"
            yield FindingView("note", "catching_up", each.node, said, command)
        elif each.active and (each.lag or 0) > LAG_MAX:
            said = f"manager {_name(each)} is {each.lag} entries behind the leader"
            yield FindingView("warning", "manager_behind", each.node, said, command)
    if joint:
        said = "a change of the voting managers is under way"
        yield FindingView("note", "joint", None, said, command)


def _name(member: MemberView) -> str:
    return member.node or f"{member.id} at {member.address}"


def node_why(view: api_pb2.NodeView) -> list[tuple[str, str]]:
    """What is the matter with a node, the worst first: kinds, and words that follow its name."""
    node, about = view.node, view.node.description
    count = f"{view.containers} containers" if view.containers != 1 else "1 container"
    found = []
    if node.status == NODE_STATUS_DOWN:
        held = f"; it holds {count}" if view.containers else ""
        found.append(("node_down", f"is down{held}"))
    elif node.worker and not about.containerd_version:
        found.append(("no_containerd", "has no containerd that answers"))
    if node.drain_overdue:
        found.append(("drain_overdue", f"should be drained by now, and still has {count}"))
    elif node.availability == AVAILABILITY_DRAIN:
        found.append(("draining", f"is drained, {count} left" if view.containers else "is drained"))
    elif node.availability == AVAILABILITY_PAUSE:
        found.append(("paused", "is paused: it gets nothing new"))
    whole, free = about.capacity.disk_bytes, about.disk_free_bytes
    if whole and node.status != NODE_STATUS_DOWN and free * 100 < whole * DISK_FREE_PERCENT_MIN:
        found.append(("disk_full", f"has {free * 100 // whole} % of its disk free"))
    return found


_NODE_SEVERITY: Final = {
    "node_down": "warning",
    "no_containerd": "warning",
    "drain_overdue": "warning",
    "disk_full": "warning",
    "draining": "note",
    "paused": "note",
}
_NODE_MANY: Final = {
    "node_down": "are down",
    "no_containerd": "have no containerd that answers",
    "drain_overdue": "should be drained by now",
    "disk_full": f"have less than {DISK_FREE_PERCENT_MIN} % of their disk free",
    "draining": "are drained or being drained",
    "paused": "are paused: they get nothing new",
}


def of_nodes(nodes: Sequence[api_pb2.NodeView]) -> Iterator[FindingView]:
    """About the nodes; where many have the same, one finding tells of all of them."""
    by_kind: dict[str, list[tuple[api_pb2.NodeView, str]]] = {}
    for view in nodes:
        for kind, why in node_why(view):
            by_kind.setdefault(kind, []).append((view, why))
    for kind, severity in _NODE_SEVERITY.items():
        having = by_kind.get(kind, [])
        if len(having) > _BY_NAME_MAX:
            names = ", ".join(it.node.description.name for it, _ in having[:_BY_NAME_MAX])
            more = len(having) - _BY_NAME_MAX
            said = f"{len(having)} nodes {_NODE_MANY[kind]}: {names} and {more} more"
            yield FindingView(severity, kind, None, said, "warrenctl node ls")
            continue
        for view, why in having:
            name = view.node.description.name or view.node.id.hex()
            yield FindingView(severity, kind, name, f"node {name} {why}", _inspect(name))


def _inspect(name: str) -> str:
    return f"warrenctl node inspect {name}"


def of_services(
    troubles: Sequence[ServiceTroubleView], left_out: int, *, now_s: float
) -> Iterator[FindingView]:
    """About services that do not run as they should, but for those that merely start.

    `left_out`: how many more have too few containers, or crash-looping ones, and were not asked
    for.
    """
    bad = [each for each in troubles if _bad(each, now_s)]
    bad.sort(key=lambda each: (_severity(each) != "critical", -_missing(each), each.name))
    for each in bad[:_SERVICES_MAX]:
        known = each.pending or each.failing or each.crash_looping
        kind = "service_down" if _severity(each) == "critical" else "service_short"
        command = "explain" if each.pending else "service ps"
        if not known:
            kind = "slow_start"
        yield FindingView(
            _severity(each), kind, each.name, _service_said(each),
            f"warrenctl {command} {each.name}",
        )  # fmt: skip
    more = len(bad[_SERVICES_MAX:]) + left_out
    if more:
        said = f"{more} more services have fewer containers than they should, or crash-looping ones"
        yield FindingView("warning", "services_short", None, said, "warrenctl service ls")


def _bad(each: ServiceTroubleView, now_s: float) -> bool:
    from datetime import datetime

    if each.pending or each.failing or each.crash_looping:
        return True
    since = each.starting_since
    return since is not None and now_s - datetime.fromisoformat(since).timestamp() > (
        START_PATIENCE_S
    )


def _severity(each: ServiceTroubleView) -> str:
    return "critical" if each.running == 0 and each.desired else "warning"


def _missing(each: ServiceTroubleView) -> int:
    return each.desired - each.running


def _service_said(each: ServiceTroubleView) -> str:
    some = f"{each.running} of {each.desired} run" if each.running else (
        f"none of {each.desired} runs" if each.desired != 1 else "its container does not run"
    )  # fmt: skip
    counts = counts_text(each)
    reason = f": {each.reason}" if each.reason else ""
    return f"service {each.name}: {some}; {counts}{reason}"


def counts_text(each: ServiceTroubleView) -> str:
    """What those do that do not run: `2 pending, 1 crash-looping`."""
    failing = each.failing - each.crash_looping
    words = (
        (each.pending, "pending"),
        (each.crash_looping, "crash-looping"),
        (failing, "failing"),
        (each.starting, "starting"),
        (each.completed, "completed"),
    )
    return ", ".join(f"{number} {word}" for number, word in words if number > 0)


def of_room(allocated: ResourcesView, allocatable: ResourcesView) -> Iterator[FindingView]:
    """Where little is left to place containers on."""
    kinds = (
        ("CPU", allocated.cpu_milli, allocatable.cpu_milli),
        ("memory", allocated.memory_bytes, allocatable.memory_bytes),
    )
    for name, used, whole in kinds:
        if whole and used * 100 > whole * RESERVED_PERCENT_MAX:
            said = f"{used * 100 // whole} % of the {name} of ready nodes is reserved"
            yield FindingView("note", "room_short", None, said, "warrenctl node ls")


def ranked(findings: Sequence[FindingView]) -> list[FindingView]:
    """The worst first; of equal severity as they were found."""
    return sorted(findings, key=lambda each: SEVERITIES.index(each.severity))

"""From a manager's answers to the status of the cluster. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

from warren.cli import findings, views
from warren.cli.shapes_status import (
    NodeCountsView,
    NodeTroubleView,
    QuorumView,
    ServiceCountsView,
    ServiceTroubleView,
    StatusView,
)
from warren.cli.views_placement import resources
from warren.pb.v1 import objects_pb2
from warren.pb.v1.objects_pb2 import Availability, NodeStatus

if TYPE_CHECKING:
    from warren.cli.shapes_explain import EventView
    from warren.cli.shapes_members import MemberView
    from warren.cli.shapes_placement import ResourcesView
    from warren.pb.v1 import api_pb2, node_pb2

__all__ = ["Asked", "candidates", "crash_loops", "quorum", "service_trouble", "status"]

SERVICES_ASKED_MAX: Final = 20
NODES_SHOWN_MAX: Final = 20
FINDINGS_MAX: Final = 20
EVENTS_KEPT: Final = 20
_REASON_MAX: Final = 300

_ENDED: Final = frozenset(
    {objects_pb2.CONTAINER_STATE_FAILED, objects_pb2.CONTAINER_STATE_REJECTED,
     objects_pb2.CONTAINER_STATE_LOST}
)  # fmt: skip


class Asked(NamedTuple):
    """What was asked for, and how it went.

    `no_quorum`: why nothing newer can be had, empty where this is as of now; `events`: the oldest
    first, None where the leader could not be asked, which `events_why` explains; `loop_events`:
    likewise, those of crash loops are among them, however old; `slots`: by the id of the service;
    `daemon`: the one that was asked, None where it could not be asked of itself.
    """

    cluster: api_pb2.GetClusterResponse
    members: Sequence[MemberView]
    joint: bool
    nodes: Sequence[api_pb2.NodeView]
    services: Sequence[api_pb2.ServiceView]
    slots: Mapping[bytes, Sequence[api_pb2.Slot]]
    events: Sequence[EventView] | None
    loop_events: Sequence[EventView] | None
    events_why: str
    no_quorum: str
    stale: bool
    newest_change_ms: int
    daemon: node_pb2.GetDaemonResponse | None = None


def candidates(
    services: Sequence[api_pb2.ServiceView], loop_events: Sequence[EventView] | None
) -> list[api_pb2.ServiceView]:
    """The services whose slots are worth asking for, those first that lack the most.

    Too few containers run, or one of them is crash-looping, as the leader says or events do:
    between two crashes it runs.
    """
    looping = {service_id for service_id, _ in crash_loops(loop_events)}
    found = [
        each
        for each in services
        if not each.service.removing and (_is_troubled(each) or each.service.id.hex() in looping)
    ]
    return sorted(
        found, key=lambda it: (it.running > 0, it.running - it.desired, it.service.spec.name)
    )


def _is_troubled(view: api_pb2.ServiceView) -> bool:
    return view.running < view.desired or view.crash_looping > 0


def crash_loops(events: Sequence[EventView] | None) -> dict[tuple[str, int], str]:
    """The slots that crash-loop by what events say: service and slot, and why."""
    found: dict[tuple[str, int], str] = {}
    for event in events or ():
        slot = (event.service_id or "", event.slot or 0)
        if event.kind == "crash_looping":
            found[slot] = event.why
        elif event.kind == "crash_loop_over":
            found.pop(slot, None)
    return found


def quorum(members: Sequence[MemberView], no_quorum: str, *, stale: bool) -> QuorumView:
    """How many voters answer, as far as who answered knows."""
    voters = [each for each in members if each.role != "learner"]
    needed = len(voters) // 2 + 1
    told = bool(voters) and all(each.active is not None for each in voters)
    if no_quorum or stale or not told:
        why = no_quorum or (
            "asked with --stale: one manager's own state"
            if stale
            else "a majority answers; how many exactly only the leader knows"
        )
        held = False if no_quorum else None if stale else True
        return QuorumView(held, len(voters), needed, None, None, why)
    answering = sum(bool(each.active) for each in voters)
    return QuorumView(True, len(voters), needed, answering, max(0, answering - needed), None)


def service_trouble(
    view: api_pb2.ServiceView,
    slots: Sequence[api_pb2.Slot],
    pending_why: str = "",
    looping: Mapping[tuple[str, int], str] = MappingProxyType({}),
) -> ServiceTroubleView | None:
    """What the containers do that do not run; None where every slot is as it should be.

    `pending_why`, `looping`: what events say. A manager that does not lead lists no slot that waits
    for a node (what is missing of its slots waits), and does not know of crash loops.
    """
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    since_ms = 0
    newest: dict[tuple[int, bytes], api_pb2.Slot] = {}
    for slot in slots:
        newest.setdefault((slot.slot, slot.container.node_id or slot.node_id), slot)
    for slot in newest.values():
        kind, why = _slot_kind(slot)
        told = looping.get((view.service.id.hex(), slot.slot))
        if slot.HasField("crash_loop") or told is not None:
            kind, why = "failing", why or told or ""
            counts["crash_looping"] += 1
        counts[kind] += 1
        if why:
            reasons[why] += 1
        if kind == "starting":
            created = slot.container.created_at_ms
            since_ms = min(since_ms or created, created)
    missing = view.desired - len(newest)
    if missing > 0:
        counts["pending"] += missing
        reasons[pending_why] += missing if pending_why else 0
    troubled = ("pending", "failing", "crash_looping", "starting")
    if not any(counts[kind] for kind in troubled):
        return None
    return ServiceTroubleView(
        id=view.service.id.hex(),
        name=view.service.spec.name,
        running=view.running,
        desired=view.desired,
        pending=counts["pending"],
        failing=counts["failing"],
        crash_looping=counts["crash_looping"],
        starting=counts["starting"],
        completed=counts["completed"],
        starting_since=views.time_text(since_ms),
        reason=_most_telling(reasons),
    )


def _most_telling(reasons: Counter[str]) -> str | None:
    known = [why for why, count in reasons.most_common() if why and count]
    return known[0][:_REASON_MAX] if known else None


def _slot_kind(slot: api_pb2.Slot) -> tuple[str, str]:
    """What a slot does, and why it does not run."""
    if not slot.HasField("container"):
        return "pending", slot.pending_reason
    status = slot.container.status
    why = views.reason(status) or ""
    if slot.HasField("crash_loop"):
        loop = slot.crash_loop
        exited = f", the last time with exit code {loop.exit_code}" if loop.exited else ""
        return "failing", f"failed {loop.failures} times in a row{exited}"
    if status.state == objects_pb2.CONTAINER_STATE_RUNNING:
        return "running", ""
    if status.state in (
        objects_pb2.CONTAINER_STATE_COMPLETE,
        objects_pb2.CONTAINER_STATE_SHUTDOWN,
    ):
        return "completed", ""
    if status.state in _ENDED or status.retry_at_ms:
        return "failing", why
    return "starting", ""


def status(asked: Asked, *, now_ms: int) -> StatusView:
    """The whole screen as a value. `now_ms`: since the epoch."""
    answer = asked.cluster
    who = quorum(asked.members, asked.no_quorum, stale=asked.stale)
    troubles, services_left_out = _troubles(asked)
    allocatable, allocated = _room(asked.nodes)
    found = findings.ranked(
        [
            *findings.of_cluster(
                who, asked.members, answer.frozen_reason or None, joint=asked.joint
            ),
            *findings.of_daemon(who, asked.daemon),
            *findings.of_nodes(asked.nodes),
            *findings.of_services(troubles, services_left_out, now_s=now_ms / 1000),
            *findings.of_room(allocated, allocatable),
        ]
    )
    node_troubles = _node_troubles(asked.nodes)
    names = {each.node.id: each.node.description.name for each in asked.nodes}
    leader_id = b"" if asked.no_quorum else answer.leader_node_id
    return StatusView(
        healthy=not findings.needs_attention(found),
        checked_at=views.time_text(now_ms) or "",
        stale=bool(asked.no_quorum) or asked.stale,
        newest_change=views.time_text(asked.newest_change_ms),
        findings=found[:FINDINGS_MAX],
        findings_left_out=len(found[FINDINGS_MAX:]),
        cluster_id=answer.cluster.id.hex(),
        epoch=answer.cluster.epoch,
        feature_level=answer.cluster.feature_level,
        answered_by=names.get(answer.node_id) or answer.node_id.hex(),
        leader=names.get(leader_id) or None,
        leader_node_id=leader_id.hex() or None,
        term=answer.term,
        last_index=answer.last_index,
        applied_index=answer.applied_index,
        quorum=who,
        joint=asked.joint,
        members=list(asked.members),
        nodes=_node_counts(asked.nodes),
        node_troubles=node_troubles[:NODES_SHOWN_MAX],
        node_troubles_left_out=len(node_troubles[NODES_SHOWN_MAX:]),
        allocatable=allocatable,
        allocated=allocated,
        services=_service_counts(asked.services, troubles, services_left_out),
        service_troubles=troubles,
        service_troubles_left_out=services_left_out,
        events=None if asked.events is None else list(asked.events[-EVENTS_KEPT:]),
        events_why=asked.events_why or None,
    )


def _troubles(asked: Asked) -> tuple[list[ServiceTroubleView], int]:
    """Of the services that were looked into, and how many more lack containers or crash-loop."""
    found = []
    left_out = 0
    pending = {it.service_id: it.why for it in asked.events or () if it.kind == "pending"}
    # The leader's own word on crash loops is newer than its events.
    leads = asked.cluster.node_id == asked.cluster.leader_node_id
    looping = {} if leads else crash_loops(asked.loop_events)
    for view in asked.services:
        slots = asked.slots.get(view.service.id)
        if slots is not None:
            why = pending.get(view.service.id.hex(), "")
            trouble = service_trouble(view, slots, why, looping)
            found += [trouble] if trouble else []
        elif _is_troubled(view) and not view.service.removing:
            left_out += 1
    found.sort(key=lambda each: (each.running > 0, each.running - each.desired, each.name))
    return found, left_out


def _node_counts(nodes: Sequence[api_pb2.NodeView]) -> NodeCountsView:
    by_status = Counter(each.node.status for each in nodes)
    by_availability = Counter(each.node.availability for each in nodes)
    return NodeCountsView(
        total=len(nodes),
        ready=by_status[objects_pb2.NODE_STATUS_READY],
        down=by_status[objects_pb2.NODE_STATUS_DOWN],
        draining=by_availability[objects_pb2.AVAILABILITY_DRAIN],
        paused=by_availability[objects_pb2.AVAILABILITY_PAUSE],
    )


def _node_troubles(nodes: Sequence[api_pb2.NodeView]) -> list[NodeTroubleView]:
    found = []
    for view in nodes:
        words = findings.node_why(view)
        if words:
            found.append(
                NodeTroubleView(
                    id=view.node.id.hex(),
                    name=view.node.description.name,
                    status=views.word(NodeStatus, view.node.status),
                    availability=views.word(Availability, view.node.availability),
                    containers=view.containers,
                    why="; ".join(why for _, why in words),
                )
            )
    return sorted(found, key=lambda each: (each.status != "down", each.name))


def _service_counts(
    services: Sequence[api_pb2.ServiceView], troubles: Sequence[ServiceTroubleView], left_out: int
) -> ServiceCountsView:
    # What has completed is not missed: it is short of containers, and in no trouble.
    return ServiceCountsView(
        total=len(services),
        as_desired=len(services) - len(troubles) - left_out,
        containers_desired=sum(each.desired for each in services),
        containers_running=sum(each.running for each in services),
    )


def _room(nodes: Sequence[api_pb2.NodeView]) -> tuple[ResourcesView, ResourcesView]:
    """What may be reserved on the ready workers, and what of it is."""
    whole, held = objects_pb2.Resources(), objects_pb2.Resources()
    for view in nodes:
        if not view.node.worker or view.node.status != objects_pb2.NODE_STATUS_READY:
            continue
        given = view.node.description.capacity
        given = view.allocatable if view.HasField("allocatable") else given
        for total, part in ((whole, given), (held, view.allocated)):
            total.cpu_milli += part.cpu_milli
            total.memory_bytes += part.memory_bytes
            total.disk_bytes += part.disk_bytes
            total.pids += part.pids
    return resources(whole), resources(held)

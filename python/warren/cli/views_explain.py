"""From explanations and plans to the shapes that are printed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from warren.cli.shapes_explain import (
    AgainstView,
    ChangeView,
    EventView,
    ExplainFailingSlotView,
    ExplainFailingView,
    ExplainHoldView,
    ExplainNodeView,
    ExplainReasonView,
    ExplainSpreadView,
    ExplainVictimsView,
    ExplainVictimView,
    ExplanationView,
    PlannedNodeView,
    PlannedPreemptionView,
    PlannedServiceView,
    PlanView,
    ScoreView,
)
from warren.cli.views import container_spec, time_text, word
from warren.cli.views_placement import placement, resources
from warren.pb.v1.objects_pb2 import SERVICE_MODE_REPLICATED, ServiceMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from warren.pb.v1 import explain_pb2, objects_pb2

__all__ = ["changes", "event", "explanation", "plan"]


def explanation(answer: explain_pb2.ExplainResponse) -> ExplanationView:
    return ExplanationView(
        service_id=answer.service_id.hex(),
        service=answer.service_name,
        container_id=answer.container_id.hex() or None,
        slot=answer.slot or None,
        state=answer.state or None,
        node_id=answer.node_id.hex() or None,
        node=answer.node_name or None,
        summary=answer.summary,
        pending_reason=answer.pending_reason or None,
        asked=resources(answer.asked),
        nodes_total=answer.nodes_total,
        nodes_fit=answer.nodes_fit,
        reasons=[
            ExplainReasonView(it.kind, it.what, it.nodes, it.nodes_only) for it in answer.reasons
        ],
        nodes=[_node(it) for it in answer.nodes],
        nodes_left_out=answer.nodes_left_out,
        failing_slots=[_failing_slot(it) for it in answer.failing_slots],
        failing_slots_total=answer.failing_slots_total,
        holds=[_hold(it) for it in answer.holds],
    )


def _failing_slot(message: explain_pb2.ExplainFailingSlot) -> ExplainFailingSlotView:
    return ExplainFailingSlotView(
        slot=message.slot or None,
        node=message.node_name or None,
        failures=message.failures,
        crash_looping=message.crash_looping,
        exit_code=message.exit_code if message.exited else None,
        retry_in_seconds=_seconds(message.retry_in_ms) if message.waits else None,
    )


def _hold(message: explain_pb2.ExplainHold) -> ExplainHoldView:
    return ExplainHoldView(
        slot=message.slot or None,
        node_id=message.node_id.hex(),
        node=message.node_name,
        kept=resources(message.kept),
        since=time_text(message.since_ms),
        victims=[
            ExplainVictimView(it.container_id.hex(), it.container, it.priority)
            for it in message.victims
        ],
    )


def _seconds(milliseconds: int) -> int:
    """Rounded up: nobody is told too little."""
    return -(-milliseconds // 1000)


def _node(message: explain_pb2.ExplainNode) -> ExplainNodeView:
    score = ScoreView(
        stranded=message.stranded_milli / 1000,
        left_free=message.left_free_milli / 1000,
        affinity=message.affinity_milli / 1000,
    )
    return ExplainNodeView(
        node_id=message.node_id.hex(),
        node=message.name,
        fits=message.fits,
        current=message.current,
        rank=message.rank or None,
        against=[AgainstView(it.kind, it.why) for it in message.against],
        free=resources(message.free),
        containers=message.containers,
        service_containers=message.service_containers,
        score=score if message.fits else None,
        disliked=message.disliked,
        spreads=[
            ExplainSpreadView(it.attribute, it.value or None, it.containers)
            for it in message.spreads
        ],
        failing=ExplainFailingView(
            message.failing.failures, _seconds(message.failing.left_ms), message.failing.avoided
        )
        if message.HasField("failing")
        else None,
        victims=ExplainVictimsView(message.victims, message.victims_priority)
        if message.victims
        else None,
    )


def event(message: explain_pb2.ServiceEvent) -> EventView:
    return EventView(
        sequence=message.sequence or None,
        index=message.index or None,
        time=time_text(message.time_ms),
        kind=message.kind,
        service_id=message.service_id.hex() or None,
        service=message.service_name or None,
        slot=message.slot or None,
        node_id=message.node_id.hex() or None,
        node=message.node_name or None,
        why=message.why,
    )


def plan(answer: explain_pb2.PlanResponse) -> PlanView:
    services = [_planned(it) for it in answer.services]
    waits = any(it.pending or it.blocked for it in services)
    return PlanView(
        fits=not waits and not answer.unfinished,
        finished=not answer.unfinished,
        state_index=answer.state_index,
        services=services,
        preempted=[_preempted(it) for it in answer.preempted],
        preempted_total=answer.preempted_total,
    )


def _preempted(message: explain_pb2.PlannedPreemption) -> PlannedPreemptionView:
    return PlannedPreemptionView(
        container_id=message.container_id.hex(),
        service=message.service_name,
        slot=message.slot or None,
        node_id=message.node_id.hex(),
        node=message.node_name,
        priority=message.priority,
        by_service=message.by_service_name,
        by_slot=message.by_slot or None,
        by_priority=message.by_priority,
    )


def _planned(message: explain_pb2.PlannedService) -> PlannedServiceView:
    return PlannedServiceView(
        service=message.name,
        action=message.action,
        changes=changes(
            message.before if message.HasField("before") else None,
            message.after if message.HasField("after") else None,
        ),
        desired=message.desired,
        unchanged=message.unchanged,
        placed=_nodes(message.placed),
        stopped=_nodes(message.stopped),
        preempted=_nodes(message.preempted),
        pending=message.pending,
        pending_reason=message.pending_reason or None,
        blocked=message.blocked,
        blocked_reason=message.blocked_reason or None,
    )


def _nodes(messages: Iterable[explain_pb2.PlannedNode]) -> list[PlannedNodeView]:
    return [PlannedNodeView(it.node_id.hex(), it.name, it.count) for it in messages]


def changes(
    before: objects_pb2.ServiceSpec | None, after: objects_pb2.ServiceSpec | None
) -> list[ChangeView]:
    """What differs, field by field, by the names that `service inspect` has for them."""
    old, new = _fields(before), _fields(after)
    paths = sorted(old.keys() | new.keys())
    return [
        ChangeView(path, old.get(path), new.get(path))
        for path in paths
        if old.get(path) != new.get(path)
    ]


def _fields(spec: objects_pb2.ServiceSpec | None) -> dict[str, Any]:
    """The leaves of a spec by path, lists among them; what is empty is not there."""
    if spec is None:
        return {}
    whole = {
        "mode": word(ServiceMode, spec.mode),
        "replicas": spec.replicas if spec.mode == SERVICE_MODE_REPLICATED else None,
        "labels": dict(spec.labels),
        "container": msgspec.to_builtins(container_spec(spec.container)),
        "placement": msgspec.to_builtins(placement(spec)),
    }
    container = whole["container"]
    # By name, so that one that was added or changed shows as that.
    container["env"] = dict(text.partition("=")[::2] for text in container["env"])
    container["mounts"] = {mount["target"]: mount for mount in container["mounts"]}
    leaves: dict[str, Any] = {}
    _collect(whole, "", leaves)
    return leaves


def _collect(value: Any, path: str, leaves: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _collect(inner, f"{path}.{name}" if path else name, leaves)
    elif value is not None and value != []:
        leaves[path] = value

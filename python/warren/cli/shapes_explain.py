"""Of `warren.cli.shapes`, those about why something is where it is, and what would happen if."""

from __future__ import annotations

from msgspec import Struct

from warren.cli.shapes_placement import ResourcesView

__all__ = [
    "AgainstView",
    "ChangeView",
    "EventView",
    "ExplainFailingSlotView",
    "ExplainFailingView",
    "ExplainHoldView",
    "ExplainNodeView",
    "ExplainReasonView",
    "ExplainSpreadView",
    "ExplainVictimView",
    "ExplainVictimsView",
    "ExplanationView",
    "PlanView",
    "PlannedNodeView",
    "PlannedPreemptionView",
    "PlannedServiceView",
    "ScoreView",
]


class AgainstView(Struct, frozen=True):
    kind: str
    why: str


class ScoreView(Struct, frozen=True):
    """In points: one is what an affinity of weight 1 is worth."""

    stranded: float
    left_free: float
    affinity: float


class ExplainSpreadView(Struct, frozen=True):
    attribute: str
    value: str | None
    containers: int


class ExplainFailingView(Struct, frozen=True):
    """The service keeps failing on the node: within ten minutes, and until that is forgotten."""

    failures: int
    left_seconds: int
    avoided: bool


class ExplainVictimsView(Struct, frozen=True):
    """Containers of a lower priority that would have to end to make room."""

    containers: int
    priority: int


class ExplainNodeView(Struct, frozen=True):
    node_id: str
    node: str
    fits: bool
    current: bool
    rank: int | None
    against: list[AgainstView]
    free: ResourcesView
    containers: int
    service_containers: int
    score: ScoreView | None
    disliked: bool
    spreads: list[ExplainSpreadView]
    failing: ExplainFailingView | None
    victims: ExplainVictimsView | None


class ExplainReasonView(Struct, frozen=True):
    kind: str
    what: str
    nodes: int
    nodes_only: int


class ExplainFailingSlotView(Struct, frozen=True):
    slot: int | None
    node: str | None
    failures: int
    crash_looping: bool
    exit_code: int | None
    retry_in_seconds: int | None


class ExplainVictimView(Struct, frozen=True):
    container_id: str
    container: str
    priority: int


class ExplainHoldView(Struct, frozen=True):
    """Room that is kept for a slot until others have stopped."""

    slot: int | None
    node_id: str
    node: str
    kept: ResourcesView
    since: str | None
    victims: list[ExplainVictimView]


class ExplanationView(Struct, frozen=True):
    service_id: str
    service: str
    container_id: str | None
    slot: int | None
    state: str | None
    node_id: str | None
    node: str | None
    summary: str
    pending_reason: str | None
    asked: ResourcesView
    nodes_total: int
    nodes_fit: int
    reasons: list[ExplainReasonView]
    nodes: list[ExplainNodeView]
    nodes_left_out: int
    failing_slots: list[ExplainFailingSlotView]
    failing_slots_total: int
    holds: list[ExplainHoldView]


class EventView(Struct, frozen=True):
    sequence: int | None
    index: int | None
    time: str | None
    kind: str
    service_id: str | None
    service: str | None
    slot: int | None
    node_id: str | None
    node: str | None
    why: str


class ChangeView(Struct, frozen=True):
    """A field by its path, as `service inspect` names it; null: not there."""

    field: str
    old: object
    new: object


class PlannedNodeView(Struct, frozen=True):
    node_id: str
    node: str
    containers: int


class PlannedServiceView(Struct, frozen=True):
    service: str
    action: str
    changes: list[ChangeView]
    desired: int
    unchanged: int
    placed: list[PlannedNodeView]
    stopped: list[PlannedNodeView]
    preempted: list[PlannedNodeView]
    pending: int
    pending_reason: str | None
    blocked: int
    blocked_reason: str | None


class PlannedPreemptionView(Struct, frozen=True):
    """A container that runs now and would make room."""

    container_id: str
    service: str
    slot: int | None
    node_id: str
    node: str
    priority: int
    by_service: str
    by_slot: int | None
    by_priority: int


class PlanView(Struct, frozen=True):
    fits: bool
    finished: bool
    state_index: int
    services: list[PlannedServiceView]
    preempted: list[PlannedPreemptionView]
    preempted_total: int

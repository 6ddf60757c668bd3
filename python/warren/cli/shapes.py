"""The shapes that `--format json` and `yaml` print: a contract, described in docs/cli.md.

Ids and digests are lowercase hex, times RFC 3339 in UTC, enumerations lowercase words; what does
not apply is null.
"""

from __future__ import annotations

from msgspec import Struct

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
from warren.cli.shapes_members import MemberView
from warren.cli.shapes_placement import (
    AffinityView,
    AntiAffinityView,
    DeviceAskView,
    DeviceShareView,
    DevicesView,
    PlacementView,
    ResourcesView,
    SpreadView,
    TaintView,
    TolerationView,
    VolumeView,
)
from warren.cli.shapes_status import (
    FindingView,
    NodeCountsView,
    NodeTroubleView,
    QuorumView,
    RatesView,
    ServiceCountsView,
    ServiceTroubleView,
    StatusView,
    TopNodeView,
    TopServiceView,
    TopView,
)
from warren.cli.shapes_support import (
    BundleEntry,
    BundleView,
    CheckView,
    DashboardView,
    DoctorReport,
    LogLevelsView,
    LogLevelView,
)

__all__ = [
    "AffinityView",
    "AgainstView",
    "AntiAffinityView",
    "BackupView",
    "BundleEntry",
    "BundleView",
    "ChangeView",
    "CheckView",
    "ClusterChanged",
    "ClusterCreated",
    "ClusterJoined",
    "ClusterLeft",
    "ClusterRecovered",
    "ClusterRestored",
    "ClusterView",
    "ContainerDetail",
    "ContainerSpecView",
    "ContainerView",
    "CrashLoopView",
    "DaemonView",
    "DashboardView",
    "DeviceAskView",
    "DeviceShareView",
    "DevicesView",
    "DoctorReport",
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
    "FindingView",
    "HoldView",
    "ImageRemoved",
    "ImageView",
    "Leadership",
    "LogLevelView",
    "LogLevelsView",
    "LogLineView",
    "LostMemberView",
    "MemberAdded",
    "MemberRemoved",
    "MemberView",
    "MountView",
    "NodeAvailability",
    "NodeChanged",
    "NodeCountsView",
    "NodeDetail",
    "NodeRemoved",
    "NodeTroubleView",
    "NodeUpdated",
    "NodeView",
    "OvercommitView",
    "PlacementView",
    "PlanView",
    "PlannedNodeView",
    "PlannedPreemptionView",
    "PlannedServiceView",
    "QuorumView",
    "RatesView",
    "ResourcesView",
    "ScoreView",
    "ServiceChanged",
    "ServiceCountsView",
    "ServiceDetail",
    "ServiceRemoved",
    "ServiceTroubleView",
    "ServiceView",
    "SlotView",
    "SpreadView",
    "StatusView",
    "TaintView",
    "TolerationView",
    "TopNodeView",
    "TopServiceView",
    "TopView",
    "UsageView",
    "VersionView",
    "VolumeView",
    "WalDamage",
    "WalFrame",
    "WalHardState",
    "WalPlace",
    "WalReport",
]


class ClusterView(Struct, frozen=True):
    id: str
    epoch: int
    created_at: str | None
    feature_level: int
    node_id: str
    leader_node_id: str | None
    term: int
    last_index: int
    applied_index: int
    managers: int
    workers: int
    nodes_ready: int
    services: int
    containers: int
    containers_running: int
    capacity: ResourcesView
    allocated: ResourcesView
    leader: str | None
    voters: int
    learners: int
    joint: bool
    members: list[MemberView]
    lost_nodes_freeze_percent: int
    node_grace_ms: int
    frozen_since: str | None
    frozen_reason: str | None
    overcommit: OvercommitView


class OvercommitView(Struct, frozen=True):
    cpu_percent: int
    memory_percent: int
    disk_percent: int
    pids_percent: int


class ClusterChanged(Struct, frozen=True):
    lost_nodes_freeze_percent: int
    node_grace_ms: int
    overcommit: OvercommitView


class ClusterCreated(Struct, frozen=True):
    id: str
    node_id: str


class ClusterJoined(Struct, frozen=True):
    id: str
    node_id: str
    role: str
    member_id: str | None


class ClusterLeft(Struct, frozen=True):
    node_id: str


class MemberAdded(Struct, frozen=True):
    id: str
    node_id: str
    cluster_id: str
    epoch: int
    api_addresses: list[str]


class MemberRemoved(Struct, frozen=True):
    id: str


class Leadership(Struct, frozen=True):
    member_id: str
    node_id: str
    node: str | None


class BackupView(Struct, frozen=True):
    file: str
    size_bytes: int
    format: int
    cluster_id: str
    epoch: int
    index: int
    term: int
    created_at: str | None
    release: str
    feature_level: int
    state_hash: str
    services: int
    nodes: int
    containers: int
    stale: bool


class ClusterRestored(Struct, frozen=True):
    id: str
    epoch: int
    member_id: str
    node_id: str
    index: int
    term: int
    backup: BackupView


class LostMemberView(Struct, frozen=True):
    id: str
    node_id: str
    address: str


class ClusterRecovered(Struct, frozen=True):
    id: str
    epoch: int
    member_id: str
    last_index: int
    last_term: int
    commit_index: int
    removed: list[LostMemberView]


class ImageView(Struct, frozen=True):
    reference: str
    digest: str
    size_bytes: int


class ImageRemoved(Struct, frozen=True):
    reference: str


class NodeView(Struct, frozen=True):
    id: str
    name: str
    status: str
    availability: str
    manager: bool
    worker: bool
    leader: bool
    advertise_addr: str | None
    capacity: ResourcesView
    allocated: ResourcesView
    containers: int
    containers_running: int
    labels: dict[str, str]
    images: list[ImageView]
    architecture: str
    os_name: str
    kernel: str
    warren_version: str
    containerd_version: str | None
    joined_at: str | None
    member_id: str | None
    voter: bool
    reserved: ResourcesView
    allocatable: ResourcesView
    labels_set: dict[str, str]
    taints: list[TaintView]
    taints_set: list[TaintView]
    devices: list[DevicesView]
    volumes: list[VolumeView]
    disk_free_bytes: int
    drain_deadline: str | None
    drain_overdue: bool


class NodeChanged(Struct, frozen=True):
    id: str
    name: str
    role: str
    member_id: str | None


class NodeAvailability(Struct, frozen=True):
    id: str
    name: str
    availability: str
    containers: int


class NodeUpdated(Struct, frozen=True):
    id: str
    name: str
    labels_set: dict[str, str]
    taints_set: list[TaintView]


class NodeRemoved(Struct, frozen=True):
    id: str
    name: str


class MountView(Struct, frozen=True):
    type: str
    source: str | None
    target: str
    read_only: bool
    tmpfs_size_bytes: int | None
    exclusive: bool


class ContainerSpecView(Struct, frozen=True):
    image: str
    image_digest: str | None
    command: list[str]
    env: list[str]
    mounts: list[MountView]
    resources: ResourcesView
    restart: str
    restart_max_attempts: int | None
    network: str
    user: str | None
    workdir: str | None
    stop_timeout_ms: int
    labels: dict[str, str]
    partition: str
    partition_stop_after_ms: int | None
    limits: ResourcesView
    host_ports: list[str]
    devices: list[DeviceAskView]


class ServiceView(Struct, frozen=True):
    id: str
    name: str
    mode: str
    replicas: int | None
    desired: int
    running: int
    crash_looping: int
    version: int
    removing: bool
    labels: dict[str, str]
    spec_digest: str
    container: ContainerSpecView
    created_at: str | None
    updated_at: str | None
    placement: PlacementView


class ServiceChanged(Struct, frozen=True):
    id: str
    name: str
    version: int


class ServiceRemoved(Struct, frozen=True):
    id: str
    name: str


class ContainerView(Struct, frozen=True):
    id: str
    service_id: str
    service: str
    slot: int
    node_id: str
    node: str | None
    desired: str
    state: str
    attempt: int
    reason: str | None
    exit_code: int | None
    oom_killed: bool
    pid: int | None
    resources: ResourcesView
    service_version: int
    spec_digest: str
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    retry_at: str | None
    devices: list[DeviceShareView]


class ServiceDetail(ServiceView, frozen=True):
    events: list[EventView] | None


class HoldView(Struct, frozen=True):
    service_id: str
    slot: int
    resources: ResourcesView
    victims: list[str]
    since: str | None


class UsageView(Struct, frozen=True):
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    pids: int
    measured_at: str | None


class NodeDetail(NodeView, frozen=True):
    assigned: list[ContainerView]
    attributes: dict[str, str]
    holds: list[HoldView]
    used: UsageView | None


class ContainerDetail(ContainerView, frozen=True):
    spec: ContainerSpecView


class CrashLoopView(Struct, frozen=True):
    failures: int
    since: str | None
    exit_code: int | None


class SlotView(Struct, frozen=True):
    service: str
    slot: int
    container_id: str | None
    node_id: str | None
    node: str | None
    desired: str
    state: str
    attempt: int
    reason: str | None
    exit_code: int | None
    oom_killed: bool
    pid: int | None
    service_version: int
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    retry_at: str | None
    crash_loop: CrashLoopView | None


class LogLineView(Struct, frozen=True):
    service: str
    slot: int
    container_id: str
    time: str
    stream: str
    line: str


class DaemonView(Struct, frozen=True):
    version: str
    node_id: str
    node: str
    in_cluster: bool
    ready: bool
    ready_message: str | None


class VersionView(Struct, frozen=True):
    client: str
    daemon: DaemonView | None


class WalHardState(Struct, frozen=True):
    term: int
    voted_for: str | None
    commit_index: int
    generation: int
    cut: bool


class WalPlace(Struct, frozen=True):
    file: str
    offset: int


class WalDamage(WalPlace, frozen=True):
    why: str


class WalReport(Struct, frozen=True):
    directory: str
    end: str
    writer_pid: int | None
    cluster_id: str | None
    epoch: int | None
    member_id: str | None
    data_dir_id: str | None
    segments: int | None
    frames: int
    batches: int
    entries: int | None
    first_index: int | None
    last_index: int
    last_term: int
    snapshot_index: int | None
    snapshot_term: int | None
    hard_state: WalHardState | None
    incomplete_batch: WalPlace | None
    damage: WalDamage | None


class WalFrame(Struct, frozen=True):
    file: str
    offset: int
    kind: str
    index: int | None
    term: int | None
    payload_bytes: int
    command: str | None
    request_id: str | None
    hard_state: WalHardState | None
    payload: str | None

"""From messages to the shapes that are printed. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from warren.cli.shapes import (
    ClusterView,
    ContainerDetail,
    ContainerSpecView,
    ContainerView,
    CrashLoopView,
    DaemonView,
    HoldView,
    ImageView,
    MemberView,
    MountView,
    NodeDetail,
    NodeView,
    OvercommitView,
    ServiceDetail,
    ServiceView,
    SlotView,
    UsageView,
    VolumeView,
)
from warren.cli.views_placement import (
    device_asks,
    device_shares,
    devices,
    host_ports,
    limits,
    placement,
    resources,
    taints,
)
from warren.pb.v1.objects_pb2 import (
    SERVICE_MODE_REPLICATED,
    Availability,
    ContainerState,
    DesiredState,
    MountType,
    NetworkMode,
    NodeStatus,
    PartitionPolicy,
    RestartCondition,
    ServiceMode,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from warren.cli.shapes import EventView
    from warren.pb.v1 import api_pb2, node_pb2, objects_pb2

__all__ = [
    "cluster",
    "container",
    "container_detail",
    "container_spec",
    "daemon",
    "image",
    "members",
    "mount",
    "node",
    "node_detail",
    "overcommit",
    "reason",
    "resources",
    "service",
    "service_detail",
    "slot",
    "time_text",
    "word",
]


def time_text(time_ms: int) -> str | None:
    """RFC 3339 with milliseconds; None for 0, which stands for "never"."""
    if not time_ms:
        return None
    seconds, milliseconds = divmod(time_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03d}Z"


def word(enum: Any, number: int) -> str:
    """The lowercase word of an enumeration's value; of an unknown one the number."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    try:
        name: str = enum.Name(number)
    except ValueError:
        return str(number)
    return name.removeprefix(prefix).lower().replace("_", "-")


def members(answer: api_pb2.ListMembersResponse, node_names: Mapping[str, str]) -> list[MemberView]:
    """The members of consensus, the leader first, then by name. `node_names`: by id."""
    # The leader alone knows how far the others are, and whether they are there.
    told_by_leader = any(each.match_index for each in answer.members)
    views = [
        _member(each, node_names, answer.last_index if told_by_leader else None)
        for each in answer.members
    ]
    return sorted(views, key=lambda each: (each.role != "leader", each.node or "", each.id))


def _member(
    view: api_pb2.MemberView, node_names: Mapping[str, str], last_index: int | None
) -> MemberView:
    member, node_id = view.member, view.member.node_id.hex()
    if view.leader:
        lag: int | None = 0
        active: bool | None = True
    elif last_index is None:
        lag, active = None, None
    else:
        lag, active = max(0, last_index - view.match_index), view.recent_active
    plain = "voter" if view.voter else "learner"
    return MemberView(
        # 64 bits are more than some readers of JSON keep.
        id=str(member.id),
        node_id=node_id,
        node=node_names.get(node_id) or None,
        role="leader" if view.leader else plain,
        wanted="voter" if member.voter else "learner",
        address=member.address,
        api_address=member.api_address or None,
        lag=lag,
        active=active,
        release=view.release or None,
        added_at=time_text(member.added_at_ms),
    )


def cluster(
    answer: api_pb2.GetClusterResponse, of_members: Sequence[MemberView], *, joint: bool
) -> ClusterView:
    leader_id = answer.leader_node_id.hex()
    names = [each.node for each in of_members if each.node_id == leader_id]
    learners = sum(each.role == "learner" for each in of_members)
    return ClusterView(
        id=answer.cluster.id.hex(),
        epoch=answer.cluster.epoch,
        created_at=time_text(answer.cluster.created_at_ms),
        feature_level=answer.cluster.feature_level,
        node_id=answer.node_id.hex(),
        leader_node_id=answer.leader_node_id.hex() or None,
        term=answer.term,
        last_index=answer.last_index,
        applied_index=answer.applied_index,
        managers=answer.managers,
        workers=answer.workers,
        nodes_ready=answer.nodes_ready,
        services=answer.services,
        containers=answer.containers,
        containers_running=answer.containers_running,
        capacity=resources(answer.capacity),
        allocated=resources(answer.allocated),
        leader=names[0] if names else None,
        voters=len(of_members) - learners,
        learners=learners,
        joint=joint,
        members=list(of_members),
        lost_nodes_freeze_percent=answer.cluster.settings.lost_nodes_freeze_percent,
        node_grace_ms=answer.cluster.settings.node_grace_ms,
        frozen_since=time_text(answer.cluster.freeze.since_ms),
        frozen_reason=answer.frozen_reason or None,
        overcommit=overcommit(answer.cluster.settings),
    )


def overcommit(settings: objects_pb2.ClusterSettings) -> OvercommitView:
    """In percent; what nobody has changed is 100."""
    return OvercommitView(
        cpu_percent=settings.overcommit_cpu_percent or 100,
        memory_percent=settings.overcommit_memory_percent or 100,
        disk_percent=settings.overcommit_disk_percent or 100,
        pids_percent=settings.overcommit_pids_percent or 100,
    )


def image(message: objects_pb2.NodeImage) -> ImageView:
    return ImageView(message.reference, message.digest, message.size_bytes)


def _node_fields(view: api_pb2.NodeView, of_members: Iterable[MemberView]) -> dict[str, Any]:
    node, about = view.node, view.node.description
    own = [each for each in of_members if each.node_id == node.id.hex()]
    return {
        "id": node.id.hex(),
        "name": about.name,
        "status": word(NodeStatus, node.status),
        "availability": word(Availability, node.availability),
        "manager": node.manager,
        "worker": node.worker,
        "leader": view.leader,
        "advertise_addr": node.advertise_addr or None,
        "capacity": resources(about.capacity),
        "allocated": resources(view.allocated),
        "containers": view.containers,
        "containers_running": view.containers_running,
        # What operators have set wins, as it does where constraints are judged.
        "labels": dict(sorted({**about.labels, **node.labels}.items())),
        "images": [image(message) for message in about.images],
        "architecture": about.architecture,
        "os_name": about.os_name,
        "kernel": about.kernel,
        "warren_version": about.warren_version,
        "containerd_version": about.containerd_version or None,
        "joined_at": time_text(node.joined_at_ms),
        "member_id": own[0].id if own else None,
        "voter": any(each.role != "learner" for each in own),
        "reserved": resources(about.reserved),
        "allocatable": resources(
            view.allocatable if view.HasField("allocatable") else about.capacity
        ),
        "labels_set": dict(sorted(node.labels.items())),
        "taints": taints((*about.taints, *node.taints)),
        "taints_set": taints(node.taints),
        "devices": devices(about.devices),
        "volumes": [VolumeView(each.name, each.read_only) for each in about.volumes],
        "disk_free_bytes": about.disk_free_bytes,
        "drain_deadline": time_text(node.drain_deadline_ms),
        "drain_overdue": node.drain_overdue,
    }


def node(view: api_pb2.NodeView, of_members: Iterable[MemberView]) -> NodeView:
    return NodeView(**_node_fields(view, of_members))


def node_detail(answer: api_pb2.GetNodeResponse, of_members: Iterable[MemberView]) -> NodeDetail:
    name = answer.node.node.description.name
    assigned = [ContainerView(**_container_fields(each, name)) for each in answer.containers]
    assigned.sort(key=lambda each: (each.service, each.slot, each.id))
    attributes = dict(sorted(answer.node.attributes.items()))
    fields = _node_fields(answer.node, of_members)
    holds = [
        HoldView(
            service_id=each.service_id.hex(),
            slot=each.slot,
            resources=resources(each.resources),
            victims=[victim.hex() for victim in each.victims],
            since=time_text(each.since_ms),
        )
        for each in answer.node.node.holds
    ]
    used = None
    if answer.node.HasField("used"):
        told = answer.node.used
        used = UsageView(
            cpu_milli=told.cpu_milli,
            memory_bytes=told.memory_bytes,
            disk_bytes=told.disk_bytes,
            pids=told.pids,
            measured_at=time_text(told.measured_at_ms),
        )
    return NodeDetail(**fields, assigned=assigned, attributes=attributes, holds=holds, used=used)


def mount(message: objects_pb2.Mount) -> MountView:
    return MountView(
        type=word(MountType, message.type),
        source=message.source or None,
        target=message.target,
        read_only=message.read_only,
        tmpfs_size_bytes=message.tmpfs_size_bytes or None,
        exclusive=message.exclusive,
    )


def container_spec(spec: objects_pb2.ContainerSpec) -> ContainerSpecView:
    return ContainerSpecView(
        image=spec.image,
        image_digest=spec.image_digest or None,
        command=list(spec.command),
        env=list(spec.env),
        mounts=[mount(message) for message in spec.mounts],
        resources=resources(spec.resources),
        restart=word(RestartCondition, spec.restart),
        restart_max_attempts=spec.restart_max_attempts or None,
        network=word(NetworkMode, spec.network),
        user=spec.user or None,
        workdir=spec.workdir or None,
        stop_timeout_ms=spec.stop_timeout_ms,
        labels=dict(sorted(spec.labels.items())),
        partition=_partition(spec.partition),
        partition_stop_after_ms=spec.partition_stop_after_ms or None,
        limits=limits(spec),
        host_ports=host_ports(spec),
        devices=device_asks(spec),
    )


def _partition(policy: int) -> str:
    # As the flag has it, and as keep is stored.
    return word(PartitionPolicy, policy or PartitionPolicy.PARTITION_POLICY_KEEP).replace("-", "_")


def service(view: api_pb2.ServiceView) -> ServiceView:
    return ServiceView(**_service_fields(view))


def service_detail(view: api_pb2.ServiceView, events: list[EventView] | None) -> ServiceDetail:
    """`events`: its newest ones, the oldest first; None: not known."""
    return ServiceDetail(**_service_fields(view), events=events)


def _service_fields(view: api_pb2.ServiceView) -> dict[str, Any]:
    record = view.service
    replicated = record.spec.mode == SERVICE_MODE_REPLICATED
    return {
        "id": record.id.hex(),
        "name": record.spec.name,
        "mode": word(ServiceMode, record.spec.mode),
        "replicas": record.spec.replicas if replicated else None,
        "desired": view.desired,
        "running": view.running,
        "crash_looping": view.crash_looping,
        "version": record.version,
        "removing": record.removing,
        "labels": dict(sorted(record.spec.labels.items())),
        "spec_digest": record.spec_digest.hex(),
        "container": container_spec(record.spec.container),
        "created_at": time_text(record.created_at_ms),
        "updated_at": time_text(record.updated_at_ms),
        "placement": placement(record.spec),
    }


def reason(status: objects_pb2.ContainerStatus) -> str | None:
    """Why a container is in its state, in words; None where there is nothing to say."""
    words = [status.message] if status.message else []
    if status.oom_killed and "memory" not in status.message:
        words.append("killed because it used more memory than its limit")
    if status.exited and not words:
        words.append(f"exited with code {status.exit_code}")
    return "; ".join(words) or None


def _status_fields(record: objects_pb2.Container) -> dict[str, Any]:
    status = record.status
    return {
        "desired": word(DesiredState, record.desired),
        "state": word(ContainerState, status.state),
        "attempt": status.attempt,
        "reason": reason(status),
        "exit_code": status.exit_code if status.exited else None,
        "oom_killed": status.oom_killed,
        "pid": status.pid or None,
        "service_version": record.service_version,
        "created_at": time_text(record.created_at_ms),
        "started_at": time_text(status.started_at_ms),
        "finished_at": time_text(status.finished_at_ms),
        "retry_at": time_text(status.retry_at_ms),
    }


def _container_fields(record: objects_pb2.Container, node_name: str) -> dict[str, Any]:
    return {
        **_status_fields(record),
        "id": record.id.hex(),
        "service_id": record.service_id.hex(),
        "service": record.service_name,
        "slot": record.slot,
        "node_id": record.node_id.hex(),
        "node": node_name or None,
        "resources": resources(record.resources),
        "spec_digest": record.spec_digest.hex(),
        "devices": device_shares(record.devices),
    }


def container(view: api_pb2.ContainerView) -> ContainerView:
    return ContainerView(**_container_fields(view.container, view.node_name))


def container_detail(view: api_pb2.ContainerView) -> ContainerDetail:
    fields = _container_fields(view.container, view.node_name)
    return ContainerDetail(**fields, spec=container_spec(view.spec))


def _crash_loop(message: api_pb2.Slot) -> CrashLoopView | None:
    if not message.HasField("crash_loop"):
        return None
    known = message.crash_loop
    return CrashLoopView(
        failures=known.failures,
        since=time_text(known.since_ms),
        exit_code=known.exit_code if known.exited else None,
    )


def slot(message: api_pb2.Slot, service_view: api_pb2.ServiceView) -> SlotView:
    name = service_view.service.spec.name
    where: dict[str, Any] = {
        "service": name,
        "slot": message.slot,
        "node": message.node_name or None,
    }
    if message.HasField("container"):
        return SlotView(
            **where,
            **_status_fields(message.container),
            container_id=message.container.id.hex(),
            node_id=message.container.node_id.hex(),
            crash_loop=_crash_loop(message),
        )
    return SlotView(
        **where,
        container_id=None,
        node_id=message.node_id.hex() or None,
        desired="run",
        state="pending",
        attempt=0,
        reason=message.pending_reason or None,
        exit_code=None,
        oom_killed=False,
        pid=None,
        service_version=service_view.service.version,
        created_at=None,
        started_at=None,
        finished_at=None,
        retry_at=None,
        crash_loop=None,
    )


def daemon(answer: node_pb2.GetDaemonResponse) -> DaemonView:
    return DaemonView(
        version=answer.version,
        node_id=answer.node_id.hex(),
        node=answer.node_name,
        in_cluster=answer.in_cluster,
        ready=not answer.ready_message,
        ready_message=answer.ready_message or None,
    )

"""A small manager and node service behind a real gRPC server on a Unix socket.

It keeps services in memory and answers what it was told to answer: enough for the wire's paths.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from warren import rpc
from warren.pb.v1 import api_pb2, explain_pb2, node_pb2, objects_pb2, snapshot_pb2

NODE_ID = bytes([0xA0] * 16)
OTHER_NODE_ID = bytes([0xB0] * 16)
CLUSTER_ID = bytes([0xC0] * 16)
LAST_INDEX = 40
CREATED_AT_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


class RefusalError(Exception):
    """What the next call of a method is answered with."""

    def __init__(self, code: str, message: str, *, bare: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.bare = bare  # a status without our metadata, as gRPC itself answers


class FakeManager:
    """`refuse[method]`: refusals to come; `seen`: all requests; `progress`: what watches say.

    `hangs`: methods that are not answered unless what may be old will do; `*`: none is, ever.

    `stale`: the methods that were asked for what may be old. `named`: method and request id of
    all. `events`: what a list of them has, whatever was asked; `filters`: it says that this is what
    was asked for. `nodes`: how many there are. `credentials`: serves these, at a port of the
    loopback too, which `address` names then.
    """

    def __init__(self, path: Path, credentials: grpc.ServerCredentials | None = None) -> None:
        self.path = path
        self.host = f"unix://{path}"
        self.services: dict[bytes, objects_pb2.Service] = {}
        self.slots: list[api_pb2.Slot] = []
        self.images: list[objects_pb2.NodeImage] = []
        self.members = [member(7, NODE_ID, leader=True, match_index=LAST_INDEX)]
        self.loaded = bytearray()
        self.backup = b""
        self.backup_total = 0  # what is said of its size; 0: the truth
        self.log_lines: list[node_pb2.LogLine] = []
        self.progress: deque[list[api_pb2.ServiceProgress]] = deque()
        self.refuse: dict[str, deque[RefusalError]] = {}
        self.hangs: set[str] = set()
        self.seen: list[tuple[str, Any]] = []
        self.stale: set[str] = set()
        self.named: list[tuple[str, str]] = []
        self.explained = explain_pb2.ExplainResponse()
        self.planned = explain_pb2.PlanResponse()
        self.events = [
            explain_pb2.ServiceEvent(
                sequence=7, time_ms=CREATED_AT_MS, kind="placed", service_id=b"\1" * 16, slot=2,
                service_name="web", node_id=NODE_ID, node_name="a", why="found room after 3 ms",
            )
        ]  # fmt: skip
        self.filters = True
        self.ready_message = ""
        self.used: objects_pb2.NodeUsage | None = objects_pb2.NodeUsage(
            cpu_milli=375,
            memory_bytes=48 << 20,
            pids=7,
            disk_bytes=3 << 30,
            measured_at_ms=CREATED_AT_MS,
        )
        self.nodes = 1
        self.manages = False
        self.hold = threading.Event()  # ends watches that have nothing more to say
        self.watching = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8), options=rpc.SERVER_OPTIONS)
        for table in (rpc.MANAGER, rpc.NODE_LOCAL):
            functions = {name: self._handler(method) for name, method in table.items()}
            self._server.add_generic_rpc_handlers((rpc.service(table, functions),))
        self._server.add_insecure_port(f"unix:{path}")
        self.address = ""
        if credentials is not None:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
            self.address = f"127.0.0.1:{port}"
        self._server.start()

    def close(self) -> None:
        self.hold.set()
        self._server.stop(0).wait(10)

    def requests(self, method: str) -> list[Any]:
        return [request for name, request in self.seen if name == method]

    def _handler(self, method: rpc.Method) -> Callable[[Any, grpc.ServicerContext], Any]:
        def prepare(request: Any, context: grpc.ServicerContext) -> None:
            if not method.client_streaming:
                self.seen.append((method.name, request))
            stale = ("warren-stale", "1") in context.invocation_metadata()
            if stale:
                self.stale.add(method.name)
            if "*" in self.hangs or (method.name in self.hangs and not stale):
                self.hold.wait(30)
            metadata = dict(context.invocation_metadata())
            self.named.append((method.name, str(metadata.get("warren-request-id", ""))))
            pending = self.refuse.get(method.name)
            if pending:
                _abort(context, pending.popleft())

        def unary(request: Any, context: grpc.ServicerContext) -> Any:
            prepare(request, context)
            # Looked up late: a test may have put another function in its place.
            answer = getattr(self, method.name, None)
            try:
                return answer(request) if answer else method.response()
            except RefusalError as refusal:
                _abort(context, refusal)

        def streaming(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            prepare(request, context)
            try:
                yield from getattr(self, method.name)(request)
            except RefusalError as refusal:
                _abort(context, refusal)

        return streaming if method.server_streaming else unary

    # -- the manager -----------------------------------------------------------------------------

    def InitCluster(self, _: api_pb2.InitClusterRequest) -> api_pb2.InitClusterResponse:
        return api_pb2.InitClusterResponse(cluster_id=CLUSTER_ID, node_id=NODE_ID)

    def GetCluster(self, _: api_pb2.GetClusterRequest) -> api_pb2.GetClusterResponse:
        return api_pb2.GetClusterResponse(
            cluster=objects_pb2.Cluster(id=CLUSTER_ID, epoch=1, created_at_ms=CREATED_AT_MS),
            node_id=NODE_ID,
            leader_node_id=NODE_ID,
            term=1,
            managers=1,
            workers=1,
            nodes_ready=1,
            capacity=objects_pb2.Resources(cpu_milli=2000, memory_bytes=4 << 30),
        )

    def UpdateCluster(self, request: api_pb2.UpdateClusterRequest) -> api_pb2.UpdateClusterResponse:
        settings = objects_pb2.ClusterSettings(
            lost_nodes_freeze_percent=request.lost_nodes_freeze_percent or 30,
            node_grace_ms=request.node_grace_ms or 30_000,
            overcommit_cpu_percent=request.overcommit_cpu_percent,
            overcommit_pids_percent=request.overcommit_pids_percent,
        )
        return api_pb2.UpdateClusterResponse(settings=settings)

    def GetNode(self, _: api_pb2.GetNodeRequest) -> api_pb2.GetNodeResponse:
        containers = [slot.container for slot in self.slots if slot.HasField("container")]
        node = _node()
        if self.used is not None:
            node.used.CopyFrom(self.used)
        return api_pb2.GetNodeResponse(node=node, containers=containers)

    def UpdateNode(self, request: api_pb2.UpdateNodeRequest) -> api_pb2.UpdateNodeResponse:
        node = objects_pb2.Node(id=NODE_ID, labels=request.labels_add, taints=request.taints_add)
        return api_pb2.UpdateNodeResponse(node=node)

    def Explain(self, request: explain_pb2.ExplainRequest) -> explain_pb2.ExplainResponse:
        self._find(request.ref.partition(".")[0])
        return self.explained

    def ListEvents(self, request: explain_pb2.ListEventsRequest) -> explain_pb2.ListEventsResponse:
        if request.ref and self.filters:
            self._find(request.ref)
        return explain_pb2.ListEventsResponse(events=self.events, filtered=self.filters)

    def Plan(self, _: explain_pb2.PlanRequest) -> explain_pb2.PlanResponse:
        return self.planned

    def ListNodes(self, request: api_pb2.ListNodesRequest) -> api_pb2.ListNodesResponse:
        nodes = [_node(number) for number in range(self.nodes)]
        if request.node_ids:
            nodes = [each for each in nodes if each.node.id in request.node_ids]
            for each in nodes:
                if self.used is not None:
                    each.used.CopyFrom(self.used)
        return api_pb2.ListNodesResponse(nodes=nodes)

    def ListMembers(self, _: api_pb2.ListMembersRequest) -> api_pb2.ListMembersResponse:
        return api_pb2.ListMembersResponse(members=self.members, last_index=LAST_INDEX)

    def AddMember(self, request: api_pb2.AddMemberRequest) -> api_pb2.AddMemberResponse:
        self.members.append(
            member(8, request.node_id, address=request.address, match_index=0, voter=False)
        )
        return api_pb2.AddMemberResponse(
            member_id=8, cluster_id=CLUSTER_ID, epoch=1, api_addresses=["10.0.0.1:2377"]
        )

    def RemoveMember(self, request: api_pb2.RemoveMemberRequest) -> api_pb2.RemoveMemberResponse:
        if request.member_id not in {each.member.id for each in self.members}:
            raise RefusalError("not_found", f"no member `{request.member_id}`")
        self.members = [each for each in self.members if each.member.id != request.member_id]
        return api_pb2.RemoveMemberResponse()

    def TransferLeadership(
        self, request: api_pb2.TransferLeadershipRequest
    ) -> api_pb2.TransferLeadershipResponse:
        for each in self.members:
            each.leader = each.member.id == (request.member_id or self.members[-1].member.id)
        return api_pb2.TransferLeadershipResponse(leader_member_id=0)

    def PromoteNode(self, request: api_pb2.PromoteNodeRequest) -> api_pb2.PromoteNodeResponse:
        self.members.append(member(9, bytes.fromhex(request.ref), match_index=LAST_INDEX))
        return api_pb2.PromoteNodeResponse(member_id=9)

    def DemoteNode(self, request: api_pb2.DemoteNodeRequest) -> api_pb2.DemoteNodeResponse:
        node_id = bytes.fromhex(request.ref)
        self.members = [each for each in self.members if each.member.node_id != node_id]
        return api_pb2.DemoteNodeResponse()

    def CreateService(self, request: api_pb2.CreateServiceRequest) -> api_pb2.CreateServiceResponse:
        if any(each.spec.name == request.spec.name for each in self.services.values()):
            raise RefusalError("name_taken", f"a service named `{request.spec.name}` exists")
        identifier = bytes([len(self.services) + 1] * 16)
        self.services[identifier] = objects_pb2.Service(
            id=identifier, spec=request.spec, version=1, created_at_ms=CREATED_AT_MS
        )
        return api_pb2.CreateServiceResponse(service_id=identifier, version=1)

    def UpdateService(self, request: api_pb2.UpdateServiceRequest) -> api_pb2.UpdateServiceResponse:
        service = self.services[request.service_id]
        if request.expected_version != service.version:
            raise RefusalError("version_conflict", "someone changed it meanwhile")
        service.spec.CopyFrom(request.spec)
        service.version += 1
        return api_pb2.UpdateServiceResponse(version=service.version)

    def RemoveService(self, request: api_pb2.RemoveServiceRequest) -> api_pb2.RemoveServiceResponse:
        self.services.pop(request.service_id)
        return api_pb2.RemoveServiceResponse()

    def ListServices(self, _: api_pb2.ListServicesRequest) -> api_pb2.ListServicesResponse:
        return api_pb2.ListServicesResponse(
            services=[_view(each) for each in self.services.values()]
        )

    def GetService(self, request: api_pb2.GetServiceRequest) -> api_pb2.GetServiceResponse:
        return api_pb2.GetServiceResponse(service=_view(self._find(request.ref)))

    def ListSlots(self, request: api_pb2.ListSlotsRequest) -> api_pb2.ListSlotsResponse:
        view = _view(self._find(request.ref))
        return api_pb2.ListSlotsResponse(service=view, slots=self.slots)

    def WatchService(
        self, request: api_pb2.WatchServiceRequest
    ) -> Iterator[api_pb2.ServiceProgress]:
        if not self.progress:
            self.progress.append([self._settled(request.service_id)])
        for message in self.progress.popleft():
            message.service_id = request.service_id
            yield message
        self.watching.set()
        self.hold.wait(30)

    def _settled(self, service_id: bytes) -> api_pb2.ServiceProgress:
        service = self.services.get(service_id)
        if service is None:
            return api_pb2.ServiceProgress(gone=True)
        count = service.spec.replicas
        return api_pb2.ServiceProgress(version=service.version, desired=count, running=count)

    def ListContainers(self, _: api_pb2.ListContainersRequest) -> api_pb2.ListContainersResponse:
        views = [api_pb2.ContainerView(container=s.container, node_name="a") for s in self.slots]
        return api_pb2.ListContainersResponse(containers=views)

    def GetContainer(self, _: api_pb2.GetContainerRequest) -> api_pb2.GetContainerResponse:
        view = api_pb2.ContainerView(container=self.slots[0].container, node_name="a")
        view.spec.image = "docker.io/library/tiny:1"
        return api_pb2.GetContainerResponse(container=view)

    def BackupCluster(
        self, _: api_pb2.BackupClusterRequest
    ) -> Iterator[api_pb2.BackupClusterChunk]:
        total_bytes = self.backup_total or len(self.backup)
        for start in range(0, len(self.backup), 100):
            data = self.backup[start : start + 100]
            yield api_pb2.BackupClusterChunk(data=data, total_bytes=total_bytes)
            total_bytes = 0

    def _find(self, ref: str) -> objects_pb2.Service:
        for service in self.services.values():
            if ref in (service.spec.name, service.id.hex()):
                return service
        raise RefusalError(
            "not_found", f"no service `{ref}`; `warrenctl service ls` shows what there is"
        )

    # -- the node service ------------------------------------------------------------------------

    def GetDaemon(self, _: node_pb2.GetDaemonRequest) -> node_pb2.GetDaemonResponse:
        return node_pb2.GetDaemonResponse(
            version="0.1.0",
            node_id=NODE_ID,
            node_name="a",
            in_cluster=True,
            ready_message=self.ready_message,
            manages=self.manages,
        )

    def JoinCluster(self, request: node_pb2.JoinClusterRequest) -> node_pb2.JoinClusterResponse:
        if request.manager:
            self.members.append(member(9, NODE_ID, match_index=LAST_INDEX))
        return node_pb2.JoinClusterResponse(
            cluster_id=CLUSTER_ID, node_id=NODE_ID, member_id=9 if request.manager else 0
        )

    def RestoreCluster(
        self, requests: Iterator[node_pb2.RestoreClusterRequest]
    ) -> Iterator[node_pb2.RestoreClusterResponse]:
        uploaded = list(requests)
        self.seen.append(("RestoreCluster", uploaded))
        yield node_pb2.RestoreClusterResponse(
            cluster_id=CLUSTER_ID,
            epoch=max(2, uploaded[0].epoch_min),
            member_id=7,
            index=41,
            term=2,
            backup=snapshot_pb2.BackupHeader(cluster_id=CLUSTER_ID, epoch=1, index=40, services=3),
        )

    def RecoverQuorum(
        self, request: node_pb2.RecoverQuorumRequest
    ) -> node_pb2.RecoverQuorumResponse:
        return node_pb2.RecoverQuorumResponse(
            cluster_id=CLUSTER_ID,
            epoch=1 if request.dry_run else 2,
            member_id=7,
            last_index=LAST_INDEX,
            last_term=3,
            commit_index=39,
            removed=[member(8, OTHER_NODE_ID).member],
        )

    def LoadImage(
        self, requests: Iterator[node_pb2.LoadImageRequest]
    ) -> Iterator[node_pb2.LoadImageProgress]:
        for request in requests:
            self.seen.append(("LoadImage", (len(request.data), request.reference)))
            self.loaded += request.data
            yield node_pb2.LoadImageProgress(received_bytes=len(self.loaded), step="receiving")
        if self.loaded.startswith(b"broken"):
            raise RefusalError("archive_invalid", "this is no archive; make one with docker save")
        yield node_pb2.LoadImageProgress(
            received_bytes=len(self.loaded), step="done", images=self.images
        )

    def ListImages(self, _: node_pb2.ListImagesRequest) -> node_pb2.ListImagesResponse:
        return node_pb2.ListImagesResponse(images=self.images)

    def RemoveImage(self, request: node_pb2.RemoveImageRequest) -> node_pb2.RemoveImageResponse:
        return node_pb2.RemoveImageResponse(reference=f"docker.io/library/{request.reference}")

    def Logs(self, request: node_pb2.LogsRequest) -> Iterator[node_pb2.LogsChunk]:
        wanted = set(request.container_ids)
        for line in self.log_lines:
            if line.container_id in wanted:
                yield node_pb2.LogsChunk(lines=[line])
        if request.follow:
            self.watching.set()
            self.hold.wait(30)


def _abort(context: grpc.ServicerContext, refusal: RefusalError) -> None:
    if refusal.bare is not None:
        context.abort(refusal.bare, refusal.message)
    encoded = api_pb2.Error(code=refusal.code, message=refusal.message).SerializeToString()
    context.set_trailing_metadata(((rpc.ERROR_METADATA_KEY, encoded),))
    context.abort(rpc.status_of(refusal.code), refusal.message)


def _view(service: objects_pb2.Service) -> api_pb2.ServiceView:
    count = service.spec.replicas
    return api_pb2.ServiceView(service=service, desired=count, running=count)


def _node(number: int = 0) -> api_pb2.NodeView:
    node = objects_pb2.Node(
        id=NODE_ID if number == 0 else number.to_bytes(16),
        manager=True,
        worker=True,
        status=objects_pb2.NODE_STATUS_READY,
        availability=objects_pb2.AVAILABILITY_ACTIVE,
        joined_at_ms=CREATED_AT_MS,
    )
    node.description.name = "a" if number == 0 else f"n{number}"
    node.description.capacity.cpu_milli = 2000
    node.description.capacity.memory_bytes = 4 << 30
    node.description.reserved.cpu_milli = 500
    node.description.labels.update({"disk": "ssd", "zone": "us"})
    node.description.devices.add(kind="gpu", model="A100", count=2)
    node.description.volumes.add(name="data", read_only=True)
    node.labels["zone"] = "eu"
    node.taints.add(key="gpu", effect=objects_pb2.TAINT_EFFECT_NO_SCHEDULE)
    return api_pb2.NodeView(
        node=node,
        allocated=objects_pb2.Resources(cpu_milli=500, memory_bytes=64 << 20),
        allocatable=objects_pb2.Resources(cpu_milli=3000, memory_bytes=4 << 30),
        attributes={"node.arch": "amd64"},
        containers=2,
        containers_running=1,
        leader=True,
    )


def member(
    number: int,
    node_id: bytes,
    *,
    address: str = "10.0.0.1:2378",
    voter: bool = True,
    **fields: Any,
) -> api_pb2.MemberView:
    """A member of consensus that is to vote."""
    return api_pb2.MemberView(
        member=objects_pb2.Member(
            id=number,
            node_id=node_id,
            address=address,
            voter=True,
            added_at_ms=CREATED_AT_MS,
        ),
        voter=voter,
        recent_active=True,
        release="0.1.0",
        **fields,
    )


def slot(
    number: int,
    state: objects_pb2.ContainerState,
    *,
    node_id: bytes = NODE_ID,
    **status: Any,
) -> api_pb2.Slot:
    """A slot of service `web` with a container whose id is its number sixteen times."""
    container = objects_pb2.Container(
        id=bytes([number] * 16),
        service_id=bytes([1] * 16),
        service_name="web",
        slot=number,
        service_version=1,
        node_id=node_id,
        desired=objects_pb2.DESIRED_STATE_RUN,
        created_at_ms=CREATED_AT_MS,
    )
    fields = {"attempt": 1, "state": state, **status}
    container.status.CopyFrom(objects_pb2.ContainerStatus(**fields))
    return api_pb2.Slot(slot=number, container=container, node_name="a")

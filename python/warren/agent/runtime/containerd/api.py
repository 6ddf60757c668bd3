"""containerd's calls, typed, with how long each may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf import empty_pb2
from google.protobuf.message import Message

from warren.pb.containerd import (
    containers_pb2,
    content_pb2,
    diff_pb2,
    events_pb2,
    images_pb2,
    leases_pb2,
    namespaces_pb2,
    snapshots_pb2,
    tasks_pb2,
    version_pb2,
)

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, R]):
    """One method. ``timeout_s`` bounds a unary call, and a stream as a whole unless it is None."""

    service: str
    method: str
    request: type[Q]
    response: type[R]
    timeout_s: float | None = 10.0

    @property
    def path(self) -> str:
        """The path of the HTTP/2 request."""
        return f"/containerd.services.{self.service}/{self.method}"


# Runs runc, which waits its turn on a busy host.
_RUNC_TIMEOUT_S: Final = 60.0
# Unpacks a layer, or collects the garbage of one.
_LAYER_TIMEOUT_S: Final = 600.0

_CONTAINERS = "containers.v1.Containers"
CONTAINER_GET = Call(
    _CONTAINERS,
    "Get",
    containers_pb2.GetContainerRequest,
    containers_pb2.GetContainerResponse,
)
CONTAINER_LIST = Call(
    _CONTAINERS,
    "ListStream",
    containers_pb2.ListContainersRequest,
    containers_pb2.ListContainerMessage,
)
CONTAINER_CREATE = Call(
    _CONTAINERS,
    "Create",
    containers_pb2.CreateContainerRequest,
    containers_pb2.CreateContainerResponse,
)
CONTAINER_DELETE = Call(
    _CONTAINERS, "Delete", containers_pb2.DeleteContainerRequest, empty_pb2.Empty
)

_TASKS = "tasks.v1.Tasks"
TASK_CREATE = Call(
    _TASKS,
    "Create",
    tasks_pb2.CreateTaskRequest,
    tasks_pb2.CreateTaskResponse,
    _RUNC_TIMEOUT_S,
)
TASK_START = Call(_TASKS, "Start", tasks_pb2.StartRequest, tasks_pb2.StartResponse, _RUNC_TIMEOUT_S)
TASK_DELETE = Call(
    _TASKS, "Delete", tasks_pb2.DeleteTaskRequest, tasks_pb2.DeleteResponse, _RUNC_TIMEOUT_S
)
TASK_GET = Call(_TASKS, "Get", tasks_pb2.GetRequest, tasks_pb2.GetResponse)
TASK_LIST = Call(_TASKS, "List", tasks_pb2.ListTasksRequest, tasks_pb2.ListTasksResponse)
TASK_KILL = Call(_TASKS, "Kill", tasks_pb2.KillRequest, empty_pb2.Empty)
TASK_WAIT = Call(_TASKS, "Wait", tasks_pb2.WaitRequest, tasks_pb2.WaitResponse)

_SNAPSHOTS = "snapshots.v1.Snapshots"
SNAPSHOT_PREPARE = Call(
    _SNAPSHOTS,
    "Prepare",
    snapshots_pb2.PrepareSnapshotRequest,
    snapshots_pb2.PrepareSnapshotResponse,
)
SNAPSHOT_COMMIT = Call(
    _SNAPSHOTS, "Commit", snapshots_pb2.CommitSnapshotRequest, empty_pb2.Empty, _LAYER_TIMEOUT_S
)
SNAPSHOT_REMOVE = Call(
    _SNAPSHOTS, "Remove", snapshots_pb2.RemoveSnapshotRequest, empty_pb2.Empty, _RUNC_TIMEOUT_S
)
SNAPSHOT_STAT = Call(
    _SNAPSHOTS, "Stat", snapshots_pb2.StatSnapshotRequest, snapshots_pb2.StatSnapshotResponse
)
SNAPSHOT_LIST = Call(
    _SNAPSHOTS, "List", snapshots_pb2.ListSnapshotsRequest, snapshots_pb2.ListSnapshotsResponse
)

DIFF_APPLY = Call(
    "diff.v1.Diff", "Apply", diff_pb2.ApplyRequest, diff_pb2.ApplyResponse, _LAYER_TIMEOUT_S
)

_CONTENT = "content.v1.Content"
CONTENT_INFO = Call(_CONTENT, "Info", content_pb2.InfoRequest, content_pb2.InfoResponse)
CONTENT_UPDATE = Call(_CONTENT, "Update", content_pb2.UpdateRequest, content_pb2.UpdateResponse)
CONTENT_LIST = Call(
    _CONTENT, "List", content_pb2.ListContentRequest, content_pb2.ListContentResponse
)
CONTENT_DELETE = Call(_CONTENT, "Delete", content_pb2.DeleteContentRequest, empty_pb2.Empty)
CONTENT_READ = Call(
    _CONTENT, "Read", content_pb2.ReadContentRequest, content_pb2.ReadContentResponse
)
CONTENT_WRITE = Call(
    _CONTENT,
    "Write",
    content_pb2.WriteContentRequest,
    content_pb2.WriteContentResponse,
    _LAYER_TIMEOUT_S,
)
CONTENT_LIST_STATUSES = Call(
    _CONTENT,
    "ListStatuses",
    content_pb2.ListStatusesRequest,
    content_pb2.ListStatusesResponse,
)
CONTENT_ABORT = Call(_CONTENT, "Abort", content_pb2.AbortRequest, empty_pb2.Empty)

_IMAGES = "images.v1.Images"
IMAGE_GET = Call(_IMAGES, "Get", images_pb2.GetImageRequest, images_pb2.GetImageResponse)
IMAGE_LIST = Call(_IMAGES, "List", images_pb2.ListImagesRequest, images_pb2.ListImagesResponse)
IMAGE_CREATE = Call(
    _IMAGES, "Create", images_pb2.CreateImageRequest, images_pb2.CreateImageResponse
)
IMAGE_UPDATE = Call(
    _IMAGES, "Update", images_pb2.UpdateImageRequest, images_pb2.UpdateImageResponse
)
IMAGE_DELETE = Call(
    _IMAGES, "Delete", images_pb2.DeleteImageRequest, empty_pb2.Empty, _LAYER_TIMEOUT_S
)

_LEASES = "leases.v1.Leases"
LEASE_CREATE = Call(_LEASES, "Create", leases_pb2.CreateRequest, leases_pb2.CreateResponse)
LEASE_DELETE = Call(_LEASES, "Delete", leases_pb2.DeleteRequest, empty_pb2.Empty, _LAYER_TIMEOUT_S)
LEASE_LIST = Call(_LEASES, "List", leases_pb2.ListRequest, leases_pb2.ListResponse)

_EVENTS = "events.v1.Events"
EVENT_PUBLISH = Call(_EVENTS, "Publish", events_pb2.PublishRequest, empty_pb2.Empty)
EVENT_SUBSCRIBE = Call(_EVENTS, "Subscribe", events_pb2.SubscribeRequest, events_pb2.Envelope, None)

VERSION = Call("version.v1.Version", "Version", empty_pb2.Empty, version_pb2.VersionResponse, 5.0)

_NAMESPACES = "namespaces.v1.Namespaces"
NAMESPACE_LIST = Call(
    _NAMESPACES,
    "List",
    namespaces_pb2.ListNamespacesRequest,
    namespaces_pb2.ListNamespacesResponse,
)
NAMESPACE_DELETE = Call(
    _NAMESPACES, "Delete", namespaces_pb2.DeleteNamespaceRequest, empty_pb2.Empty
)

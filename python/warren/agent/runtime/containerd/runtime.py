"""`Runtime` over containerd.

One attempt is a snapshot, a container record and a task, made in that order and removed in the
reverse; all three are named by the container's id. A daemon can be killed between
any two steps, and `list` tells how far it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import urllib.parse
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from google.protobuf import any_pb2, empty_pb2

import warren
from warren.agent.runtime.base import (
    ContainerRequest,
    Exited,
    Observed,
    Oom,
    Phase,
    RuntimeEvent,
    RuntimeRefused,
    RuntimeUnavailable,
    Usage,
)
from warren.agent.runtime.containerd import (
    api,
    cgroups,
    labels,
    refusals,
    rootfs,
    usage,
    users,
)
from warren.agent.runtime.containerd.client import AlreadyExists, CallFailed, Client, NotFound
from warren.agent.runtime.containerd.devices import device_node
from warren.agent.runtime.containerd.events import EventQueue, Subscription
from warren.agent.runtime.containerd.images import Images, Resolved, missing
from warren.agent.runtime.containerd.importer import SNAPSHOTTER
from warren.agent.runtime.containerd.observed import milliseconds, observed
from warren.agent.runtime.containerd.paths import HostPaths
from warren.agent.runtime.containerd.spec import CGROUP_PARENT, Host, build
from warren.errors import WarrenError
from warren.pb.containerd import (
    containers_pb2,
    events_pb2,
    snapshots_pb2,
    task_events_pb2,
    task_pb2,
    tasks_pb2,
    types_pb2,
)

_RUNC: Final = "io.containerd.runc.v2"
_SPEC_TYPE: Final = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_NAME_FILES: Final = ("/etc/hosts", "/etc/resolv.conf")

# After SIGKILL only the kernel is left to wait for.
_KILLED_TIMEOUT_S: Final = 30.0

# The kernel answers within milliseconds, unless a lock is held for long.
_USAGE_TIMEOUT_S: Final = 5.0

# A container's snapshot lives as long as we say, not as long as something refers to it.
_ROOTED: Final[dict[str, str]] = {labels.GC_ROOT: "2020-01-01T00:00:00Z"}

_Mounts = Sequence[types_pb2.Mount]

log = logging.getLogger("warren.runtime")


def warren_log_path() -> Path:
    """The container logger: the wheel's own, or the one that WARREN_LOG_BINARY names."""
    override = os.environ.get("WARREN_LOG_BINARY")
    return Path(override) if override else Path(warren.__file__).parent / "bin" / "warren-log"


def host_facts() -> Host:
    """What the runtime spec needs to know of this host."""
    return Host(
        cgroup_v2=cgroups.is_v2(),
        swap_limit=cgroups.limits_swap(),
        name_files=tuple(file for file in _NAME_FILES if os.path.isfile(file)),
    )


class ContainerdRuntime:
    """Runs containers with containerd at ``address``, in its namespace ``namespace``.

    ``node_id``: hex; what carries another node's id is never touched. ``spool_dir``: where
    image archives arrive. ``log_max_bytes``, ``log_max_files``: rotation of the containers' logs.
    """

    def __init__(
        self,
        *,
        address: str,
        namespace: str,
        node_id: str,
        spool_dir: Path,
        log_max_bytes: int = 10 * 1024 * 1024,
        log_max_files: int = 3,
    ) -> None:
        self.client = Client(address, namespace)
        self.images = Images(self.client, node_id, spool_dir)
        self._node_id = node_id
        self._log_options = {"max_bytes": str(log_max_bytes), "max_files": str(log_max_files)}
        self._host = host_facts()
        self._logger = warren_log_path()
        self._paths = HostPaths()
        self._subscription = Subscription(self.client, self._translate, self._came_back)
        self._following: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._measuring: asyncio.Future[dict[str, Usage]] | None = None
        # Of tasks that exist now, by container id. An exit of another pid is an old attempt's.
        self._pids: dict[str, int] = {}
        self._oom: set[str] = set()

    @property
    def event_queue(self) -> EventQueue:
        """For the metrics of its depth and of what it dropped."""
        return self._subscription.queue

    async def open(self) -> None:
        """Starts to follow containerd's events, now or as soon as it is there."""
        if self._following is None:
            self._following = asyncio.create_task(self._subscription.run())

    async def close(self) -> None:
        """Ends the connection; containers go on running. Idempotent."""
        for task in (self._following, self._sweeping):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._following = self._sweeping = None
        self._paths.close()
        await self.client.close()

    async def version(self) -> str:
        """containerd's version, without a leading ``v``."""
        return (await self.client.unary(api.VERSION, empty_pb2.Empty())).version.removeprefix("v")

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """See `Runtime.events`."""
        return self._subscription.events()

    async def list(self) -> list[Observed]:
        """See `Runtime.list`."""
        with _refusing():
            snapshots, containers, processes = await asyncio.gather(
                self._snapshots(), self._containers(), self._processes()
            )
        found = []
        for container_id in sorted(snapshots.keys() | containers.keys()):
            process = processes.get(container_id)
            if process is not None:
                self._pids[container_id] = process.pid
            found.append(
                observed(
                    container_id,
                    snapshots.get(container_id),
                    containers.get(container_id),
                    process,
                    oom_killed=self._was_oom_killed(container_id),
                )
            )
        return found

    async def usage(self) -> dict[str, Usage]:
        """See `Runtime.usage`. A thread that the kernel holds up is waited for by all."""
        if self._measuring is None or self._measuring.done():
            reading = asyncio.to_thread(usage.read_all, CGROUP_PARENT, list(self._pids))
            self._measuring = asyncio.ensure_future(reading)
        try:
            async with asyncio.timeout(_USAGE_TIMEOUT_S):
                return await asyncio.shield(self._measuring)
        except TimeoutError:
            raise RuntimeUnavailable(
                "the kernel does not say in time what containers use; see dmesg"
            ) from None
        except (OSError, ValueError) as error:
            raise RuntimeUnavailable(f"the containers' cgroups cannot be read: {error}") from error

    async def create(self, request: ContainerRequest) -> int:
        """See `Runtime.create`. A snapshot, a container record, a task, in this order."""
        await self._paths.check(request.spec.mounts)
        await asyncio.to_thread(_check_logger, self._logger)
        image = await self.images.resolve(request.spec)
        try:
            mounts = await self._prepare(request, image)
        except AlreadyExists:
            return (await self._same(request)).pid
        try:
            await self._create_record(request, image, mounts)
            return await self._create_task(request, mounts)
        except CallFailed as error:
            await self._undo(request.id)
            raise refusals.refused(error.details) from error
        except RuntimeRefused:
            await self._undo(request.id)
            raise

    async def start(self, container_id: str, /) -> int:
        """See `Runtime.start`."""
        try:
            request = tasks_pb2.StartRequest(container_id=container_id)
            return (await self.client.unary(api.TASK_START, request)).pid
        except CallFailed as error:
            process = await self._process(container_id)
            if process is None:
                raise RuntimeRefused(
                    f"the container {container_id} is not created on this node", permanent=False
                ) from error
            if process.status == task_pb2.RUNNING:
                return process.pid
            raise refusals.refused(error.details) from error

    async def stop(self, container_id: str, timeout_ms: int, /) -> None:
        """See `Runtime.stop`."""
        with _refusing():
            process = await self._process(container_id)
            if process is not None and process.status == task_pb2.RUNNING:
                await self._kill(container_id, signal.SIGTERM)
                if await self._ended(container_id, timeout_ms / 1000):
                    return
            await self._kill_for_good(container_id, process)

    async def delete(self, container_id: str, /) -> None:
        """See `Runtime.delete`. In the reverse order of `create`, so that it can be resumed."""
        with _refusing():
            await self._kill_for_good(container_id, await self._process(container_id))
            with contextlib.suppress(NotFound):
                task = tasks_pb2.DeleteTaskRequest(container_id=container_id)
                await self.client.unary(api.TASK_DELETE, task)
            with contextlib.suppress(NotFound):
                record = containers_pb2.DeleteContainerRequest(id=container_id)
                await self.client.unary(api.CONTAINER_DELETE, record)
            with contextlib.suppress(NotFound):
                snapshot = snapshots_pb2.RemoveSnapshotRequest(
                    snapshotter=SNAPSHOTTER, key=container_id
                )
                await self.client.unary(api.SNAPSHOT_REMOVE, snapshot)
        stayed = await asyncio.to_thread(cgroups.remove, f"{CGROUP_PARENT}/{container_id}")
        if stayed:
            raise RuntimeRefused(
                f"the cgroup {stayed[0]} cannot be removed; see which processes are in it",
                permanent=False,
            )
        self._pids.pop(container_id, None)
        self._oom.discard(container_id)

    # Steps of create.

    async def _prepare(self, request: ContainerRequest, image: Resolved) -> _Mounts:
        prepare = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=SNAPSHOTTER,
            key=request.id,
            parent=image.chain_id,
            labels=labels.of(request, self._node_id) | _ROOTED,
        )
        try:
            return (await self.client.unary(api.SNAPSHOT_PREPARE, prepare)).mounts
        except NotFound:
            # The image is not unpacked: loaded, or collected, by another tool.
            return await self._unpack_and_prepare(request, image, prepare)
        except AlreadyExists:
            raise
        except CallFailed as error:
            raise refusals.refused(error.details) from error

    async def _unpack_and_prepare(
        self,
        request: ContainerRequest,
        image: Resolved,
        prepare: snapshots_pb2.PrepareSnapshotRequest,
    ) -> _Mounts:
        try:
            await self.images.unpack(image)
            return (await self.client.unary(api.SNAPSHOT_PREPARE, prepare)).mounts
        except AlreadyExists:
            raise
        except (CallFailed, WarrenError) as error:
            raise missing(request.spec.image) from error

    async def _create_record(
        self, request: ContainerRequest, image: Resolved, mounts: _Mounts
    ) -> None:
        identity = users.without_files(request.spec.user or image.config.user)
        if identity is None:
            user = request.spec.user or image.config.user
            identity = await asyncio.to_thread(_identity, user, mounts)
        devices = [device_node(path) for path in request.device_paths]
        document = build(request, image.config, identity, self._host, devices)
        container = containers_pb2.Container(
            id=request.id,
            labels=labels.of(request, self._node_id) | {labels.LABEL_IMAGE: image.digest},
            image=request.spec.image,
            runtime=containers_pb2.Container.Runtime(name=_RUNC),
            spec=any_pb2.Any(type_url=_SPEC_TYPE, value=msgspec.json.encode(document)),
            snapshotter=SNAPSHOTTER,
            snapshot_key=request.id,
        )
        create = containers_pb2.CreateContainerRequest(container=container)
        await self.client.unary(api.CONTAINER_CREATE, create)

    async def _create_task(self, request: ContainerRequest, mounts: _Mounts) -> int:
        query = {"dir": str(request.log_dir), **self._log_options}
        encoded = urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        logger = f"binary://{urllib.parse.quote(str(self._logger))}?{encoded}"
        create = tasks_pb2.CreateTaskRequest(
            container_id=request.id, rootfs=mounts, stdout=logger, stderr=logger
        )
        made = await self.client.unary(api.TASK_CREATE, create)
        self._pids[request.id] = made.pid
        self._oom.discard(request.id)
        return made.pid

    async def _same(self, request: ContainerRequest) -> Observed:
        """What is there, if it is this very attempt, whole; else it is refused."""
        there = {found.id: found for found in await self.list()}.get(request.id)
        if there is None or there.attempt != request.attempt or there.phase is Phase.REMNANT:
            raise RuntimeRefused(
                f"the container {request.id} has a remnant on this node, or another attempt; "
                "delete it first",
                permanent=False,
            )
        return there

    async def _undo(self, container_id: str) -> None:
        try:
            await self.delete(container_id)
        except (RuntimeRefused, RuntimeUnavailable) as error:
            # `list` shows it as a remnant, and it is deleted then.
            log.warning(
                "the container %s could not be made, and not removed either: %s",
                container_id,
                error,
            )

    # Tasks.

    async def _process(self, container_id: str) -> task_pb2.Process | None:
        try:
            request = tasks_pb2.GetRequest(container_id=container_id)
            return (await self.client.unary(api.TASK_GET, request)).process
        except NotFound:
            return None

    async def _kill(self, container_id: str, number: signal.Signals) -> None:
        request = tasks_pb2.KillRequest(container_id=container_id, signal=number)
        # NotFound is also what containerd says of a process that has just ended.
        with contextlib.suppress(NotFound):
            await self.client.unary(api.TASK_KILL, request)

    async def _kill_for_good(self, container_id: str, process: task_pb2.Process | None) -> None:
        if process is None or process.status == task_pb2.STOPPED:
            return
        await self._kill(container_id, signal.SIGKILL)
        if not await self._ended(container_id, _KILLED_TIMEOUT_S):
            raise RuntimeUnavailable(
                f"the container {container_id} does not end although it was killed; "
                "a process of it is stuck in the kernel, often on a disk that does not answer"
            )

    async def _ended(self, container_id: str, timeout_s: float) -> bool:
        """Whether the process ends within the time, or has."""
        request = tasks_pb2.WaitRequest(container_id=container_id)
        try:
            async with asyncio.timeout(timeout_s):
                # A little longer than ours: what containerd's own deadline means is ambiguous.
                await self.client.unary(api.TASK_WAIT, request, timeout_s=timeout_s + 5)
        except TimeoutError:
            return False
        except NotFound:
            return True
        return True

    # Events and lists.

    def _translate(self, envelope: events_pb2.Envelope) -> RuntimeEvent | None:
        # The type URL has no slash, so that Any.Unpack would do nothing, in silence.
        if envelope.event.type_url == "containerd.events.TaskOOM":
            oom = task_events_pb2.TaskOOM.FromString(envelope.event.value)
            self._oom.add(oom.container_id)
            return Oom(oom.container_id)
        if envelope.event.type_url != "containerd.events.TaskExit":
            return None
        end = task_events_pb2.TaskExit.FromString(envelope.event.value)
        container_id = end.container_id
        if end.id != container_id or self._pids.get(container_id, end.pid) != end.pid:
            return None
        return Exited(
            container_id,
            end.exit_status,
            milliseconds(end.exited_at),
            self._was_oom_killed(container_id),
            end.pid,
        )

    def _was_oom_killed(self, container_id: str) -> bool:
        return container_id in self._oom or cgroups.oom_killed(f"{CGROUP_PARENT}/{container_id}")

    def _came_back(self) -> None:
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        try:
            await self.images.sweep()
        except (CallFailed, RuntimeUnavailable) as error:
            log.warning("what cut-short image loads left stays for now: %s", error)

    async def _snapshots(self) -> dict[str, Mapping[str, str]]:
        request = snapshots_pb2.ListSnapshotsRequest(
            snapshotter=SNAPSHOTTER, filters=[labels.mine(self._node_id)]
        )
        answers = self.client.stream(api.SNAPSHOT_LIST, request)
        return {info.name: info.labels async for answer in answers for info in answer.info}

    async def _containers(self) -> dict[str, containers_pb2.Container]:
        request = containers_pb2.ListContainersRequest(filters=[labels.mine(self._node_id)])
        answers = self.client.stream(api.CONTAINER_LIST, request)
        return {answer.container.id: answer.container async for answer in answers}

    async def _processes(self) -> dict[str, task_pb2.Process]:
        answer = await self.client.unary(api.TASK_LIST, tasks_pb2.ListTasksRequest())
        return {process.id: process for process in answer.tasks}


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except CallFailed as error:
        raise RuntimeRefused(
            f"containerd refused it: {error.details}; its log has more", permanent=False
        ) from error


def _check_logger(logger: Path) -> None:
    if not os.access(logger, os.X_OK):
        raise RuntimeRefused(
            f"the container logger {logger} is missing or not executable; install Warren anew",
            permanent=True,
        )


def _identity(user: str, mounts: _Mounts) -> users.Identity:
    directories = rootfs.layers(mounts)
    if not directories:
        raise RuntimeRefused(
            f'the user "{user}" is a name, which this snapshotter does not allow to look up; '
            "give a number",
            permanent=True,
        )
    texts = [
        rootfs.read(directories, path).decode(errors="replace")
        for path in ("etc/passwd", "etc/group")
    ]
    return users.resolve(user, texts[0], texts[1])

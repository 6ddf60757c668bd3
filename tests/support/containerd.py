"""A private containerd for tests, and the check that nothing of ours is left in it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf import empty_pb2
from google.protobuf.message import Message

from tests.support import oci
from tests.support.node import eventually
from warren.agent.runtime.containerd import api
from warren.pb.containerd import (
    containers_pb2,
    content_pb2,
    images_pb2,
    leases_pb2,
    namespaces_pb2,
    snapshots_pb2,
    tasks_pb2,
)

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

CGROUPS = Path("/sys/fs/cgroup")
CONFIG = """
version = 2
root = "{root}/root"
state = "{root}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "{root}/c.sock"
[plugins."io.containerd.gc.v1.scheduler"]
schedule_delay = "0ms"
startup_delay = "0ms"
"""


class Containerd:
    """containerd with its own root, state and socket; ended by process id, with what it ran."""

    def __init__(self, root: Path | None = None) -> None:
        # A Unix socket's path has at most 107 bytes.
        self.root = root or Path(tempfile.mkdtemp(prefix="wcd"))
        self.address = str(self.root / "c.sock")
        self._config = self.root / "config.toml"
        self._config.write_text(CONFIG.format(root=self.root))
        self._process: subprocess.Popen[bytes] | None = None
        self._namespaces: list[str] = []
        self._cgroups_before: dict[str, set[Path]] = {}

    def start(self) -> None:
        """Starts it and waits until it answers."""
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ["containerd", "--config", str(self._config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._answers, "containerd answers", 20)

    def stop(self) -> None:
        """kill -9: containers and their shims go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    @property
    def pid(self) -> int:
        """Of the running daemon."""
        assert self._process is not None
        return self._process.pid

    def new_namespace(self, name: str = "") -> str:
        """A name that nothing on this machine has used: shims share /run/containerd."""
        name = name or f"test-{secrets.token_hex(4)}"
        self._namespaces.append(name)
        self._cgroups_before[name] = cgroups()
        return name

    def assert_nothing_left(self, namespace: str, timeout_s: float = 10) -> None:
        """No task, container, snapshot, lease, write, shim, logger, mount or cgroup of ours."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                left = list(self._left(namespace))
            except FileNotFoundError as gone:  # it went while it was looked at: look again
                left = [str(gone)]
            if not left:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind in {namespace}: " + "; ".join(left))
            time.sleep(0.05)

    def _left(self, namespace: str) -> Iterator[str]:
        records = containers_pb2.ListContainersRequest()
        for message in stream(self.address, namespace, api.CONTAINER_LIST, records):
            yield f"container {message.container.id}"
        for task in runtime_tasks(self.address, namespace):
            yield f"task {task}"
        ours = snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs")
        for answer in stream(self.address, namespace, api.SNAPSHOT_LIST, ours):
            for info in answer.info:
                if "warren.node" in info.labels or info.name.startswith("warren-"):
                    yield f"snapshot {info.name}"
        for lease in call(self.address, namespace, api.LEASE_LIST, leases_pb2.ListRequest()).leases:
            yield f"lease {lease.id}"
        writes = content_pb2.ListStatusesRequest()
        for status in call(self.address, namespace, api.CONTENT_LIST_STATUSES, writes).statuses:
            yield f"write {status.ref}"
        yield from outside(namespace)
        # A cgroup does not tell its namespace: what was there before belongs to another test.
        for cgroup in cgroups() - self._cgroups_before.get(namespace, set()):
            if empty(cgroup):
                yield f"cgroup {cgroup}"

    def images(self, namespace: str) -> list[str]:
        """The names of the images in a namespace."""
        answer = call(self.address, namespace, api.IMAGE_LIST, images_pb2.ListImagesRequest())
        return sorted(image.name for image in answer.images)

    def content(self, namespace: str) -> set[str]:
        """The digests of all content in a namespace."""
        request = content_pb2.ListContentRequest()
        answers = stream(self.address, namespace, api.CONTENT_LIST, request)
        return {info.digest for answer in answers for info in answer.info}

    def snapshots(self, namespace: str) -> set[str]:
        """The names of all snapshots in a namespace."""
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter="overlayfs")
        answers = stream(self.address, namespace, api.SNAPSHOT_LIST, request)
        return {info.name for answer in answers for info in answer.info}

    def remove(self) -> None:
        """Ends everything that it runs, itself, and its files."""
        if self._process is None:
            self.start()
        for namespace in self._namespaces:
            end_tasks(self.address, namespace)
        self.stop()
        for pid, words, _ in processes():
            if os.path.basename(words[0]).startswith("containerd-shim") and self.address in words:
                os.kill(pid, signal.SIGKILL)
        for line in Path("/proc/self/mounts").read_text().splitlines():
            target = line.split()[1]
            if target.startswith(f"{self.root}/"):
                subprocess.run(["umount", "-l", target], check=False)
        for namespace in self._namespaces:
            shutil.rmtree(f"/run/containerd/runc/{namespace}", ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def _answers(self) -> bool:
        call(self.address, "default", api.VERSION, empty_pb2.Empty())
        return True


def call(address: str, namespace: str, method: api.Call[Q, R], request: Q) -> R:
    """One call, with a connection of its own."""
    with grpc.insecure_channel(f"unix://{address}") as channel:
        made = channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        answer: R = made(request, timeout=30, metadata=(("containerd-namespace", namespace),))
        return answer


def stream(address: str, namespace: str, method: api.Call[Q, R], request: Q) -> list[R]:
    """All answers of a streaming call."""
    with grpc.insecure_channel(f"unix://{address}") as channel:
        made = channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        return list(made(request, timeout=30, metadata=(("containerd-namespace", namespace),)))


def runtime_tasks(address: str, namespace: str) -> dict[str, int]:
    """The pid of each task in a namespace, by container id; of tasks that run."""
    answer = call(address, namespace, api.TASK_LIST, tasks_pb2.ListTasksRequest())
    return {process.id: process.pid for process in answer.tasks}


def end_tasks(address: str, namespace: str) -> None:
    """Kills and removes every task and container of a namespace, whatever state it is in."""
    for container_id in runtime_tasks(address, namespace):
        kill = tasks_pb2.KillRequest(container_id=container_id, signal=signal.SIGKILL)
        task = tasks_pb2.DeleteTaskRequest(container_id=container_id)
        quietly(address, namespace, api.TASK_KILL, kill)
        wait = tasks_pb2.WaitRequest(container_id=container_id)
        quietly(address, namespace, api.TASK_WAIT, wait)
        quietly(address, namespace, api.TASK_DELETE, task)
    for message in stream(
        address, namespace, api.CONTAINER_LIST, containers_pb2.ListContainersRequest()
    ):
        request = containers_pb2.DeleteContainerRequest(id=message.container.id)
        quietly(address, namespace, api.CONTAINER_DELETE, request)
    gone = namespaces_pb2.DeleteNamespaceRequest(name=namespace)
    quietly(address, namespace, api.NAMESPACE_DELETE, gone)


def quietly(address: str, namespace: str, method: api.Call[Q, R], request: Q) -> R | None:
    """A call whose failure does not matter."""
    try:
        return call(address, namespace, method, request)
    except grpc.RpcError:
        return None


def outside(namespace: str) -> Iterator[str]:
    """What is left of a namespace outside of containerd's records, cgroups apart."""
    for pid, words, environment in processes():
        name = os.path.basename(words[0])
        if name.startswith("containerd-shim") and namespace in words:
            yield f"shim {pid}"
        if name == "warren-log" and f"CONTAINER_NAMESPACE={namespace}" in environment:
            yield f"logger {pid}"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if f"/{namespace}/" in line.split()[1]:
            yield f"mount {line.split()[1]}"
    state = Path("/run/containerd/runc") / namespace
    if state.is_dir():
        yield from (f"runc state {entry.name}" for entry in state.iterdir())


def cgroups() -> set[Path]:
    """The cgroups of all containers of this host, of every hierarchy."""
    found = [*CGROUPS.glob("warren/*"), *CGROUPS.glob("*/warren/*")]
    return {path for path in found if path.is_dir()}


def empty(cgroup: Path) -> bool:
    """It exists and holds no process."""
    try:
        return not (cgroup / "cgroup.procs").read_text()
    except OSError:
        return False


def processes() -> Iterator[tuple[int, list[str], list[str]]]:
    """Each process of this machine: pid, command line, environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                environment = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            yield int(entry.name), words, environment


def tiny_archive(path: Path, reference: str, ballast_bytes: int = 0, **config: Any) -> Path:
    """Writes an OCI archive of busybox; ballast is a file that does not compress."""
    more = [oci.layer({"ballast": os.urandom(ballast_bytes)})] if ballast_bytes else []
    path.write_bytes(oci.archive(reference, {"Cmd": ["sh"], **config}, more))
    return path


def sample_archive(path: Path) -> Path:
    """Writes the archive of the sample that `make run` and the README's tour use."""
    from examples import sample_image

    sample_image.write(path)
    return path

"""From `service create` to 30 running containers, beside the floor and the peers.

Contenders, one after the other in each round, on the same containerd (Docker on its own):

- floor: the same four calls for each container (Prepare, Containers.Create, Tasks.Create,
  Tasks.Start, with the same runtime spec and logger) made directly on containerd's API, as many at
  once as a worker makes
- warren: one `CreateService` over the Unix socket, until its progress says that all run
- ctr: `ctr run -d` processes, as many at once
- swarm: `docker service create` with as many replicas, if `dockerd` is installed; not with --quick

Figures are seconds for all containers, and the ratio to the floor of the same round.

    python -m benches.deploy [--json] [--quick]
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import grpc.aio
import msgspec
import uvloop

from benches._common import Report, arguments, median
from benches._dockerd import Dockerd, missing, nothing_outside
from benches._stack import IMAGE, containerd, one_node
from tests.support import oci
from tests.support.containerd import Containerd
from tests.support.node import WarrenNode, eventually
from warren.agent.runtime.base import ContainerRequest
from warren.agent.runtime.containerd import api, labels
from warren.agent.runtime.containerd.runtime import (
    ContainerdRuntime,
    host_facts,
    warren_log_path,
)
from warren.agent.runtime.containerd.spec import build
from warren.agent.runtime.containerd.users import Identity
from warren.config import Config
from warren.pb.containerd import containers_pb2, snapshots_pb2, tasks_pb2
from warren.pb.v1 import api_pb2, objects_pb2

CONCURRENCY = Config().worker_concurrency
COMMAND = ["/bin/sleep", "1000000"]
# dockerd makes them and leaves them behind.
BRIDGES = ("docker0", "docker_gwbridge")
# What it would change on the host and not change back; containers here use the host's network.
LEAVE_THE_HOST = ("--iptables=false", "--ip6tables=false", "--ip-forward=false")
SPEC_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Spec"


# -- the floor ---------------------------------------------------------------------------------


class Floor:
    """Containers made by containerd's API alone."""

    def __init__(self, address: str, namespace: str, root: Path) -> None:
        self._address = address
        self._namespace = namespace
        self._root = root

    async def run(self, count: int) -> float:
        """Seconds until `count` containers run; they are removed afterwards."""
        runtime = ContainerdRuntime(
            address=self._address, namespace=self._namespace, node_id="floor", spool_dir=self._root
        )
        spec = objects_pb2.ContainerSpec(image=IMAGE, command=COMMAND)
        image = await runtime.images.resolve(spec)
        options = [("grpc.enable_http_proxy", 0)]
        ids = [secrets.token_hex(16) for _ in range(count)]
        async with grpc.aio.insecure_channel(f"unix:{self._address}", options) as channel:
            bound = asyncio.Semaphore(CONCURRENCY)

            async def one(container_id: str) -> None:
                request = ContainerRequest(
                    id=container_id,
                    attempt=1,
                    service_id="",
                    service_name="floor",
                    slot=1,
                    spec_digest="",
                    spec=spec,
                    log_dir=self._root / container_id,
                    node_name="floor",
                )
                document = build(request, image.config, Identity(0, 0, (), "/root"), host_facts())
                async with bound:
                    await self._create(
                        channel, request, msgspec.json.encode(document), image.chain_id
                    )

            began = time.perf_counter()
            await asyncio.gather(*map(one, ids))
            took_s = time.perf_counter() - began
        await asyncio.gather(*map(runtime.delete, ids))
        await runtime.close()
        return took_s

    async def _create(
        self, channel: grpc.aio.Channel, request: ContainerRequest, document: bytes, parent: str
    ) -> None:
        metadata = (("containerd-namespace", self._namespace),)

        async def call(what: api.Call, message: object) -> object:  # type: ignore[type-arg]
            made = channel.unary_unary(
                what.path,
                request_serializer=what.request.SerializeToString,
                response_deserializer=what.response.FromString,
            )
            return await made(message, metadata=metadata, timeout=60)

        prepared = await call(
            api.SNAPSHOT_PREPARE,
            snapshots_pb2.PrepareSnapshotRequest(
                snapshotter="overlayfs",
                key=request.id,
                parent=parent,
                # The collector eats it otherwise, if it comes by before the container is there.
                labels={labels.GC_ROOT: request.id},
            ),
        )
        record = containers_pb2.Container(
            id=request.id,
            image=IMAGE,
            snapshotter="overlayfs",
            snapshot_key=request.id,
            runtime=containers_pb2.Container.Runtime(name="io.containerd.runc.v2"),
        )
        record.spec.type_url = SPEC_TYPE
        record.spec.value = document
        await call(api.CONTAINER_CREATE, containers_pb2.CreateContainerRequest(container=record))
        logger = f"binary://{warren_log_path()}?dir={request.log_dir}"
        await call(
            api.TASK_CREATE,
            tasks_pb2.CreateTaskRequest(
                container_id=request.id,
                rootfs=prepared.mounts,  # type: ignore[attr-defined]
                stdout=logger,
                stderr=logger,
            ),
        )
        await call(api.TASK_START, tasks_pb2.StartRequest(container_id=request.id))


# -- Warren --------------------------------------------------------------------------------------


def warren(node: WarrenNode, count: int) -> float:
    """Seconds from the request to the progress message that says all run; removes them after."""
    request = api_pb2.CreateServiceRequest()
    request.request.client = secrets.token_bytes(16)
    request.request.sequence = 1
    request.spec.name = "web"
    request.spec.mode = objects_pb2.SERVICE_MODE_REPLICATED
    request.spec.replicas = count
    request.spec.container.image = IMAGE
    request.spec.container.command.extend(COMMAND)
    request.spec.container.stop_timeout_ms = (
        1  # `sleep` as a container's first process ignores TERM
    )
    with grpc.insecure_channel(f"unix:{node.socket}") as channel:
        create = channel.unary_unary(
            "/warren.v1.Manager/CreateService",
            request_serializer=api_pb2.CreateServiceRequest.SerializeToString,
            response_deserializer=api_pb2.CreateServiceResponse.FromString,
        )
        watch = channel.unary_stream(
            "/warren.v1.Manager/WatchService",
            request_serializer=api_pb2.WatchServiceRequest.SerializeToString,
            response_deserializer=api_pb2.ServiceProgress.FromString,
        )
        channel.unary_unary("/warren.v1.Manager/Ping")(b"", timeout=10)
        began = time.perf_counter()
        made = create(request, timeout=60)
        stream = watch(api_pb2.WatchServiceRequest(service_id=made.service_id), timeout=120)
        for progress in stream:
            if progress.running == count:
                break
        took_s = time.perf_counter() - began
        stream.cancel()
    node.ctl("service", "rm", "web", timeout_s=120)
    return took_s


# -- the peers -----------------------------------------------------------------------------------


def ctr(runtime: Containerd, namespace: str, count: int) -> float:
    """Seconds for `ctr run -d` of as many containers, CONCURRENCY processes at once."""
    base = ["ctr", "-a", runtime.address, "-n", namespace]
    ids = [f"ctr-{number}" for number in range(count)]

    async def command(*words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *base, *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 0, words

    async def all_of(*prefix: str, suffix: tuple[str, ...] = ()) -> None:
        bound = asyncio.Semaphore(CONCURRENCY)

        async def one(container_id: str) -> None:
            async with bound:
                await command(*prefix, container_id, *suffix)

        await asyncio.gather(*map(one, ids))

    async def run() -> float:
        began = time.perf_counter()
        await all_of("run", "-d", "--null-io", IMAGE, suffix=tuple(COMMAND))
        took_s = time.perf_counter() - began
        await all_of("task", "rm", "-f")
        await all_of("container", "rm")
        return took_s

    return asyncio.run(run())


@contextmanager
def swarm(root: Path, wanted: bool) -> Iterator[Callable[[int], float] | None]:
    """A private dockerd in swarm mode; None where there is none, or none is wanted."""
    if not wanted or missing("docker"):
        yield None
        return
    daemon = Dockerd(root, *LEAVE_THE_HOST)
    environment = {**os.environ, "DOCKER_HOST": daemon.address}

    def docker(*words: str) -> str:
        done = subprocess.run(
            ["docker", *words], env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def deploy(count: int) -> float:
        began = time.perf_counter()
        docker("service", "create", "--detach", "--name", "web", "--replicas", str(count),
               "--no-resolve-image", "--network", "host", "--stop-grace-period", "1ms",
               "tiny:1", *COMMAND)  # fmt: skip
        running = ["service", "ps", "web", "-f", "desired-state=running", "--format",
                   "{{.CurrentState}}"]  # fmt: skip
        eventually(lambda: docker(*running).count("Running") == count, "the swarm runs all", 120)
        took_s = time.perf_counter() - began
        docker("service", "rm", "web")
        eventually(lambda: not docker("ps", "-aq").strip(), "the swarm removed all", 120)
        return took_s

    with nothing_outside(*BRIDGES):
        try:
            daemon.start()
            daemon.wait_ready()
            docker("swarm", "init", "--advertise-addr", "127.0.0.1")
            archive = root / "tiny.tar"
            layers = [oci.busybox_layer()]
            archive.write_bytes(oci.docker_archive("tiny:1", layers, {"Cmd": ["sh"]}))
            docker("load", "-i", str(archive))
            yield deploy
        finally:
            daemon.close()


def main() -> None:
    """Run and print."""
    options = arguments(__doc__ or "")
    count, rounds = (4, 1) if options.quick else (30, 5)
    report = Report(f"{count} containers, {CONCURRENCY} at once")
    took: dict[str, list[float]] = {}
    with (
        TemporaryDirectory(prefix="wf") as root,
        containerd() as runtime,
        one_node(runtime) as node,
        swarm(Path(root), not options.quick) as deploy_swarm,
    ):
        floor = Floor(runtime.address, node.namespace, Path(root))
        contenders: dict[str, Callable[[], float]] = {
            "floor": lambda: uvloop.run(floor.run(count)),
            "warren": lambda: warren(node, count),
            "ctr run -d": lambda: ctr(runtime, node.namespace, count),
        }
        if deploy_swarm is None:
            report.note("no swarm: dockerd is not installed, or the run is a quick one")
        else:
            contenders["swarm"] = lambda: deploy_swarm(count)
        for _ in range(rounds):
            for name, run in contenders.items():
                took.setdefault(name, []).append(run())
    for name, seconds in took.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, took["floor"], strict=True)]
        report.row(
            name,
            median_s=median(seconds),
            min_s=min(seconds),
            max_s=max(seconds),
            ratio_to_floor=median(ratios),
        )
    report.finish(options)


if __name__ == "__main__":
    main()

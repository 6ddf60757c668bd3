"""The containerd runtime against the real containerd."""

# ruff: noqa: ASYNC240 - small files, and nobody else is on the loop
from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import oci
from tests.support.containerd import Containerd, runtime_tasks
from warren.agent import logs
from warren.agent.runtime.base import (
    Back,
    ContainerRequest,
    Exited,
    Lost,
    Observed,
    Oom,
    Phase,
    RuntimeEvent,
    RuntimeRefused,
    RuntimeUnavailable,
)
from warren.agent.runtime.containerd.runtime import ContainerdRuntime, warren_log_path
from warren.errors import WarrenError
from warren.pb.v1 import objects_pb2

IMAGE = "docker.io/library/tiny:1"
DEADLINE_S = 20


class Bench:
    """A runtime in a namespace of its own, with the tiny image, its events and its logs."""

    def __init__(self, containerd: Containerd, state: Path) -> None:
        self.containerd = containerd
        self.namespace = containerd.new_namespace()
        self.log_root = state / "logs"
        self.state = state
        self.runtime = self.new_runtime()
        self.events = self.runtime.events()

    def new_runtime(self) -> ContainerdRuntime:
        """As a daemon that was just started has it."""
        return ContainerdRuntime(
            address=self.containerd.address,
            namespace=self.namespace,
            node_id="5e" * 16,
            spool_dir=self.state / "spool",
        )

    async def load(self, archive: Path, runtime: ContainerdRuntime | None = None) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield archive.read_bytes()

        async for _ in (runtime or self.runtime).images.load(pieces()):
            pass

    def request(self, *command: str, attempt: int = 1, **spec: Any) -> ContainerRequest:
        container_id = secrets.token_hex(16)
        return ContainerRequest(
            id=container_id,
            attempt=attempt,
            service_id="7a" * 16,
            service_name="web",
            slot=1,
            spec_digest="cd" * 32,
            spec=objects_pb2.ContainerSpec(**{"image": IMAGE, "command": command, **spec}),
            log_dir=self.log_root / container_id,
            node_name="host-1",
        )

    async def run(self, request: ContainerRequest) -> int:
        await self.runtime.create(request)
        return await self.runtime.start(request.id)

    async def event(self) -> RuntimeEvent:
        return await asyncio.wait_for(anext(self.events), DEADLINE_S)

    async def only(self, runtime: ContainerdRuntime | None = None) -> Observed:
        (found,) = await (runtime or self.runtime).list()
        return found

    async def output(self, request: ContainerRequest) -> list[tuple[bool, bytes]]:
        """What the container wrote, once its logger has written all of it."""
        await self.runtime.delete(request.id)
        await asyncio.to_thread(self.containerd.assert_nothing_left, self.namespace)
        return [
            (line.stderr, line.line)
            async for chunk in logs.read(
                self.log_root, [request.id], tail=-1, since_ms=0, follow=False
            )
            for line in chunk.lines
        ]


async def bench_on(containerd: Containerd, state: Path, image: Path) -> AsyncIterator[Bench]:
    if not os.access(warren_log_path(), os.X_OK):
        pytest.skip("the logger is not built; make dev builds it")
    bench = Bench(containerd, state)
    await bench.runtime.open()
    assert await bench.event() == Back()
    await bench.load(image)
    yield bench
    await bench.runtime.close()
    await asyncio.to_thread(containerd.assert_nothing_left, bench.namespace)


@pytest.fixture
async def bench(containerd: Containerd, tmp_path: Path, tiny_image: Path) -> AsyncIterator[Bench]:
    """Fails the test if anything is left in the end."""
    async for made in bench_on(containerd, tmp_path, tiny_image):
        yield made


@pytest.fixture
async def own_bench(
    own_containerd: Containerd, tmp_path: Path, tiny_image: Path
) -> AsyncIterator[Bench]:
    """With a containerd that the test may stop."""
    async for made in bench_on(own_containerd, tmp_path, tiny_image):
        yield made


async def test_a_whole_life(bench: Bench) -> None:
    request = bench.request("sleep", "1000")
    await bench.runtime.create(request)
    created = await bench.only()
    assert (created.phase, created.attempt, created.id) == (Phase.CREATED, 1, request.id)
    assert created.spec_digest == request.spec_digest
    pid = await bench.runtime.start(request.id)
    running = await bench.only()
    assert (running.phase, running.pid) == (Phase.RUNNING, pid)
    assert f"/warren/{request.id}" in Path(f"/proc/{pid}/cgroup").read_text()
    await bench.runtime.stop(request.id, 0)
    end = await bench.event()
    assert isinstance(end, Exited)
    assert (end.id, end.exit_code, end.oom_killed) == (request.id, 137, False)
    stopped = await bench.only()
    assert (stopped.phase, stopped.exit_code, stopped.pid) == (Phase.STOPPED, 137, 0)
    assert stopped.exited_at_ms == end.at_ms >= stopped.started_at_ms > 0
    await bench.runtime.delete(request.id)
    assert await bench.runtime.list() == []


async def test_the_check_for_leftovers_sees_them(bench: Bench) -> None:
    request = bench.request("sleep", "1000")
    await bench.run(request)
    with pytest.raises(AssertionError) as left:
        bench.containerd.assert_nothing_left(bench.namespace, timeout_s=0)
    for kind in ("container", "task", "snapshot", "shim", "logger", "mount", "runc state"):
        assert f"{kind} " in str(left.value)
    await bench.runtime.delete(request.id)


async def test_everything_may_be_repeated(bench: Bench) -> None:
    request = bench.request("sleep", "1000")
    await bench.runtime.create(request)
    await bench.runtime.create(request)
    pid = await bench.runtime.start(request.id)
    assert await bench.runtime.start(request.id) == pid
    await bench.runtime.create(request)
    for _ in range(2):
        await bench.runtime.stop(request.id, 0)
    for _ in range(2):
        await bench.runtime.delete(request.id)
    await bench.runtime.stop(request.id, 0)


async def test_another_attempt_waits_for_the_deletion_of_the_old_one(bench: Bench) -> None:
    first = bench.request("true")
    await bench.runtime.create(first)
    second = ContainerRequest(
        **{f: getattr(first, f) for f in first.__struct_fields__} | {"attempt": 2}
    )
    with pytest.raises(RuntimeRefused, match="delete it first") as refusal:
        await bench.runtime.create(second)
    assert not refusal.value.permanent
    assert (await bench.only()).attempt == 1
    await bench.runtime.delete(first.id)
    await bench.run(second)
    assert (await bench.only()).attempt == 2
    await bench.runtime.delete(first.id)


@pytest.mark.parametrize(
    ("command", "code"),
    [(("true",), 0), (("sh", "-c", "exit 42"), 42), (("sh", "-c", "kill -TERM $$; sleep 9"), 0)],
)
async def test_the_exit_code_is_the_container_s_own(
    bench: Bench, command: tuple[str, ...], code: int
) -> None:
    request = bench.request(*command)
    if code == 0 and len(command) > 1:
        # pid 1 gets no signal that it does not handle, not even its own.
        request = bench.request("sh", "-c", "trap 'exit 0' TERM; kill -TERM $$; sleep 9")
    await bench.run(request)
    end = await bench.event()
    assert isinstance(end, Exited)
    assert (end.exit_code, end.oom_killed) == (code, False)
    await bench.runtime.delete(request.id)


async def test_sigterm_comes_first_and_is_enough(bench: Bench) -> None:
    request = bench.request(
        "sh", "-c", "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done"
    )
    await bench.run(request)
    await until_output(bench, request, b"up")
    await bench.runtime.stop(request.id, 15_000)
    assert (await bench.only()).exit_code == 5
    assert (False, b"bye") in await bench.output(request)


async def until_output(bench: Bench, request: ContainerRequest, wanted: bytes) -> None:
    async with asyncio.timeout(DEADLINE_S):
        async for chunk in logs.read(
            bench.log_root, [request.id], tail=-1, since_ms=0, follow=True
        ):
            if any(line.line == wanted for line in chunk.lines):
                return


async def test_a_killed_child_is_reported_with_the_container_s_own_code(bench: Bench) -> None:
    request = bench.request(
        *("sh", "-c", "sh -c 'x=a; while :; do x=$x$x; done'; exit 7"),
        resources=objects_pb2.Resources(memory_bytes=16 << 20),
    )
    await bench.run(request)
    assert await bench.event() == Oom(request.id)
    end = await bench.event()
    assert isinstance(end, Exited)
    assert (end.exit_code, end.oom_killed) == (7, True)
    # A daemon that was away learns of it too.
    later = bench.new_runtime()
    found = await bench.only(later)
    assert (found.exit_code, found.oom_killed) == (7, True)
    await later.close()
    await bench.runtime.delete(request.id)


async def test_limits_reach_the_kernel(bench: Bench) -> None:
    request = bench.request(
        "sleep", "1000", resources=objects_pb2.Resources(memory_bytes=32 << 20, cpu_milli=250)
    )
    await bench.run(request)
    root = Path("/sys/fs/cgroup")
    v1 = root / "memory/warren" / request.id
    if v1.is_dir():
        assert (v1 / "memory.limit_in_bytes").read_text().strip() == str(32 << 20)
        quota = root / "cpu/warren" / request.id / "cpu.cfs_quota_us"
        assert quota.read_text().strip() == "25000"
    else:
        v2 = root / "warren" / request.id
        assert (v2 / "memory.max").read_text().strip() == str(32 << 20)
        assert (v2 / "cpu.max").read_text().split() == ["25000", "100000"]
    await bench.runtime.delete(request.id)


async def test_both_streams_are_complete(bench: Bench) -> None:
    for _ in range(5):
        request = bench.request(
            "sh", "-c", "for i in $(seq 200); do echo out $i; echo err $i >&2; done"
        )
        await bench.run(request)
        assert isinstance(await bench.event(), Exited)
        output = await bench.output(request)
        assert [line for stderr, line in output if not stderr] == [
            b"out %d" % i for i in range(1, 201)
        ]
        assert [line for stderr, line in output if stderr] == [b"err %d" % i for i in range(1, 201)]


async def test_the_process_is_as_asked(bench: Bench) -> None:
    request = bench.request(
        *(
            "sh",
            "-c",
            "id -u; id -g; id -G; pwd; echo $GREETING; echo $HOME; hostname; cat /in/file",
        ),
        user="web",
        workdir="/tmp",
        env=["GREETING=hello"],
        mounts=[
            objects_pb2.Mount(
                type=objects_pb2.MOUNT_TYPE_BIND, source=str(bench.state), target="/in"
            ),
            objects_pb2.Mount(type=objects_pb2.MOUNT_TYPE_TMPFS, target="/scratch"),
        ],
    )
    bench.state.chmod(0o755)
    (bench.state / "file").write_text("from the host\n")
    await bench.run(request)
    assert isinstance(await bench.event(), Exited)
    lines = [line.decode() for _, line in await bench.output(request)]
    groups = "1002 1003"
    assert lines == [
        *("1001", "1002", groups, "/tmp", "hello", "/srv", request.id[:12], "from the host")
    ]


async def test_the_host_s_network(bench: Bench) -> None:
    request = bench.request(
        "sh", "-c", "hostname; grep -c . /etc/hosts", network=objects_pb2.NETWORK_MODE_HOST
    )
    pid = await bench.run(request)
    assert isinstance(await bench.event(), Exited)
    assert pid
    lines = [line.decode() for _, line in await bench.output(request)]
    host_lines = [line for line in Path("/etc/hosts").read_text().splitlines() if line]
    assert lines == ["host-1", str(len(host_lines))]


@pytest.mark.parametrize(
    ("changes", "words", "permanent"),
    [
        ({"command": ["nope"]}, 'the command "nope" is not in the image', False),
        ({"command": ["/no/such"]}, 'the command "/no/such" is not in the image', False),
        ({"command": ["/etc/no-execute"]}, "cannot be executed", False),
        ({"workdir": "/etc/passwd"}, "not a directory", False),
        ({"user": "nobody"}, 'no user "nobody"', True),
        ({"user": "web:nobody"}, 'no group "nobody"', True),
        ({"image": "docker.io/library/none:1"}, "warrenctl image load", True),
        (
            {"mounts": [objects_pb2.Mount(type=1, source="/no/such", target="/x")]},
            "there is no /no/such",
            True,
        ),
        (
            {"resources": objects_pb2.Resources(memory_bytes=65536)},
            "memory limit is too low",
            False,
        ),
    ],
)
async def test_a_refusal_is_a_sentence_and_leaves_nothing(
    bench: Bench, changes: dict[str, Any], words: str, permanent: bool
) -> None:
    request = bench.request("true", **changes)
    with pytest.raises(RuntimeRefused) as refusal:
        await bench.run(request)
    assert words in refusal.value.message
    assert refusal.value.permanent is permanent
    assert "OCI runtime" not in refusal.value.message
    await asyncio.to_thread(bench.containerd.assert_nothing_left, bench.namespace)


# -- a daemon that is killed between two steps -----------------------------------------------


class Killed(Exception):  # noqa: N818 - the daemon's end is what is meant
    """The daemon ended before this call."""


def kill_before(runtime: ContainerdRuntime, method: str) -> None:
    """From now on the runtime dies at the first call of ``method``."""
    unary = runtime.client.unary

    async def dying(call: Any, request: Any, **options: Any) -> Any:
        if f"{call.service}/{call.method}" == method:
            raise Killed
        return await unary(call, request, **options)

    runtime.client.unary = dying  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("method", "phase"),
    [
        ("snapshots.v1.Snapshots/Prepare", None),
        ("containers.v1.Containers/Create", Phase.REMNANT),
        ("tasks.v1.Tasks/Create", Phase.REMNANT),
        ("tasks.v1.Tasks/Start", Phase.CREATED),
    ],
)
async def test_what_a_killed_create_leaves_is_found_and_removed(
    bench: Bench, method: str, phase: Phase | None
) -> None:
    request = bench.request("sleep", "1000")
    dying = bench.new_runtime()
    kill_before(dying, method)

    async def create_and_start() -> None:
        await dying.create(request)
        await dying.start(request.id)

    with pytest.raises(Killed):
        await create_and_start()
    await dying.close()
    found = await bench.runtime.list()
    assert [(one.id, one.phase, one.attempt) for one in found] == (
        [(request.id, phase, 1)] if phase else []
    )
    if phase is Phase.REMNANT:
        with pytest.raises(RuntimeRefused, match="delete it first"):
            await bench.runtime.create(request)
    await bench.runtime.delete(request.id)
    await asyncio.to_thread(bench.containerd.assert_nothing_left, bench.namespace)
    await bench.run(request)
    await bench.runtime.delete(request.id)


@pytest.mark.parametrize(
    "method",
    [
        "tasks.v1.Tasks/Kill",
        "tasks.v1.Tasks/Wait",
        "tasks.v1.Tasks/Delete",
        "containers.v1.Containers/Delete",
        "snapshots.v1.Snapshots/Remove",
    ],
)
async def test_a_killed_delete_is_resumed(bench: Bench, method: str) -> None:
    request = bench.request("sleep", "1000")
    await bench.run(request)
    dying = bench.new_runtime()
    kill_before(dying, method)
    with pytest.raises(Killed):
        await dying.delete(request.id)
    await dying.close()
    assert [one.id for one in await bench.runtime.list()] == [request.id]
    await bench.runtime.delete(request.id)
    assert await bench.runtime.list() == []


async def test_another_node_s_containers_are_not_seen(bench: Bench) -> None:
    request = bench.request("sleep", "1000")
    await bench.run(request)
    other = ContainerdRuntime(
        address=bench.containerd.address,
        namespace=bench.namespace,
        node_id="0f" * 16,
        spool_dir=bench.state / "spool",
    )
    assert await other.list() == []
    await other.close()
    await bench.runtime.delete(request.id)


# -- containerd itself -----------------------------------------------------------------------


async def test_containerd_stops_and_comes_back(own_bench: Bench) -> None:
    runtime = own_bench.runtime
    stays, ends = own_bench.request("sleep", "1000"), own_bench.request("sleep", "1000")
    pid = await own_bench.run(stays)
    ending_pid = await own_bench.run(ends)
    own_bench.containerd.stop()
    assert await own_bench.event() == Lost()
    for call in (runtime.version(), runtime.list(), runtime.start(stays.id)):
        with pytest.raises(RuntimeUnavailable, match=r"is it running\?"):
            await call
    os.kill(ending_pid, 9)
    await asyncio.to_thread(own_bench.containerd.start)
    assert await own_bench.event() == Back()
    found = {one.id: one for one in await runtime.list()}
    assert (found[stays.id].phase, found[stays.id].pid) == (Phase.RUNNING, pid)
    assert (found[ends.id].phase, found[ends.id].exit_code) == (Phase.STOPPED, 137)
    tasks = await asyncio.to_thread(
        runtime_tasks, own_bench.containerd.address, own_bench.namespace
    )
    assert tasks[stays.id] == pid
    os.kill(pid, 9)
    end = await own_bench.event()
    assert isinstance(end, Exited)
    assert (end.id, end.exit_code) == (stays.id, 137)
    for request in (stays, ends):
        await runtime.delete(request.id)


async def test_a_runtime_opens_before_containerd(
    own_containerd: Containerd, tmp_path: Path
) -> None:
    own_containerd.stop()
    bench = Bench(own_containerd, tmp_path)
    await bench.runtime.open()
    with pytest.raises(RuntimeUnavailable):
        await bench.runtime.version()
    await asyncio.to_thread(own_containerd.start)
    assert await bench.event() == Back()
    assert (await bench.runtime.version())[0] in "12"
    await bench.runtime.close()


async def test_an_image_that_was_never_unpacked_is(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a collector leaves it that took the snapshots: the content has to do."""
    request = bench.request("true")
    prepare: Callable[..., Any] = bench.runtime.client.unary
    failed = []

    async def gone(call: Any, message: Any, **options: Any) -> Any:
        if call.method == "Prepare" and not failed:
            failed.append(True)
            message = type(message)(
                snapshotter=message.snapshotter, key=message.key, parent="sha256:" + "0" * 64
            )
        return await prepare(call, message, **options)

    monkeypatch.setattr(bench.runtime.client, "unary", gone)
    await bench.run(request)
    assert isinstance(await bench.event(), Exited)
    await bench.runtime.delete(request.id)


async def test_an_image_in_use_stays_unless_forced(bench: Bench) -> None:
    request = bench.request("sleep", "1000")
    await bench.run(request)
    with pytest.raises(WarrenError, match=r"used by 1 container.*web\.1") as refusal:
        await bench.runtime.images.remove("tiny:1", force=False)
    assert refusal.value.code == "image_in_use"
    await bench.runtime.images.remove("tiny:1", force=True)
    assert (await bench.only()).phase is Phase.RUNNING
    await bench.runtime.delete(request.id)
    with pytest.raises(RuntimeRefused, match="not on this node"):
        await bench.runtime.create(bench.request("true"))


async def test_an_older_image_is_kept_for_those_who_run_it(bench: Bench, tmp_path: Path) -> None:
    """A tag that moved changes nothing for a service until it is updated, nor for its restarts."""

    async def newer(command: str) -> None:
        archive = tmp_path / "newer.tar"
        archive.write_bytes(oci.archive("tiny:1", {"Cmd": ["sh", "-c", command]}))
        await bench.load(archive)

    (old,) = await bench.runtime.images.list()
    by_digest = f"docker.io/library/tiny@{old.digest}"
    request = bench.request("sleep", "1000", image_digest=old.digest)
    await bench.run(request)
    for command in ("echo 2", "echo 3"):
        await newer(command)
        assert by_digest in [image.reference for image in await bench.runtime.images.list()]
    await bench.runtime.delete(request.id)
    await bench.run(request)
    with pytest.raises(WarrenError, match="used by 1 container"):
        await bench.runtime.images.remove(by_digest, force=False)
    await bench.runtime.delete(request.id)
    await newer("echo 4")
    names = [image.reference for image in await bench.runtime.images.list()]
    assert by_digest not in names
    assert len(names) == 2
    gone = bench.request("true", image_digest="sha256:" + "0" * 64)
    with pytest.raises(RuntimeRefused, match="warrenctl image load"):
        await bench.runtime.create(gone)

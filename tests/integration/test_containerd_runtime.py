"""The containerd runtime against the real containerd."""

# ruff: noqa: ASYNC240 - small files, and nobody else is on the loop
from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support import oci
from tests.support.bench import Bench, until_output
from warren.agent.runtime.base import (
    ContainerRequest,
    DevicePath,
    Exited,
    Oom,
    Phase,
    RuntimeRefused,
    Usage,
)
from warren.errors import WarrenError
from warren.pb.v1 import objects_pb2


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


async def test_only_who_holds_a_device_has_it(bench: Bench, tmp_path: Path) -> None:
    """A device of the kernel's under another name: what counts is who is let at it."""
    node = tmp_path / "dev0"
    # fuse: anybody may open it whom the cgroup lets, which by default it does not.
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    reads = (
        "test -c /dev/warren0 || { echo missing; mknod /dev/warren0 c 10 229; }; "
        "if (: < /dev/warren0); then echo opened $DEVICES; else echo refused; fi"
    )
    holder = msgspec.structs.replace(
        bench.request("sh", "-c", reads, env=["DEVICES=all"]),
        device_paths=(DevicePath(str(node), "/dev/warren0"),),
        device_env=("DEVICES=0",),
    )
    other = bench.request("sh", "-c", reads, env=["DEVICES=all"])
    for request, said in ((holder, [b"opened 0"]), (other, [b"missing", b"refused"])):
        await bench.run(request)
        assert isinstance(await bench.event(), Exited)
        lines = await bench.output(request)
        assert [line for stderr, line in lines if not stderr] == said, lines


async def test_a_device_that_is_not_there_is_named(bench: Bench, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    for path, words, permanent in (
        (tmp_path / "gone", "cannot be had: No such file", False),
        (plain, "is no device", True),
    ):
        request = msgspec.structs.replace(
            bench.request("true"), device_paths=(DevicePath(str(path), "/dev/x"),)
        )
        with pytest.raises(RuntimeRefused, match=words) as refusal:
            await bench.runtime.create(request)
        assert (str(path) in refusal.value.message, refusal.value.permanent) == (True, permanent)
        await bench.runtime.delete(request.id)


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


async def test_limits_apart_from_reservations_reach_the_kernel(bench: Bench) -> None:
    request = bench.request(
        "sleep",
        "1000",
        resources=objects_pb2.Resources(memory_bytes=16 << 20, cpu_milli=500, pids=10),
        limits=objects_pb2.Resources(memory_bytes=64 << 20, pids=50),
    )
    await bench.run(request)
    root = Path("/sys/fs/cgroup")
    v1 = root / "memory/warren" / request.id
    if v1.is_dir():
        assert (v1 / "memory.limit_in_bytes").read_text().strip() == str(64 << 20)
        cpu = root / "cpu/warren" / request.id
        assert (cpu / "cpu.cfs_quota_us").read_text().strip() == "-1"
        assert (cpu / "cpu.shares").read_text().strip() == "512"
        pids = root / "pids/warren" / request.id
        assert (pids / "pids.max").read_text().strip() == "50"
    else:
        v2 = root / "warren" / request.id
        assert (v2 / "memory.max").read_text().strip() == str(64 << 20)
        assert (v2 / "cpu.max").read_text().split() == ["max", "100000"]
        assert (v2 / "pids.max").read_text().strip() == "50"
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


async def test_what_a_container_uses_rises_with_what_it_does(bench: Bench) -> None:
    """One burns a CPU and holds 24 MiB, the other one sleeps; both are told, and nobody else."""
    held = 24 << 20
    # The shell holds the text; `:` in a loop burns.
    script = f"x=$(head -c {held} /dev/zero | tr '\\0' x); while :; do :; done"
    busy = bench.request("sh", "-c", script)
    idle = bench.request("sleep", "1000")
    await bench.run(idle)
    await bench.run(busy)

    async def once(reached: Callable[[Usage], bool]) -> dict[str, Usage]:
        async with asyncio.timeout(60):
            while True:
                found = await bench.runtime.usage()
                if reached(found[busy.id]):
                    return found
                await asyncio.sleep(0.05)

    first = await once(lambda it: it.working_set_bytes >= held)
    last = await once(lambda it: it.cpu_ns >= first[busy.id].cpu_ns + 200_000_000)
    assert set(last) == {busy.id, idle.id}
    assert last[busy.id].memory_bytes >= last[busy.id].working_set_bytes >= held
    assert last[idle.id].working_set_bytes < held
    spent = {one: last[one].cpu_ns - first[one].cpu_ns for one in last}
    assert spent[idle.id] < spent[busy.id] / 10
    assert last[idle.id].pids == 1
    # Another life of the daemon finds them by listing.
    later = bench.new_runtime()
    assert await later.usage() == {}
    await later.list()
    assert set(await later.usage()) == {busy.id, idle.id}
    await later.close()
    await bench.runtime.delete(busy.id)
    assert set(await bench.runtime.usage()) == {idle.id}
    await bench.runtime.delete(idle.id)
    assert await bench.runtime.usage() == {}

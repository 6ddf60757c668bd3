"""What can go wrong on a host. Every case ends with the daemon at work again and nothing left."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import grpc
import msgspec
import pytest

from tests.support.containerd import Containerd, runtime_tasks, tiny_archive
from tests.support.disk import fill
from tests.support.node import FOREVER, WarrenNode, eventually
from warren import rpc
from warren.pb.v1 import api_pb2

IMAGE = "docker.io/library/tiny:1"
MOVING = "docker.io/library/moving:1"
TALKER = "i=0; while :; do i=$((i + 1)); printf '%02000d\\n' $i; sleep 0.05; done"

NewNode = Callable[..., WarrenNode]


@pytest.fixture
def new_node() -> Iterator[NewNode]:
    """Makes nodes as `WarrenNode` does; none of them outlives the test."""
    made = []

    def make(*args: object, **more: object) -> WarrenNode:
        made.append(WarrenNode(*args, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for node in made:
        node.discard()


def create(node: WarrenNode, name: str, env: str = "A=1") -> None:
    """A service without containers. Raises grpc.RpcError if it is refused."""
    request = api_pb2.CreateServiceRequest()
    request.spec.name = name
    request.spec.container.image = IMAGE
    request.spec.container.env.append(env)
    with node.api() as api:
        api.CreateService(request, timeout=10)


def names(node: WarrenNode) -> set[str]:
    return set(services(node))


def services(node: WarrenNode) -> dict[str, bytes]:
    """The id of each service, by name."""
    with node.api() as api:
        answer = api.ListServices(api_pb2.ListServicesRequest(), timeout=10)
    return {view.service.spec.name: view.service.id for view in answer.services}


def remove_all(node: WarrenNode) -> None:
    with node.api() as api:
        for service_id in services(node).values():
            api.RemoveService(api_pb2.RemoveServiceRequest(service_id=service_id), timeout=10)
    eventually(lambda: not names(node), "every service is gone")


def slot_of(node: WarrenNode, service: str) -> dict[str, object]:
    (slot,) = node.json("service", "ps", service)
    return dict(slot)


# -- containers ------------------------------------------------------------------------------


def test_an_image_that_exits_at_once_backs_off_visibly(node: WarrenNode) -> None:
    node.ctl("service", "create", "brief", f"--image={IMAGE}", "--detach", "--", "false")
    slot = eventually(
        lambda: (s := slot_of(node, "brief")) and int(str(s["attempt"])) >= 4 and s,
        "four attempts, 1 + 2 + 4 s apart",
    )
    assert slot["exit_code"] == 1
    lines = [msgspec.json.decode(line) for line in node.log().splitlines()]
    waits_ms = [line["backoff_ms"] for line in lines if "backoff_ms" in line]
    assert waits_ms[:3] == [1000, 2000, 4000]
    began = [
        datetime.fromisoformat(line["time"])
        for line in lines
        if line["message"] == "container brief.1 is starting"
    ]
    pauses_s = [(after - before).total_seconds() for before, after in pairwise(began)]
    assert pauses_s[0] >= 1
    assert pauses_s[1] >= 2
    node.ctl("service", "rm", "brief")


def test_restart_none_and_on_failure_leave_what_is_done(node: WarrenNode) -> None:
    for policy, command, state in (
        ("none", "false", "failed"),
        ("none", "true", "complete"),
        ("on-failure", "true", "complete"),
    ):
        node.ctl(
            "service",
            "create",
            "once",
            f"--image={IMAGE}",
            f"--restart={policy}",
            "--detach",
            "--",
            command,
        )
        eventually(
            lambda state=state: slot_of(node, "once")["state"] == state,  # type: ignore[misc]
            f"{policy} {command}: {state}",
        )
        assert slot_of(node, "once")["attempt"] == 1
        node.ctl("service", "rm", "once")


def test_a_command_that_is_not_in_the_image(node: WarrenNode) -> None:
    node.ctl("service", "create", "lost", f"--image={IMAGE}", "--detach", "--", "/no/such")
    reason = eventually(
        lambda: (why := slot_of(node, "lost")["reason"]) and "/no/such" in str(why) and why,
        "the reason names the command",
    )
    assert "Traceback" not in str(reason)
    node.ctl("service", "rm", "lost")


def test_a_container_out_of_memory_says_so(node: WarrenNode) -> None:
    node.ctl(
        "service",
        "create",
        "glutton",
        f"--image={IMAGE}",
        "--memory=16m",
        "--restart=none",
        "--detach",
        "--",
        "sh",
        "-c",
        "x=a; while true; do x=$x$x; done",
    )
    slot = eventually(
        lambda: (s := slot_of(node, "glutton")) and s["state"] == "failed" and s, "it fails"
    )
    assert slot["oom_killed"] is True
    assert "memory" in str(slot["reason"])
    counted = f'warren_container_oom_kills_total{{container="{slot["container_id"]}",'
    eventually(
        lambda: re.search(
            rf"^{re.escape(counted)}.* 1\.0$", node.http("/metrics")[1], re.MULTILINE
        ),
        "it is counted",
    )
    node.ctl("service", "rm", "glutton")


# -- containerd ------------------------------------------------------------------------------


def test_containerd_stops_and_comes_back(
    own_containerd: Containerd, tiny_image: Path, new_node: NewNode
) -> None:
    node = new_node(own_containerd.address, own_containerd.new_namespace())
    own_containerd.stop()
    node.start()
    node.ctl("cluster", "init", "--detach")
    status, body = node.http("/ready")
    assert status == 503
    assert "containerd" in body

    own_containerd.start()
    node.wait_ready(timeout_s=2)
    node.ctl("image", "load", "-i", str(tiny_image))
    node.ctl("service", "create", "web", f"--image={IMAGE}", *FOREVER)
    before = runtime_tasks(own_containerd.address, node.namespace)

    own_containerd.stop()
    eventually(lambda: node.http("/ready")[0] == 503, "/ready follows containerd down", 2)
    node.ctl("service", "scale", "web=2", "--detach")
    own_containerd.start()
    eventually(lambda: node.http("/ready")[0] == 200, "/ready follows containerd up", 2)
    eventually(
        lambda: [slot["state"] for slot in node.json("service", "ps", "web")] == ["running"] * 2,
        "work resumes by itself",
    )
    after = runtime_tasks(own_containerd.address, node.namespace)
    assert before.items() <= after.items(), "a container was restarted"
    node.ctl("service", "rm", "web")
    node.stop()
    own_containerd.assert_nothing_left(node.namespace)


def test_the_image_of_one_that_waits_for_its_next_attempt_stays(
    node: WarrenNode, tmp_path: Path
) -> None:
    def load(number: int) -> None:
        archive = tiny_archive(tmp_path / "moving.tar", MOVING, WorkingDir=f"/{number}")
        node.ctl("image", "load", "-i", str(archive))

    load(1)
    (old,) = (row for row in node.json("image", "ls") if row["reference"] == MOVING)
    node.ctl("service", "create", "fails", f"--image={MOVING}", "--detach", "--", "false")
    eventually(lambda: slot_of(node, "fails")["attempt"] == 4, "it is in its third pause, of 4 s")
    # The first load that moves the name keeps what it was, for as long as something may run it.
    load(2)
    load(3)
    assert old["digest"] in [row["digest"] for row in node.json("image", "ls")]
    assert slot_of(node, "fails")["attempt"] == 4, "the pause was over before the last load"
    node.ctl("service", "rm", "fails")


# -- the data directory ------------------------------------------------------------------------


def create_until_refused(node: WarrenNode, acknowledged: set[str]) -> str:
    """Services, until one is refused; why. Those before it are in `acknowledged`."""
    for number in range(200):
        try:
            create(node, f"s{number}", "A=" + "x" * 60_000)
        except grpc.RpcError as error:
            return rpc.failure(error).message
        acknowledged.add(f"s{number}")
    raise AssertionError("200 services went into a log that cannot grow")


@pytest.fixture
def cramped(
    containerd: Containerd, tiny_image: Path, small_disk: Path, new_node: NewNode
) -> Iterator[WarrenNode]:
    """Log, worker's store, containers' logs and uploads share a small disk; a service talks."""
    node = new_node(containerd.address, containerd.new_namespace(), small_disk)
    node.log_path = small_disk.parent / "warrend.log"
    node.env["WARREN_WAL_SEGMENT_BYTES"] = str(1 << 20)
    node.up()
    node.ctl("image", "load", "-i", str(tiny_image))
    node.ctl(
        "service", "create", "talker", f"--image={IMAGE}", "--stop-timeout=50ms",
        "--", "sh", "-c", TALKER,
    )  # fmt: skip
    yield node
    (small_disk / "ballast").unlink(missing_ok=True)
    eventually(lambda: node.http("/ready")[0] == 200, "there is room again")
    remove_all(node)
    assert node.stop() == 0
    containerd.assert_nothing_left(node.namespace)


def test_a_full_disk_refuses_writes_stays_up_and_recovers(
    cramped: WarrenNode, containerd: Containerd, small_disk: Path, tmp_path: Path
) -> None:
    node = cramped
    ballast = fill(small_disk)
    acknowledged = {"talker"}
    why = create_until_refused(node, acknowledged)
    assert "no space" in why
    assert str(small_disk) in why
    status, body = node.http("/ready")
    assert status == 503, "a write was refused, and /ready must know of it at once"
    assert "no space" in body
    code, told = node.refused("service", "scale", "talker=2", "--detach")
    # The log has more of it, under this name.
    assert (code, told.splitlines()[0]) == (1, f"warrenctl: {why}")
    assert told.splitlines()[1].startswith("request id: ")
    archive = tiny_archive(tmp_path / "more.tar", "docker.io/library/more:1", 4 << 20)
    code, why = node.refused("image", "load", "-i", str(archive))
    assert code == 1
    assert "not enough space" in why
    assert node.http("/ready")[0] == 503, "nothing was freed"
    assert names(node) == acknowledged

    # A container that dies now comes back although nothing of it can be written down.
    (pid,) = runtime_tasks(containerd.address, node.namespace).values()
    os.kill(pid, signal.SIGKILL)
    eventually(
        lambda: (
            pid not in (now := runtime_tasks(containerd.address, node.namespace).values()) and now
        ),
        "the container runs again",
    )
    ballast.unlink()
    eventually(lambda: node.http("/ready")[0] == 200, "/ready follows")
    eventually(lambda: slot_of(node, "talker")["attempt"] == 2, "the manager heard of it")
    node.ctl("service", "scale", "talker=2")
    eventually(lambda: node.metric("warren_worker_store_failing") == 0, "the store is written")
    node.kill()
    node.up()
    assert names(node) == acknowledged


def test_a_full_disk_holds_up_neither_the_end_nor_a_start(
    cramped: WarrenNode, containerd: Containerd, small_disk: Path
) -> None:
    node = cramped
    ballast = fill(small_disk)
    acknowledged = {"talker"}
    create_until_refused(node, acknowledged)
    running = runtime_tasks(containerd.address, node.namespace)
    assert node.stop(timeout_s=5) == 0
    node.start()
    assert eventually(lambda: names(node) == acknowledged, "it serves what it has")
    assert runtime_tasks(containerd.address, node.namespace) == running
    ballast.unlink()
    eventually(lambda: node.http("/ready")[0] == 200, "/ready follows")
    eventually(
        lambda: "lines dropped" in node.run("service", "logs", "talker").stderr, "lines are counted"
    )
    node.ctl("service", "scale", "talker=2")
    assert running.items() <= runtime_tasks(containerd.address, node.namespace).items()


def test_a_data_directory_that_cannot_be_written(
    containerd: Containerd, small_disk: Path, new_node: NewNode
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    node = new_node(containerd.address, "none")
    node.data_dir = small_disk / "data"
    code, why = node.start_expecting_refusal()
    assert code == 1
    assert str(node.data_dir) in why
    assert "Traceback" not in why


def test_a_data_directory_that_is_in_use(node: WarrenNode, new_node: NewNode) -> None:
    other = new_node(node.containerd_address, node.namespace)
    other.data_dir = node.data_dir
    code, why = other.start_expecting_refusal()
    assert code == 1
    assert str(node.pid) in why
    assert node.json("cluster", "info")["id"]


def test_a_socket_that_is_in_use(node: WarrenNode, new_node: NewNode) -> None:
    other = new_node(node.containerd_address, "none")
    other.socket = node.socket
    code, why = other.start_expecting_refusal()
    assert code == 1
    assert str(node.socket) in why
    assert node.json("cluster", "info")["id"]


def test_a_file_in_the_socket_s_place_is_not_removed(
    containerd: Containerd, new_node: NewNode
) -> None:
    node = new_node(containerd.address, "none")
    node.socket.write_text("precious")
    code, why = node.start_expecting_refusal()
    assert code == 1
    assert str(node.socket) in why
    assert node.socket.read_text() == "precious"


def test_a_port_that_is_in_use(containerd: Containerd, new_node: NewNode) -> None:
    node = new_node(containerd.address, "none")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", node.metrics_port))
        taken.listen()
        code, why = node.start_expecting_refusal()
    assert code == 1
    assert f"127.0.0.1:{node.metrics_port}" in why
    assert "metrics_addr" in why


def test_a_log_damaged_in_the_middle_refuses_to_start(node: WarrenNode) -> None:
    for number in range(20):
        create(node, f"s{number}")
    node.stop()
    dumped = node.ctl("debug", "wal", "dump", str(node.data_dir), "--payload", "--format=json")
    frames = [msgspec.json.decode(line) for line in dumped.splitlines()]
    (frame,) = (f for f in frames if b"s10".hex() in (f["payload"] or ""))
    segment = node.data_dir / "raft" / "wal" / frame["file"]
    good = segment.read_bytes()
    offset = frame["offset"] + 40
    segment.write_bytes(good[:offset] + bytes([good[offset] ^ 1]) + good[offset + 1 :])
    code, why = node.start_expecting_refusal()
    assert code == 1
    assert segment.name in why
    assert "at byte" in why
    assert "Traceback" not in why
    segment.write_bytes(good)
    node.up()
    assert len(names(node)) == 20
    remove_all(node)


# -- the process -------------------------------------------------------------------------------


def test_sigterm_ends_it_within_5_seconds_and_leaves_containers(
    node: WarrenNode, containerd: Containerd
) -> None:
    node.ctl("service", "create", "web", f"--image={IMAGE}", *FOREVER)
    before = runtime_tasks(containerd.address, node.namespace)
    assert node.stop(timeout_s=5) == 0
    assert runtime_tasks(containerd.address, node.namespace) == before
    node.up()
    assert runtime_tasks(containerd.address, node.namespace) == before
    node.ctl("service", "rm", "web")


def test_a_container_that_ends_while_the_daemon_is_down(
    node: WarrenNode, containerd: Containerd
) -> None:
    node.ctl("service", "create", "web", f"--image={IMAGE}", "--restart=none", *FOREVER)
    (pid,) = runtime_tasks(containerd.address, node.namespace).values()
    node.kill()
    os.kill(pid, signal.SIGKILL)
    node.up()
    slot = eventually(
        lambda: (s := slot_of(node, "web")) and s["state"] == "failed" and s, "its end is known"
    )
    assert slot["exit_code"] == 137
    node.ctl("service", "rm", "web")


def test_an_acknowledged_service_survives_kill_9(node: WarrenNode) -> None:
    acknowledged = set()
    for number in range(5):
        create(node, f"s{number}")
        acknowledged.add(f"s{number}")
        node.kill()
        node.up()
        assert names(node) == acknowledged
    remove_all(node)

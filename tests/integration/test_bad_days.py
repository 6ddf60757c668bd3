"""What can go wrong on a host. Every case ends with the daemon at work again and nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd, runtime_tasks
from tests.support.node import WarrenNode, eventually

IMAGE = "docker.io/library/tiny:1"


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
    waits = [
        int(line.split('"backoff_ms":')[1].split(",")[0].rstrip("}"))
        for line in node.log().splitlines()
        if '"backoff_ms":' in line
    ]
    assert waits[:3] == [1000, 2000, 4000]
    node.ctl("service", "rm", "brief")


def test_restart_none_and_on_failure_leave_what_is_done(node: WarrenNode) -> None:
    for policy, command, state in (
        ("none", "false", "failed"),
        ("none", "true", "complete"),
        ("on-failure", "true", "complete"),
    ):
        node.ctl(
            "service", "create", "once", f"--image={IMAGE}", f"--restart={policy}", "--detach",
            "--", command,
        )
        eventually(lambda: slot_of(node, "once")["state"] == state, f"{policy} {command}: {state}")  # noqa: B023
        assert slot_of(node, "once")["attempt"] == 1
        node.ctl("service", "rm", "once")


def test_a_command_that_is_not_in_the_image(node: WarrenNode) -> None:
    node.ctl("service", "create", "lost", f"--image={IMAGE}", "--detach", "--", "/no/such")
    reason = eventually(
        lambda: "/no/such" in str(slot_of(node, "lost")["reason"]) and slot_of(node, "lost")["reason"],
        "the reason names the command",
    )
    assert "Traceback" not in str(reason)
    node.ctl("service", "rm", "lost")


def test_a_container_out_of_memory_says_so(node: WarrenNode) -> None:
    node.ctl(
        "service", "create", "glutton", f"--image={IMAGE}", "--memory=16m", "--restart=none",
        "--detach", "--", "sh", "-c", "x=a; while true; do x=$x$x; done",
    )
    slot = eventually(
        lambda: (s := slot_of(node, "glutton")) and s["state"] == "failed" and s, "it fails"
    )
    assert slot["oom_killed"] is True
    assert "memory" in str(slot["reason"])
    node.ctl("service", "rm", "glutton")


# -- containerd ------------------------------------------------------------------------------


def test_containerd_stops_and_comes_back(own_containerd: Containerd, tiny_image: Path) -> None:
    node = WarrenNode(own_containerd.address, own_containerd.new_namespace())
    own_containerd.stop()
    node.start()
    node.ctl("cluster", "init", "--detach")
    status, body = node.http("/ready")
    assert status == 503
    assert "containerd" in body

    own_containerd.start()
    node.wait_ready(timeout_s=10)
    node.ctl("image", "load", "-i", str(tiny_image))
    node.ctl("service", "create", "web", f"--image={IMAGE}", "--", "sleep", "100000")
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


# -- the data directory ------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 48 MiB of its own."""
    root = Path(tempfile.mkdtemp(prefix="wd"))
    mount = root / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)
    shutil.rmtree(root)


def test_a_full_disk_refuses_writes_stays_up_and_recovers(
    containerd: Containerd, tiny_image: Path, small_disk: Path
) -> None:
    node = WarrenNode(containerd.address, containerd.new_namespace(), small_disk)
    node.log_path = Path(tempfile.mkdtemp(prefix="wl")) / "warrend.log"
    node.env["WARREN_WAL_SEGMENT_BYTES"] = str(1 << 20)
    node.up()
    node.ctl("image", "load", "-i", str(tiny_image))
    node.ctl("service", "create", "keep", f"--image={IMAGE}", "--", "sleep", "100000")
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(small_disk)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)

    def refused() -> str:
        label = "x" * 60_000
        done = node.run("service", "update", "keep", f"--env=A={label}", "--detach")
        return done.stderr if done.returncode == 1 and "space" in done.stderr else ""

    why = eventually(refused, "writes are refused when the log cannot grow", 60, pause_s=0)
    assert str(small_disk) in why
    assert node.alive()
    assert node.json("service", "ls")[0]["name"] == "keep"
    assert node.http("/ready")[0] == 503

    ballast.unlink()
    eventually(
        lambda: node.run("service", "scale", "keep=2", "--detach").returncode == 0,
        "writes resume when there is room",
    )
    eventually(lambda: node.http("/ready")[0] == 200, "/ready follows")
    node.ctl("service", "rm", "keep")
    node.stop()
    containerd.assert_nothing_left(node.namespace)


def test_a_data_directory_that_cannot_be_written(containerd: Containerd, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    node = WarrenNode(containerd.address, "none")
    node.data_dir = small_disk / "data"
    code, why = node.start_expecting_refusal()
    assert code == 1
    assert str(node.data_dir) in why
    assert "Traceback" not in why


def test_a_data_directory_that_is_in_use(node: WarrenNode) -> None:
    other = WarrenNode(node.containerd_address, node.namespace)
    other.data_dir = node.data_dir
    code, why = other.start_expecting_refusal()
    assert code == 1
    assert str(node.pid) in why
    assert node.json("cluster", "info")["id"]


def test_a_socket_that_is_in_use(node: WarrenNode) -> None:
    other = WarrenNode(node.containerd_address, "none")
    other.socket = node.socket
    code, why = other.start_expecting_refusal()
    assert code == 1
    assert str(node.socket) in why
    assert node.json("cluster", "info")["id"]


def test_a_file_in_the_socket_s_place_is_not_removed(containerd: Containerd) -> None:
    node = WarrenNode(containerd.address, "none")
    node.socket.write_text("precious")
    code, why = node.start_expecting_refusal()
    assert code == 1
    assert str(node.socket) in why
    assert node.socket.read_text() == "precious"


def test_a_port_that_is_in_use(containerd: Containerd) -> None:
    node = WarrenNode(containerd.address, "none")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", node.metrics_port))
        taken.listen()
        code, why = node.start_expecting_refusal()
    assert code == 1
    assert f"127.0.0.1:{node.metrics_port}" in why
    assert "metrics_addr" in why


def test_a_log_damaged_in_the_middle_refuses_to_start(node: WarrenNode) -> None:
    for number in range(20):
        node.ctl("service", "create", f"s{number}", f"--image={IMAGE}", "--replicas=0")
    node.stop()
    segment = min((node.data_dir / "raft" / "wal").glob("*.wal"))
    good = segment.read_bytes()
    offset = good.index(b"s10")
    segment.write_bytes(good[:offset] + b"S" + good[offset + 1 :])
    code, why = node.start_expecting_refusal()
    assert code == 1
    assert segment.name in why
    assert "at byte" in why
    assert "Traceback" not in why
    segment.write_bytes(good)
    node.up()
    assert len(node.json("service", "ls")) == 20
    for number in range(20):
        node.ctl("service", "rm", f"s{number}")


# -- the process -------------------------------------------------------------------------------


def test_sigterm_ends_it_within_5_seconds_and_leaves_containers(
    node: WarrenNode, containerd: Containerd
) -> None:
    node.ctl("service", "create", "web", f"--image={IMAGE}", "--", "sleep", "100000")
    before = runtime_tasks(containerd.address, node.namespace)
    assert node.stop(timeout_s=5) == 0
    assert runtime_tasks(containerd.address, node.namespace) == before
    node.up()
    assert runtime_tasks(containerd.address, node.namespace) == before
    node.ctl("service", "rm", "web")


def test_a_container_that_ends_while_the_daemon_is_down(
    node: WarrenNode, containerd: Containerd
) -> None:
    node.ctl(
        "service", "create", "web", f"--image={IMAGE}", "--restart=none", "--", "sleep", "100000"
    )
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
    for number in range(10):
        node.ctl("service", "create", f"s{number}", f"--image={IMAGE}", "--replicas=0", "--detach")
        node.kill()
        node.up()
    assert sorted(s["name"] for s in node.json("service", "ls")) == [f"s{n}" for n in range(10)]
    for number in range(10):
        node.ctl("service", "rm", f"s{number}")

"""`/ready` and `/health` tell the truth a second after it has changed (containerd: two seconds).

Each case looks once, a second after the fault and not sooner, and once a second after its end.
Meanwhile somebody else asks all the time, as load balancers do.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from tests.support.containerd import Containerd
from tests.support.disk import fill, write_much
from tests.support.hosts import Host, leader_of, three_managers
from tests.support.node import FOREVER, WarrenNode, eventually
from tests.support.strace import injected
from warren.cli.exits import EXIT_ATTENTION
from warren.pb.v1 import api_pb2

Made = Callable[..., Host]

TRUTH_S = 1.0
CONTAINERD_TRUTH_S = 2.0
PROBE_PAUSE_S = 0.2
PROBE_TIMEOUT_S = 0.5
WATCHDOG_S = 1.0

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace to hold a daemon up"
)


@contextmanager
def probed(node: WarrenNode) -> Iterator[None]:
    """Meanwhile somebody asks again and again, whatever the answers are."""
    enough = threading.Event()

    def ask() -> None:
        while not enough.wait(PROBE_PAUSE_S):
            with suppress(OSError):
                node.http("/ready", PROBE_TIMEOUT_S)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        enough.set()
        asking.join()


def told_after(seconds: float, since_s: float, node: WarrenNode) -> tuple[int, int, str]:
    """What is said that long after `since_s`: both statuses, and the reason of `/ready`."""
    time.sleep(max(0.0, since_s + seconds - time.monotonic()))
    (ready, body), (health, _) = node.http("/ready"), node.http("/health")
    return ready, health, json.loads(body).get("message", "")


def create(node: WarrenNode, name: str) -> None:
    """A service without containers. Raises grpc.RpcError."""
    request = api_pb2.CreateServiceRequest()
    request.spec.name = name
    request.spec.container.image = "tiny:1"
    with node.api() as api:
        api.CreateService(request, timeout=30)


@needs_strace
def test_a_stalled_disk(node: WarrenNode) -> None:
    with probed(node):
        with injected(node.pid, "fdatasync", "delay_enter=5s"):
            writing = threading.Thread(target=create, args=(node, "stalled"))
            began_s = time.monotonic()
            writing.start()
            ready, health, why = told_after(TRUTH_S, began_s, node)
            assert (ready, health) == (503, 503)
            assert "disk has not answered" in why
            writing.join()
        told = told_after(TRUTH_S, time.monotonic(), node)
    assert told == (200, 200, "")


def test_a_dead_containerd(own_containerd: Containerd) -> None:
    node = WarrenNode(own_containerd.address, own_containerd.new_namespace())
    try:
        node.up()
        with probed(node):
            own_containerd.stop()
            ready, health, why = told_after(CONTAINERD_TRUTH_S, time.monotonic(), node)
            assert (ready, health) == (503, 503)
            assert "containerd" in why
            status = node.run("cluster", "status")
            assert status.returncode == EXIT_ATTENTION
            assert "is not ready: waiting for containerd" in status.stdout
            own_containerd.start()
            assert told_after(CONTAINERD_TRUTH_S, time.monotonic(), node) == (200, 200, "")
    finally:
        node.discard()


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_lost_quorum(hosts: Made, who: str) -> None:
    managers = three_managers(hosts)
    leader = leader_of(managers)
    for host in managers:
        host.wait_ready()
    left = leader if who == "leader" else next(host for host in managers if host is not leader)
    lost = [host for host in managers if host is not left]
    with probed(left):
        for host in lost:
            host.kill()
        ready, health, why = told_after(TRUTH_S, time.monotonic(), left)
        assert (ready, health) == (503, 503)
        assert "no leader" in why
        for host in lost:
            host.start()
        eventually(lambda: leader_of(managers), "somebody leads")
        assert told_after(TRUTH_S, time.monotonic(), left)[:2] == (200, 200)


def test_a_full_disk(containerd: Containerd, small_disk: Path, tiny_image: Path) -> None:
    node = WarrenNode(containerd.address, containerd.new_namespace(), small_disk)
    node.log_path = small_disk.parent / "warrend.log"
    node.env["WARREN_WAL_SEGMENT_BYTES"] = str(1 << 20)
    try:
        node.up()
        node.ctl("image", "load", "-i", str(tiny_image))
        with probed(node):
            ballast = fill(small_disk)
            with pytest.raises(grpc.RpcError, match="no space"):
                write_much(node)
            ready, health, why = told_after(0, time.monotonic(), node)
            assert (ready, health) == (503, 503), "a write was refused: it is known at once"
            assert "no space" in why
            ballast.unlink()
            assert told_after(TRUTH_S, time.monotonic(), node) == (200, 200, "")
    finally:
        node.discard()


# -- the worker's store ------------------------------------------------------------------------


def worker_of(one: Host, hosts: Made, image: Path, data_dir: Path | None = None) -> Host:
    """Another host, which the founder's cluster gives all containers of `image`."""
    worker = hosts(2, manager=False, started=False)
    if data_dir is not None:
        worker.data_dir = data_dir
    worker.start()
    one.call("InitCluster", api_pb2.InitClusterRequest())
    worker.join(one.api, manager=False)
    worker.wait_ready()
    worker.ctl("image", "load", "-i", str(image))
    return worker


def run_one(manager: WarrenNode, name: str) -> None:
    """A service of one container, with which its worker has something to keep."""
    manager.ctl("service", "create", name, "--image=tiny:1", "--replicas=1", "--detach", *FOREVER)


def told_of_the_store(worker: WarrenNode) -> str:
    """What `/ready`, `/health` and `/metrics` say of it, once they agree that it fails."""
    (ready, body), (health, _) = worker.http("/ready"), worker.http("/health")
    if (ready, health) != (503, 503) or worker.metric("warren_worker_store_failing") != 1:
        return ""
    why: str = json.loads(body)["message"]
    return why


@needs_strace
def test_a_workers_stalled_disk(hosts: Made, tiny_image: Path) -> None:
    one = hosts(1)
    worker = worker_of(one, hosts, tiny_image)
    with probed(worker):
        with injected(worker.pid, "fsync,fdatasync", "delay_enter=8s"):
            run_one(one, "stalled")
            why = eventually(
                lambda: told_of_the_store(worker), "it is told before the disk answers", 6
            )
            assert "session (the disk of the worker's store has not answered" in why
        eventually(lambda: worker.metric("warren_worker_store_failing") == 0, "the disk is back")
        assert told_after(0, time.monotonic(), worker) == (200, 200, "")


@needs_strace
def test_a_stalled_store_of_a_host_that_is_both(node: WarrenNode) -> None:
    files = [node.data_dir / "worker.db", node.data_dir / "worker.db-wal"]
    with probed(node):
        with injected(node.pid, "fsync,fdatasync", "delay_enter=8s", *files):
            run_one(node, "stalled")
            why = eventually(
                lambda: told_of_the_store(node), "it is told before the disk answers", 6
            )
            assert "raft (the disk of the worker's store has not answered" in why
        eventually(lambda: node.metric("warren_worker_store_failing") == 0, "the disk is back")
        assert told_after(0, time.monotonic(), node) == (200, 200, "")


def test_a_workers_full_disk(hosts: Made, small_disk: Path, tiny_image: Path) -> None:
    one = hosts(1)
    worker = worker_of(one, hosts, tiny_image, small_disk / "data")
    with probed(worker):
        ballast = fill(small_disk)
        run_one(one, "refused")
        why = eventually(lambda: told_of_the_store(worker), "a refused write is told")
        assert "session (cannot write the worker's store" in why
        ballast.unlink()
        assert told_after(TRUTH_S, time.monotonic(), worker) == (200, 200, "")


# -- a daemon that does not answer -------------------------------------------------------------


class ServiceManager:
    """systemd's side of sd_notify(3), for one daemon that has yet to be started."""

    def __init__(self, node: WarrenNode) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = node.root / "notify"
        self._socket.bind(str(path))
        node.env |= {
            "NOTIFY_SOCKET": str(path),
            "WATCHDOG_USEC": str(round(WATCHDOG_S * 1_000_000)),
        }

    def hears_within(self, seconds: float) -> bool:
        """Whether the daemon says in that time that it lives, what it said before apart."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            with suppress(TimeoutError):
                if self._socket.recv(4096) == b"WATCHDOG=1":
                    return True
        return False

    def close(self) -> None:
        self._socket.close()


@contextmanager
def stopped(node: WarrenNode) -> Iterator[None]:
    """The whole process, as a host that is paused."""
    os.kill(node.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


@contextmanager
def blocked(node: WarrenNode) -> Iterator[None]:
    """The event loop alone: its thread does not come back from the system, all others run."""
    calls = "epoll_wait,epoll_pwait"
    tracer = subprocess.Popen(
        ["strace", "-p", str(node.pid), "-o", "/dev/null",
         "-e", f"trace={calls}", "-e", f"inject={calls}:delay_exit=60s"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        status = Path(f"/proc/{node.pid}/task/{node.pid}/status")
        eventually(lambda: f"TracerPid:\t{tracer.pid}" in status.read_text(), "it is traced")
        yield
    finally:
        tracer.kill()
        tracer.wait(10)


_HOLDER = """
import ctypes, os, threading

def hold():
    pipe = os.open({path!r}, os.O_RDWR)
    while os.read(pipe, 1):
        # A PyDLL, other than a CDLL, keeps the interpreter lock during the call.
        ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)

threading.Thread(target=hold, daemon=True).start()
"""


def holdable(node: WarrenNode) -> None:
    """A daemon yet to be started gets a thread that takes the interpreter lock when told to."""
    os.mkfifo(path := node.root / "hold")
    (node.root / "sitecustomize.py").write_text(_HOLDER.format(path=str(path)))
    node.env["PYTHONPATH"] = str(node.root)


@contextmanager
def held(node: WarrenNode) -> Iterator[None]:
    """Whatever needs the interpreter lock, in all threads; the core's go on."""
    pipe = os.open(node.root / "hold", os.O_WRONLY)
    os.write(pipe, b"1")
    try:
        yield
    finally:
        os.write(pipe, b"2")
        os.close(pipe)


@pytest.mark.parametrize("held_up", [stopped, pytest.param(blocked, marks=needs_strace), held])
def test_a_daemon_that_is_held_up(
    containerd: Containerd, held_up: Callable[[WarrenNode], Iterator[None]]
) -> None:
    """A probe gets no answer, the watchdog hears nothing; afterwards both are as before."""
    node = WarrenNode(containerd.address, containerd.new_namespace())
    manager = ServiceManager(node)
    holdable(node)
    try:
        node.up()
        assert manager.hears_within(WATCHDOG_S)
        with held_up(node):
            for path in ("/live", "/ready", "/health"):
                with pytest.raises(TimeoutError):
                    node.http(path, TRUTH_S)
            assert not manager.hears_within(2 * WATCHDOG_S), "systemd would start it again"
        assert told_after(TRUTH_S, time.monotonic(), node) == (200, 200, "")
        assert manager.hears_within(WATCHDOG_S)
    finally:
        manager.close()
        node.discard()

"""The daemon as a process, before it belongs to a cluster and without containerd."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from warren import rpc
from warren.pb.v1 import api_pb2, node_pb2

DEADLINE_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Daemon:
    def __init__(self, directory: Path, port: int, **env: str) -> None:
        self.socket = directory / "s"
        self.port = port
        self.log = directory / f"log-{time.monotonic_ns()}"
        flags = {
            "--data-dir": directory / "data",
            "--socket": self.socket,
            "--metrics-addr": f"127.0.0.1:{port}",
            "--containerd-address": directory / "no-containerd",
            "--log-format": "json",
            "--node-name": "n1",
        }
        arguments = [f"{flag}={value}" for flag, value in flags.items()]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / "warrend"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "WARREN_CONFIG": str(directory / "warrend.toml"),
                    **env,
                },
            )

    def text(self) -> str:
        return self.log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def started(self) -> Daemon:
        until(lambda: self.process.poll() is not None or "serving" in self.text())
        assert self.process.poll() is None, self.text()
        return self

    def refused(self) -> str:
        assert self.process.wait(DEADLINE_S) == 1
        assert "Traceback" not in self.text()
        return self.text()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def until(probe: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "warrend.toml").write_text('log_level = "info"\n')
    return tmp_path


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(DEADLINE_S)
        listening.bind(f"{tmp_path}/n")
        yield listening


@pytest.fixture
def daemon(directory: Path, notify: socket.socket) -> Iterator[Daemon]:
    daemon = Daemon(
        directory, free_port(), NOTIFY_SOCKET=str(notify.getsockname()), WATCHDOG_USEC="1000000"
    )
    yield daemon.started()
    daemon.stop()


def test_from_ready_to_stopping(daemon: Daemon, notify: socket.socket) -> None:
    first = notify.recv(4096).decode()
    assert first.startswith("READY=1\nSTATUS=")
    assert "warrenctl cluster init" in first
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660

    code, body = daemon.get("/ready")
    assert code == 503
    assert "warrenctl cluster init" in json.loads(body)["message"]
    assert daemon.get("/live")[0] == 200
    assert (
        'warren_api_requests_total{method="CreateService",status="error"} 0'
        in (daemon.get("/metrics")[1])
    )
    until(lambda: notify.recv(4096) == b"WATCHDOG=1")

    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    until(lambda: notify.recv(4096).startswith(b"STOPPING=1"))
    assert "containers keep running" in daemon.text()
    assert "Traceback" not in daemon.text()


def test_it_answers_while_it_waits_for_a_cluster(daemon: Daemon) -> None:
    with grpc.insecure_channel(f"unix:{daemon.socket}", options=rpc.CLIENT_OPTIONS) as channel:
        node = rpc.Stub(channel, rpc.NODE_LOCAL)
        answer = node.GetDaemon(node_pb2.GetDaemonRequest(), timeout=5)
        assert answer.node_name == "n1"
        assert not answer.in_cluster
        assert "cluster init" in answer.ready_message
        with pytest.raises(grpc.RpcError) as caught:
            rpc.Stub(channel, rpc.MANAGER).ListNodes(api_pb2.ListNodesRequest(), timeout=5)
        assert rpc.failure(caught.value).code == "not_in_cluster"


def test_a_second_one_is_refused_whatever_they_share(daemon: Daemon, directory: Path) -> None:
    same = Daemon(directory, free_port()).refused()
    assert f"in use by another warrend (pid {daemon.process.pid})" in same

    other = directory / "other"
    other.mkdir()
    (other / "warrend.toml").write_text("")
    taken = Daemon(other, daemon.port).refused()
    assert f"127.0.0.1:{daemon.port}" in taken
    assert "metrics_addr" in taken

    (other / "s").symlink_to(daemon.socket)
    assert "is no socket" in Daemon(other, free_port()).refused()
    assert daemon.get("/live")[0] == 200


def test_killed_and_started_again_it_takes_its_own_socket(directory: Path) -> None:
    first = Daemon(directory, free_port()).started()
    first.process.kill()
    first.process.wait(DEADLINE_S)
    assert first.socket.exists()
    second = Daemon(directory, free_port()).started()
    assert second.stop() == 0


def test_sighup_reads_the_log_level_again(daemon: Daemon, directory: Path) -> None:
    (directory / "warrend.toml").write_text('log_level = "debug"\n')
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "log level is debug" in daemon.text())
    (directory / "warrend.toml").write_text('log_level = "loud"\n')
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "configuration not read again" in daemon.text())
    assert daemon.process.poll() is None

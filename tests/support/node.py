"""One real `warrend` for tests: started as a process, driven through `warrenctl`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc

from warren import rpc

T = TypeVar("T")

BIN = Path(sys.executable).parent
FOREVER = ("--stop-timeout=50ms", "--", "sleep", "100000")
"""For `service create`: runs until it is told to stop; as process 1 it heeds SIGKILL only."""


def eventually(
    probe: Callable[[], T], what: str, timeout_s: float = 30, pause_s: float = 0.05
) -> T:
    """The first truthy answer of `probe`; AssertionError naming `what` after `timeout_s`.

    An exception of the probe counts as "not yet" and is shown if time runs out.
    """
    deadline = time.monotonic() + timeout_s
    last: object = None
    while True:
        try:
            answer = probe()
            if answer:
                return answer
            last = answer
        except Exception as error:  # the probe's own trouble is its answer
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}; last seen: {last!r}")
        time.sleep(pause_s)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class WarrenNode:
    """A daemon with its own data directory, socket, port and containerd namespace.

    Paths are kept short: a Unix socket's path ends at 107 bytes.
    """

    def __init__(
        self,
        containerd_address: str,
        namespace: str,
        root: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.root = root or Path(tempfile.mkdtemp(prefix="wn"))
        self.data_dir = self.root / "data"
        self.socket = self.root / "w.sock"
        self.metrics_port = free_port()
        self.containerd_address = containerd_address
        self.namespace = namespace
        self.env = env or {}
        self.wrapper: list[str] = []  # a program that execs the daemon, with its arguments
        self.log_path = self.root / "warrend.log"
        self.process: subprocess.Popen[bytes] | None = None

    # -- the process ---------------------------------------------------------------------------

    def flags(self) -> list[str]:
        return [
            f"--data-dir={self.data_dir}",
            f"--socket={self.socket}",
            f"--metrics-addr=127.0.0.1:{self.metrics_port}",
            f"--containerd-address={self.containerd_address}",
            f"--containerd-namespace={self.namespace}",
            "--node-name=node-1",
            "--log-level=debug",
        ]

    def spawn(self, *more: str) -> subprocess.Popen[bytes]:
        """Start the daemon without waiting for anything."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, str(BIN / "warrend"), *self.flags(), *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.env},
                start_new_session=True,
            )
        return self.process

    def start(self, *more: str, timeout_s: float = 20) -> None:
        """Start the daemon and wait until it answers on its health port."""
        process = self.spawn(*more)

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError(f"warrend ended with {process.returncode}: {self.log()[-2000:]}")
            return self.http("/live")[0] == 200 and self.socket.exists()

        eventually(answers, "warrend answers on /live", timeout_s)

    def start_expecting_refusal(self, *more: str, timeout_s: float = 20) -> tuple[int, str]:
        """Start a daemon that must refuse to run; its exit code and what it wrote."""
        done = subprocess.run(
            [str(BIN / "warrend"), *self.flags(), *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self.env},
            timeout=timeout_s,
            check=False,
        )
        return done.returncode, done.stdout.decode()

    def up(self, *more: str) -> None:
        """Start, make a cluster if there is none, and wait until everything is ready."""
        self.start(*more)
        if not (self.data_dir / "raft" / "wal").exists():
            self.ctl("cluster", "init")
        self.wait_ready()

    def wait_ready(self, timeout_s: float = 20) -> None:
        eventually(lambda: self.http("/ready")[0] == 200, "/ready answers 200", timeout_s)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9, as a power cut would be to the process."""
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait(10)

    def stop(self, timeout_s: float = 10) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """Remove every service and stop: what is left after it is a leak."""
        if not self.alive():
            self.up()
        for service in self.json("service", "ls"):
            self.run("service", "rm", service["name"])
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def discard(self) -> None:
        """End the process, if it still runs, and remove its files: a failed test leaves nothing."""
        self.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # -- its edges -----------------------------------------------------------------------------

    def run(
        self, *args: str, timeout_s: float = 90, data: bytes | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`warrenctl ARGS`, whatever it answers."""
        return subprocess.run(
            [str(BIN / "warrenctl"), f"--host=unix://{self.socket}", *args],
            input=data.decode("latin-1") if data is not None else None,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )

    def ctl(self, *args: str, timeout_s: float = 90) -> str:
        """`warrenctl ARGS`, which must succeed; what it printed."""
        done = self.run(*args, timeout_s=timeout_s)
        assert done.returncode == 0, (
            f"warrenctl {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def refused(self, *args: str, timeout_s: float = 90) -> tuple[int, str]:
        """`warrenctl ARGS`, which must fail with a readable sentence; exit code, standard error."""
        done = self.run(*args, timeout_s=timeout_s)
        assert done.returncode != 0, f"warrenctl {' '.join(args)} succeeded: {done.stdout}"
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stderr.strip(), "a refusal without a word"
        return done.returncode, done.stderr

    def json(self, *args: str) -> Any:
        return json.loads(self.ctl(*args, "--format=json"))

    @contextmanager
    def api(self, methods: Mapping[str, rpc.Method] = rpc.MANAGER) -> Iterator[Any]:
        """The API itself, without what the start of `warrenctl` costs: many calls, quickly."""
        with grpc.insecure_channel(f"unix:{self.socket}", options=rpc.CLIENT_OPTIONS) as channel:
            yield rpc.Stub(channel, methods)

    def http(self, path: str, timeout_s: float = 5) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.metrics_port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=timeout_s) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str) -> float:
        """The value of one sample, labels included in `name`; KeyError if it is not exported."""
        for line in self.http("/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise KeyError(name)

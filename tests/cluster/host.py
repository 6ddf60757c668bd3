"""One host of a test cluster: a network namespace, a directory, and the `warrend` in them."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.cluster import network, simulated
from tests.cluster.certificates import Files
from tests.cluster.disk import SmallDisk
from tests.cluster.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
API_PORT: Final = 2377
PEER_PORT: Final = 2378
METRICS_PORT: Final = 9090
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
COMMAND_TIMEOUT_S: Final = 90.0
HTTP_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True)
class Place:
    """Where a host is and what it stands on."""

    name: str
    node_id: str
    folder: Path
    namespace: str
    address: str
    files: Files
    #: None: containers are simulated.
    containerd_address: str | None
    disk: SmallDisk | None = None


class Host:
    """Its daemon is killed, stopped, paused and started here; its containers are looked at."""

    def __init__(self, place: Place, segment_bytes: int) -> None:
        self.place = place
        self.name = place.name
        self.node_id = place.node_id
        self.data_dir = place.folder / "data"
        self.socket = place.folder / "w.sock"
        self.log_path = place.folder / "warrend.log"
        self.api_address = f"{place.address}:{API_PORT}"
        self.paused = False
        #: For variables of the daemon's environment.
        self.env: dict[str, str] = {}
        #: The tree of the release that its next daemon is of; see `release`.
        self.tree = ROOT
        self._simulated = place.folder / "simulated"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = place.folder / "warrend.toml"
        if not self._config.exists():
            self._write_config(segment_bytes)
        if place.containerd_address is None:
            self._simulated.mkdir(exist_ok=True)

    def _write_config(self, segment_bytes: int) -> None:
        place, files = self.place, self.place.files
        keys: dict[str, Any] = {
            "data_dir": str(self.data_dir),
            "socket": str(self.socket),
            "node_name": self.name,
            "listen_addr": self.api_address,
            "advertise_addr": self.api_address,
            "peer_addr": f"{place.address}:{PEER_PORT}",
            "metrics_addr": f"127.0.0.1:{METRICS_PORT}",
            "tls_ca": str(files.ca),
            "tls_cert": str(files.cert),
            "tls_key": str(files.key),
            "log_level": "debug",
            "log_format": "json",
            "wal_segment_bytes": segment_bytes,
            "containerd_address": place.containerd_address or "/nonexistent/containerd.sock",
            "containerd_namespace": place.namespace,
        }

        lines = (f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        self._config.write_text("".join(lines))

    # The process

    @property
    def pid(self) -> int:
        """Of the daemon that runs or ran last."""
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Its daemon runs, if only paused."""
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """What starts its daemon: the installed program, or the one with simulated containers."""
        program = [sys.executable, "-m", "warren.daemon"]
        if self.tree == ROOT:
            program = [str(BIN / "warrend")]
        if self.place.containerd_address is None:
            program = [sys.executable, "-m", "tests.cluster.daemon", str(self.place.folder)]
        return [*network.inside(self.place.namespace), *program, "--config", str(self._config)]

    def spawn(self) -> None:
        """Starts its daemon and waits for nothing."""
        assert not self.alive, f"{self.name} runs already"
        self.paused = False
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.tree,
                env={**os.environ, **self._of_release(), **self.env},
                start_new_session=True,
            )

    def _of_release(self) -> dict[str, str]:
        return {} if self.tree == ROOT else {"PYTHONPATH": str(self.tree / "python")}

    async def start(self) -> None:
        """Starts its daemon and waits until it answers on its socket and its health port."""
        self.spawn()
        await self.wait_live()

    async def wait_live(self) -> None:
        """Until /live answers; AssertionError with its last words if it ended instead."""

        async def answers() -> bool:
            if not self.alive:
                raise HostEndedError(f"{self.name} ended: {self.tail(15)}")
            return self.socket.exists() and (await self.http("/live"))[0] == 200

        await wait_until(answers, f"{self.name} answers on /live", START_TIMEOUT_S)

    def kill(self) -> None:
        """kill -9, whatever state it is in; its containers go on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_TIMEOUT_S)
        self.paused = False

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self.resume()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_TIMEOUT_S)

    def pause(self) -> None:
        """SIGSTOP: its clock goes on, it does not."""
        os.kill(self.pid, signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        """SIGCONT."""
        if self.alive:
            os.kill(self.pid, signal.SIGCONT)
        self.paused = False

    def log(self) -> str:
        """Everything that its daemons wrote."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def tail(self, lines: int) -> str:
        """The end of that."""
        return "\n".join(self.log().splitlines()[-lines:])

    # Its edges

    async def http(self, path: str) -> tuple[int, str]:
        """Status and body of its HTTP endpoint; 0 while nothing answers."""
        return await asyncio.to_thread(self._get, path)

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", METRICS_PORT, timeout=HTTP_TIMEOUT_S)
        try:
            connection.sock = network.tcp_socket(self.place.namespace)
            connection.sock.settimeout(HTTP_TIMEOUT_S)
            connection.sock.connect(("127.0.0.1", METRICS_PORT))
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            connection.close()

    async def metrics(self) -> dict[str, float]:
        """Its samples by name, labels included; empty while it does not answer."""
        status, body = await self.http("/metrics")
        lines = body.splitlines() if status == 200 else []
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    async def ctl(self, *args: str) -> tuple[int, str, str]:
        """`warrenctl ARGS` on this host; exit code, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            *network.inside(self.place.namespace),
            str(BIN / "warrenctl"),
            f"--host=unix://{self.socket}",
            *args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "NO_COLOR": "1"},
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), COMMAND_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            raise
        return process.returncode or 0, out.decode(), err.decode()

    # Simulated containers

    def running(self) -> dict[str, int]:
        """The simulated containers that run here, whatever daemon knows: attempt by id."""
        kept = simulated.containers(self._simulated)
        return {one.id: one.attempt for one in kept if one.phase is simulated.Phase.RUNNING}

    def starts(self) -> list[simulated.Start]:
        """Every start of a simulated container here so far."""
        return simulated.starts(self._simulated)

    def tell(self, command: str) -> None:
        """Asks the test daemon for what cannot be done from outside: `block 10`, `end ID CODE`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as control:
            control.sendto(command.encode(), os.fspath(self.place.folder / "control"))


class HostEndedError(BaseException):
    """A daemon ended that should have come up: nothing that waits for it needs to wait longer."""

"""The manager of a simulated fleet: a real one, in a process and a directory of its own."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import grpc

from warren import rpc
from warren.errors import StartupError
from warren.pb.v1 import api_pb2

__all__ = ["Manager"]

START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 15.0
POLL_S: Final = 0.05
LOG_BYTES: Final = 4_000
_DAEMON: Final = "import sys; from warren.daemon import main; sys.exit(main(sys.argv[1:]))"


class Manager:
    """`warrend` with a cluster of its own. Use as `async with`; everything of it is removed."""

    def __init__(self) -> None:
        # Short: a Unix socket's path has at most 107 bytes.
        self._root = Path(tempfile.mkdtemp(prefix="warren-fleet-"))
        self._socket = self._root / "w.sock"
        self._log = self._root / "warrend.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def target(self) -> str:
        """For gRPC."""
        return f"unix:{self._socket}"

    async def __aenter__(self) -> Manager:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._root, ignore_errors=True)

    async def _start(self) -> None:
        nothing = self._root / "warrend.toml"
        nothing.touch()
        options = {
            "config": nothing,  # not that of this host
            "data-dir": self._root / "data",
            "socket": self._socket,
            "node-name": "manager",
            "metrics-addr": f"127.0.0.1:{_free_port()}",
            # There is none, so that nothing is placed on this host.
            "containerd-address": self._root / "no-containerd.sock",
        }
        command = [sys.executable, "-c", _DAEMON]
        command += [f"--{name}={value}" for name, value in options.items()]
        self._process = await asyncio.to_thread(self._spawn, command)
        async with grpc.aio.insecure_channel(self.target, options=rpc.CLIENT_OPTIONS) as channel:
            manager = rpc.Stub(channel, rpc.MANAGER)
            await self._answers(manager)
            await manager.InitCluster(api_pb2.InitClusterRequest(), timeout=START_TIMEOUT_S)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    async def _answers(self, manager: rpc.Stub) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > until:
                said = self._log.read_bytes()[-LOG_BYTES:].decode(errors="replace")
                raise StartupError(f"the manager of the fleet does not start:\n{said}")
            try:
                await manager.Ping(api_pb2.PingRequest(), timeout=1)
            except grpc.RpcError:
                await asyncio.sleep(POLL_S)
            else:
                return

    @property
    def pid(self) -> int:
        """While it runs."""
        assert self._process is not None
        return self._process.pid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

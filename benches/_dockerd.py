"""A dockerd of one's own: its process, its Engine API, and what it would leave behind."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.cluster.disk import unmount_below
from tests.support.node import eventually

START_TIMEOUT_S: Final = 60
END_TIMEOUT_S: Final = 60
CALL_TIMEOUT_S: Final = 60
LOG_TAIL_LINES: Final = 20
#: What it makes outside of its own directories whatever it is told; what is inside comes first.
_OUTSIDE: Final = ("/etc/docker/key.json", "/etc/docker", "/run/docker/plugins", "/run/docker")


def missing(*more: str) -> str | None:
    """Why Docker cannot be measured here, or nothing; `more`: programs needed besides dockerd."""
    absent = [name for name in ("dockerd", *more) if not shutil.which(name)]
    return f"not installed: {', '.join(absent)}" if absent else None


class RefusedError(RuntimeError):
    """The Engine API answered with an error."""


class Dockerd:
    """A daemon whose files are all in `root`; `inside`: what comes before its command."""

    def __init__(self, root: Path, *flags: str, inside: Sequence[str] = ()) -> None:
        self.root = root
        # Short: a Unix socket's path has at most 107 bytes.
        self.address = f"unix://{root}/d.sock"
        self._command = [
            *inside, "dockerd", "-H", self.address, "--data-root", f"{root}/data",
            "--exec-root", f"{root}/exec", "--pidfile", f"{root}/pid", *flags,
        ]  # fmt: skip
        self._log = root / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._connection = _UnixConnection(root / "d.sock")

    def start(self) -> None:
        """Starts its process, and does not wait for it: several come up at the same time."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        """Returns once it answers. Raises RuntimeError with the end of its log if it has ended."""
        process = self._process
        assert process is not None, "it was not started"
        eventually(
            lambda: process.poll() is not None or self.call("GET", "/_ping"),
            "dockerd answers",
            START_TIMEOUT_S,
        )
        if process.poll() is not None:
            raise RuntimeError(f"dockerd ended with {process.returncode}:\n{self.log_tail()}")

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One call of the Engine API, all on one connection; what it answered, or None.

        The path has no version: the daemon takes it as of its newest. Raises RefusedError, and
        OSError or HTTPException if there was no answer.
        """
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, path, content, headers)
            response = self._connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            # It connects again at the next call.
            self._connection.close()
            raise
        if response.status >= http.client.BAD_REQUEST:
            words = answer.decode(errors="replace").strip()
            raise RefusedError(f"{method} {path}: {response.status} {words}")
        if not answer:
            return None
        of_json = response.headers.get_content_type() == "application/json"
        return json.loads(answer) if of_json else answer.decode()

    def log_tail(self) -> str:
        """The end of what it has logged."""
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_TAIL_LINES:])

    def close(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends it by its process id, by force if that takes long, and removes its mounts."""
        self._connection.close()
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        unmount_below(self.root)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=CALL_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(CALL_TIMEOUT_S)
        try:
            made.connect(os.fspath(self._path))
        except BaseException:
            made.close()
            raise
        self.sock = made


@contextmanager
def nothing_outside(*network_devices: str) -> Iterator[None]:
    """Removes at the end what daemons made outside of their directories, if it was not there.

    `network_devices`: such as they make in this network namespace.
    """
    devices = [Path("/sys/class/net", name) for name in network_devices]
    files = [Path(name) for name in _OUTSIDE]
    before = {path for path in (*devices, *files) if path.exists()}
    try:
        yield
    finally:
        for path in devices:
            if path not in before and path.exists():
                subprocess.run(["ip", "link", "del", path.name], check=False)
        for path in files:
            if path not in before:
                _remove(path)


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink(missing_ok=True)
    elif not any(path.iterdir()):
        path.rmdir()

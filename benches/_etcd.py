"""Three members of etcd, the distribution's own, and a load on them through etcd's own client."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benches._common import ROOT
from benches._peer import free_port, workspace

SOURCE = ROOT / "benches" / "etcd_load"


def available() -> str | None:
    """Why etcd cannot be measured here, or nothing."""
    missing = [name for name in ("etcd", "etcdctl", "go") if not shutil.which(name)]
    return f"not installed: {', '.join(missing)}" if missing else None


class Etcd:
    """A running cluster."""

    def __init__(self, directory: Path, endpoints: list[str]) -> None:
        self._program = directory / "etcd_load"
        subprocess.run(["go", "build", "-o", self._program, "."], cwd=SOURCE, check=True)
        self._endpoints = endpoints
        self.version = self._ctl("version").splitlines()[0].split(": ")[1]

    def leader(self) -> str:
        """The endpoint of the member that leads, where a load is served fastest."""
        deadline = time.monotonic() + 60
        while True:
            try:
                found = json.loads(self._ctl("endpoint", "status", "--write-out=json"))
            except subprocess.CalledProcessError:
                found = []
            for member in found:
                status = member["Status"]
                if status["leader"] and status["leader"] == status["header"]["member_id"]:
                    return str(member["Endpoint"])
            if time.monotonic() > deadline:
                raise TimeoutError("etcd elected no leader within a minute")
            time.sleep(0.1)

    def load(self, count: int, callers: int, *options: str) -> dict[str, Any]:
        """As `load` of a Warren member, with values of 300 bytes."""
        done = subprocess.run(
            [str(self._program), f"-endpoints={self.leader()}", f"-count={count}",
             f"-callers={callers}", *options],
            check=True,
            capture_output=True,
            text=True,
            timeout=600,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _ctl(self, *words: str) -> str:
        done = subprocess.run(
            ["etcdctl", f"--endpoints={','.join(self._endpoints)}", *words],
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
            text=True,
            timeout=30,
        )
        return done.stdout


@contextmanager
def three_members() -> Iterator[Etcd]:
    """On the disk that is measured, with etcd's own settings but for names and addresses."""
    names = ["one", "two", "three"]
    ports = [(free_port(), free_port()) for _ in names]
    members = zip(names, ports, strict=True)
    cluster = ",".join(f"{name}=http://127.0.0.1:{peer}" for name, (_, peer) in members)
    processes = []
    with workspace() as directory:
        try:
            for name, (client, peer) in zip(names, ports, strict=True):
                log = (directory / f"{name}.log").open("wb")
                command = [
                    "etcd", f"--name={name}", f"--data-dir={directory / name}",
                    f"--listen-client-urls=http://127.0.0.1:{client}",
                    f"--advertise-client-urls=http://127.0.0.1:{client}",
                    f"--listen-peer-urls=http://127.0.0.1:{peer}",
                    f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                    f"--initial-cluster={cluster}",
                ]  # fmt: skip
                processes.append(subprocess.Popen(command, stdout=log, stderr=log))
                log.close()
            yield Etcd(directory, [f"http://127.0.0.1:{client}" for client, _ in ports])
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()

"""Processes that outlive the script that starts them: started once, found again, stopped.

A process is known by its id and its start time, so that an id which the kernel has given to someone
else since is never signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class RunError(Exception):
    """Something did not work; the message says what, and what to do about it."""


class Background:
    """One such process, kept in ``<folder>/<name>.pid``; its output goes to ``<name>.log``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._record = folder / f"{name}.pid"

    def pid(self) -> int | None:
        """Its process id, or None if it does not run."""
        try:
            known = json.loads(self._record.read_text())
        except (OSError, ValueError):
            return None
        pid = int(known["pid"])
        return pid if start_ticks(pid) == known["start_ticks"] else None

    def start(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Starts it in a session of its own, unless it runs already."""
        if self.pid() is not None:
            return
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(env),
                start_new_session=True,
            )
        record = {"pid": process.pid, "start_ticks": start_ticks(process.pid)}
        self._record.write_text(json.dumps(record))

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, and SIGKILL after ``timeout_s``; returns when it has ended."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            try:
                eventually(lambda: self.pid() is None, f"{self.name} to end", timeout_s)
            except RunError:
                os.kill(pid, signal.SIGKILL)
                eventually(lambda: self.pid() is None, f"{self.name} to be killed", 10)
        self._record.unlink(missing_ok=True)

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return f"({self.log} is not there)"


def start_ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot (proc(5)); None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name in parentheses may hold anything; what follows the last parenthesis does not.
    fields = stat.rpartition(b")")[2].split()
    state, start = fields[0], int(fields[19])
    return None if state == b"Z" else start


def eventually(holds: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Waits until ``holds()``; RunError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise RunError(f"waited {timeout_s:g} s for {what}, in vain")
        time.sleep(0.05)

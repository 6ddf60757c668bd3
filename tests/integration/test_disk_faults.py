"""A disk that fails at fsync, injected into the real daemon from outside with strace."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.node import WarrenNode, eventually
from tests.support.strace import tracer_of

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace to make the disk fail"
)


def fail_fdatasync(pid: int, log: Path, record: Path) -> subprocess.Popen[bytes]:
    """From now on every fdatasync of the process on its log fails, and is recorded."""
    process = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", str(record),
         *(f"-P{path}" for path in log.glob("*.wal")),
         "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    eventually(lambda: tracer_of(pid) == process.pid, "strace is attached")
    return process


def test_a_failed_fsync_ends_the_daemon_and_is_never_retried(
    node: WarrenNode, tmp_path: Path
) -> None:
    node.ctl("service", "create", "before", "--image=tiny:1", "--replicas=0")
    record = tmp_path / "strace"
    strace = fail_fdatasync(node.pid, node.data_dir / "raft" / "wal", record)
    done = node.run("service", "create", "during", "--image=tiny:1", "--replicas=0", "--timeout=5s")
    assert done.returncode != 0, "acknowledged although it was not durable"
    assert node.process is not None
    assert node.process.wait(20) != 0
    strace.wait(10)
    assert '"level":"fatal"' in node.log()
    assert "the kernel may have dropped the data" in node.log()
    assert record.read_text().count("(INJECTED)") == 1

    node.up()
    names = [service["name"] for service in node.json("service", "ls")]
    assert "before" in names

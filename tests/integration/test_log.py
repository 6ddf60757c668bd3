"""The log of a real daemon: its levels, one request's way, and entries in a real journald."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import FOREVER, WarrenNode, eventually

JOURNALD = Path("/usr/lib/systemd/systemd-journald")

# A journald of its own: its sockets and files are under /run, which is another here.
NAMESPACE = f"""
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal /run/log/journal
{JOURNALD} >/dev/null 2>&1 &
trap 'kill $!' EXIT
for _ in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
"$@" || exit 1
for _ in $(seq 100); do
    journalctl -D /run/log/journal/* -t warrend -o json --all -q >/run/found
    [ "$(wc -l </run/found)" -ge 3 ] && break
    sleep 0.1
done
cat /run/found
"""

# stderr is a stream to journald, as systemd makes it: identifier, unit, priority, and four flags.
SPEAKER = """
import os, socket
from warren.observe.logging import LogPipeline, get_logger

stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
stream.connect("/run/systemd/journal/stdout")
stream.sendall(b"warrend\\nwarrend.service\\n6\\n0\\n0\\n0\\n0\\n")
os.dup2(stream.fileno(), 2)
found = os.fstat(2)
env = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
pipeline = LogPipeline(env=env)
pipeline.install()
get_logger("api").warning("slow %s", "web", extra={"request_id": "abc-1", "why": "two\\nlines"})
pipeline.emit_core("info", "raft", "elected", b'{"term":7}')
many = ",".join(f'"field_{n}":"{"x" * 2000}"' for n in range(20))
pipeline.emit_core("info", "raft", "huge", f"{{{many}}}".encode())
pipeline.close(10_000)
assert pipeline.dropped == 0
"""


def lines(node: WarrenNode) -> list[dict[str, Any]]:
    """What the daemon has written, as far as its lines are whole."""
    return [json.loads(line) for line in node.log().splitlines(keepends=True) if line[-1] == "\n"]


def test_a_request_that_was_refused_is_found_in_the_log(node: WarrenNode) -> None:
    done = node.run("service", "inspect", "nobody", "--format=json")
    name = json.loads(done.stderr)["error"]["request_id"]

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(node) if line.get("request_id") == name]

    [line] = eventually(found, "the refusal is in the log")
    assert (line["component"], line["level"], line["code"]) == ("api", "debug", "not_found")
    assert (line["method"], line["identity"]) == ("GetService", "local")


def test_a_request_is_followed_from_the_command_line_to_the_worker(node: WarrenNode) -> None:
    node.ctl("service", "create", "web", "--image=tiny:1", *FOREVER)
    node.ctl("service", "scale", "web=2")

    def told(component: str, **fields: str) -> list[dict[str, Any]]:
        return [
            line
            for line in lines(node)
            if line["component"] == component and fields.items() <= line.items()
        ]

    [created] = told("api", method="CreateService", message="answered")
    [updated] = told("api", method="UpdateService", message="answered")
    for line in (created, updated):
        [entry] = told("control", request_id=line["request_id"])
        assert entry["level"] == "debug"
        assert int(entry["index"]) > 0
    dumped = node.ctl("debug", "wal", "dump", str(node.data_dir), "--format=json").splitlines()
    frames = [json.loads(row) for row in dumped]
    assert {
        frame["request_id"]: frame["command"] for frame in frames if frame["request_id"]
    }.items() >= {
        created["request_id"]: "create_service",
        updated["request_id"]: "update_service",
    }.items()

    def ran(line: dict[str, Any]) -> list[dict[str, Any]]:
        return told("worker", request_id=line["request_id"], service_name="web")

    assert any("is running" in line["message"] for line in ran(created))
    eventually(lambda: ran(updated), "the second container names the scaling")
    node.ctl("service", "rm", "web")
    [removed] = told("api", method="RemoveService", message="answered")
    eventually(lambda: ran(removed), "what is stopped names the removal")


def test_levels_change_while_it_runs_and_go_back(node: WarrenNode) -> None:
    def names() -> set[str]:
        return {line["request_id"] for line in lines(node) if "request_id" in line}

    def refused() -> str:
        done = node.run("service", "inspect", "nobody", "--format=json")
        return str(json.loads(done.stderr)["error"]["request_id"])

    def changed() -> list[str]:
        return [
            row["component"] for row in node.json("debug", "log-level")["levels"] if row["changed"]
        ]

    node.ctl("debug", "log-level", "api", "error")
    hidden = refused()
    node.ctl("debug", "log-level", "raft", "error", "--for", "300ms")
    assert changed() in (["api"], ["api", "raft"])
    eventually(lambda: changed() == ["api"], "the level of raft has gone back")
    node.ctl("debug", "log-level", "api", "default")
    assert changed() == []
    shown = refused()
    eventually(lambda: shown in names(), "what came later is in the log")
    assert hidden not in names()
    messages = [line["message"] for line in lines(node) if line["component"] == "log"]
    assert "the log level of raft is debug again" in messages


@pytest.mark.skipif(not JOURNALD.exists() or os.geteuid() != 0, reason="needs journald, as root")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_real_journald_has_the_fields() -> None:
    command = ["unshare", "--mount", "--propagation=private", "sh", "-c", NAMESPACE, "sh"]
    done = subprocess.run(
        [*command, sys.executable, "-c", SPEAKER],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    slow, elected, huge = (json.loads(line) for line in done.stdout.splitlines())
    assert slow["MESSAGE"] == "api: slow web request_id=abc-1 why=two\\nlines"
    assert (slow["PRIORITY"], slow["COMPONENT"], slow["LEVEL"]) == ("4", "api", "warn")
    assert (slow["REQUEST_ID"], slow["WHY"]) == ("abc-1", "two\nlines")
    assert (elected["MESSAGE"], elected["TERM"]) == ("raft: elected term=7", "7")
    assert elected["PRIORITY"] == "6"
    assert huge["TRUNCATED"] == "1"
    assert huge["FIELD_0"] == "x" * 2000

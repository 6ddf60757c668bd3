"""Every refusal's code has an exit code on purpose, and the ways not to reach a daemon differ."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from warren.cli.exits import EXIT_OF_CODE, exit_of
from warren.errors import PYTHON_CODES

ERROR_RS = Path(__file__).parents[3] / "rust/warren_core/src/error.rs"

# Those that are plainly "failed": a new code must be put here or into the table.
FAILED = {
    "answer_too_large",
    "archive_invalid",
    "backup_unusable",
    "data_dir",
    "image_in_use",
    "image_not_loaded",
    "internal",
    "level_not_reached",
    "log_damaged",
    "member_removed",
    "no_capacity",
    "no_space",
    "node_not_eligible",
    "node_removed",
    "not_in_cluster",
    "outcome_unknown",
    "overloaded",
    "removing",
    "request_reused",
    "request_too_old",
    "runtime_unavailable",
    "slot_taken",
    "stale_session",
    "state_went_back",
    "unknown_level",
    "unknown_method",
    "version_conflict",
    "wrong_data_dir",
}
# Raised by the command line alone.
OWN = {"interrupted"}


def all_codes() -> set[str]:
    listed = ERROR_RS.read_text().split("CODES: &'static [&'static str] = &[")[1].split("]")[0]
    return set(re.findall(r'"(\w+)"', listed)) | PYTHON_CODES


def test_every_code_is_decided_upon() -> None:
    assert all_codes() == (EXIT_OF_CODE.keys() - OWN) | FAILED


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("invalid", 2),
        ("ambiguous", 2),
        ("too_large", 2),
        ("unavailable", 3),
        ("no_answer", 3),
        ("no_leader", 3),
        ("shutting_down", 3),
        ("not_found", 4),
        ("name_taken", 5),
        ("already_in_cluster", 5),
        ("worker_only", 3),
        ("denied", 6),
        ("interrupted", 130),
        ("no_space", 1),
        ("something new", 1),
    ],
)
def test_exit_codes(code: str, exit_code: int) -> None:
    assert exit_of(code) == exit_code


def test_a_missing_socket(ctl: Run) -> None:
    done = ctl("--host", "unix:///nowhere/at.all", "node", "ls")
    assert done.code == 3
    assert done.out == ""
    assert "no daemon at /nowhere/at.all" in done.err
    assert "systemctl status warrend" in done.err


def test_a_socket_that_nobody_serves(
    ctl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("s")
    monkeypatch.setenv("WARREN_HOST", f"unix://{tmp_path}/s")
    done = ctl("node", "ls")
    assert done.code == 3
    assert "is warrend running?" in done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not")
def test_a_forbidden_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = Path(f"/tmp/wf{os.getpid()}")
    directory.mkdir(mode=0o755)
    path = directory / "w.sock"
    script = (
        "import os, sys; from warren.cli import client, common\n"
        "from warren.errors import WarrenError\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "settings = common.Settings(); settings.host = sys.argv[1]\n"
        "try: client.Client(settings)\n"
        "except WarrenError as error: print(error.code, error.message)"
    )
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            server.listen()
            path.chmod(0o660)
            done = subprocess.run(
                [sys.executable, "-c", script, f"unix://{path}"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
    finally:
        path.unlink(missing_ok=True)
        directory.rmdir()
    assert done.stdout.startswith(f"denied permission denied on {path}")
    assert "group warren" in done.stdout


@pytest.mark.parametrize(
    "host",
    ["tcp://a:1", "/run/w.sock", "unix://w.sock", "unix:/w.sock", "x", ",", "a:0", "a:70000"],
)
def test_a_host_that_is_none(ctl: Run, host: str) -> None:
    done = ctl("node", "ls", "--host", host)
    assert done.code == 2
    assert "unix:///path" in done.err


def test_a_path_too_long_for_a_socket(ctl: Run) -> None:
    done = ctl("node", "ls", "--host", f"unix:///{'x' * 200}")
    assert done.code == 3
    assert "too long" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("nod",),
        ("service", "creat"),
        ("service", "create", "web"),
        ("service", "create", "--image=tiny"),
        ("service", "create", "web", "--image=tiny", "--replicas=-1"),
        ("service", "create", "web", "--image=tiny", "--replicas=1.5"),
        ("service", "create", "web", "--image=tiny", "--replicas=4294967296"),
        ("service", "create", "web", "--image=tiny", "--memory=much"),
        ("service", "create", "web", "--image=tiny", "--cpus=-1"),
        ("service", "create", "web", "--image=tiny", "--mount=/a:/b"),
        ("service", "create", "web", "--image=tiny", "--restart=always"),
        ("service", "create", "web", "--image=tiny", "--network=bridge"),
        ("service", "create", "web", "--image=tiny", "--stop-timeout=soon"),
        ("service", "create", "web", "--image=tiny", "--label==x"),
        ("service", "create", "web", "--image=tiny", "--env==x"),
        ("service", "create", "web", "--image=tiny", "--env-file=/nowhere"),
        ("service", "create", "web", "--image=tiny", "--mode=global", "--replicas=2"),
        ("service", "scale", "web"),
        ("service", "rm"),
        ("service", "logs", "web", "--since=yesterday"),
        ("node", "ls", "--format=xml"),
        ("node", "ls", "--timeout=soon"),
        ("completion", "tcsh"),
    ],
)
def test_usage(ctl: Run, arguments: tuple[str, ...]) -> None:
    done = ctl(*arguments)
    assert done.code == 2, done.err
    assert done.err.startswith("warrenctl: ")
    assert "Traceback" not in done.err
    assert done.out == ""


def test_a_usage_error_for_programs(ctl: Run) -> None:
    done = ctl("service", "create", "web", "--imag=x", "--format", "json")
    assert done.code == 2
    error = json.loads(done.err)["error"]
    assert error["code"] == "invalid"
    assert "--imag" in error["message"]


def test_the_commands_own_format_flag_is_not_ours(ctl: Run) -> None:
    done = ctl("service", "create", "--", "web", "x", "--format", "json")
    assert done.err.startswith("warrenctl: Missing option '--image'")


def test_no_words_show_the_help(ctl: Run) -> None:
    done = ctl()
    assert done.code == 2
    assert "Commands:" in done.err

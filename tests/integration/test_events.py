"""`warrenctl events --watch` on a real daemon: nothing missed, nothing twice, or it is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import BIN, FOREVER, WarrenNode, eventually
from warren.cli.events import KINDS


@contextmanager
def following(node: WarrenNode, file: Path, *more: str) -> Iterator[Path]:
    """`warrenctl events --watch`, what it prints in a file."""
    command = [BIN / "warrenctl", f"--host=unix://{node.socket}", "events", "-w", *more]
    with file.open("w") as out, (file.parent / "errors").open("w") as errors:
        process = subprocess.Popen(
            [*map(str, command), "--format=json"], stdout=out, stderr=errors, text=True
        )
        try:
            yield file
        finally:
            # Not SIGINT, which whoever runs the tests in the background has it ignore.
            process.terminate()
            process.wait(timeout=20)


def lines(file: Path) -> list[dict[str, Any]]:
    # The last one may not be whole yet.
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if "\n" in line]


def placed(file: Path, service: str) -> list[int]:
    shown = [it for it in lines(file) if it.get("service") == service and it["kind"] == "placed"]
    return [it["slot"] for it in shown]


def test_what_is_decided_is_shown_once_and_a_restart_is_said(
    node: WarrenNode, tmp_path: Path
) -> None:
    node.ctl("service", "create", "a", "--image=tiny:1", "--replicas=2", *FOREVER)
    with following(node, tmp_path / "told") as file:
        eventually(lambda: sorted(placed(file, "a")) == [1, 2], "what was before is shown first")
        node.ctl("service", "create", "b", "--image=tiny:1", "--replicas=3", *FOREVER)
        eventually(lambda: sorted(placed(file, "b")) == [1, 2, 3], "what comes is shown")
        numbers = [it["sequence"] for it in lines(file)]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

        node.kill()
        node.start()
        node.wait_ready()
        node.ctl("service", "create", "c", "--image=tiny:1", "--replicas=1", *FOREVER)
        eventually(lambda: placed(file, "c") == [1], "it goes on by itself")
        told = lines(file)
        assert [it for it in told if "start_over" in it] == [{"start_over": True}]
        assert sorted(placed(file, "a")) == [1, 2], "nothing is shown twice"
    for service in ("a", "b", "c"):
        node.ctl("service", "rm", service)


@pytest.mark.parametrize("only", [["--type=pending"], ["--node=nowhere"], ["--since=0s"], ["b"]])
def test_only_what_is_asked_for(node: WarrenNode, tmp_path: Path, only: list[str]) -> None:
    node.ctl("service", "create", "a", "--image=tiny:1", "--replicas=2", *FOREVER)
    node.ctl("service", "create", "b", "--image=tiny:1", "--reserve-cpu=1000", "--detach",
             *FOREVER)  # fmt: skip
    eventually(lambda: node.json("events", "--type=pending"), "the second one waits")
    everything = node.json("events")
    assert {it["kind"] for it in everything} == {"placed", "pending"} <= set(KINDS)
    some = node.json("events", *only)
    match only[0]:
        case "--type=pending":
            assert {it["service"] for it in some} == {"b"}
        case "b":
            assert some == [it for it in everything if it["service"] == "b"]
        case _:
            assert some == []
    for service in ("a", "b"):
        node.ctl("service", "rm", service)

"""`warrenctl events --watch` on a real daemon: nothing missed, nothing twice, or it is said."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.hosts import Host, leader_of, three_managers
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


def created(file: Path) -> list[str]:
    return [it["service"] for it in lines(file) if it.get("kind") == "service_created"]


def test_what_is_decided_is_shown_once_and_a_restart_is_said(
    node: WarrenNode, tmp_path: Path
) -> None:
    node.ctl("service", "create", "a", "--image=tiny:1", "--replicas=2", *FOREVER)
    with following(node, tmp_path / "told") as file:
        eventually(lambda: sorted(placed(file, "a")) == [1, 2], "what was before is shown first")
        node.ctl("service", "create", "b", "--image=tiny:1", "--replicas=3", *FOREVER)
        eventually(lambda: sorted(placed(file, "b")) == [1, 2, 3], "what comes is shown")
        numbers = [it["sequence"] for it in lines(file) if it["sequence"]]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert created(file) == ["a", "b"]

        node.kill()
        node.start()
        node.wait_ready()
        node.ctl("service", "create", "c", "--image=tiny:1", "--replicas=1", *FOREVER)
        eventually(lambda: placed(file, "c") == [1], "it goes on by itself")
        told = lines(file)
        assert [it for it in told if "start_over" in it] == [{"start_over": True}]
        assert sorted(placed(file, "a")) == [1, 2], "nothing is shown twice"
        assert created(file) == ["a", "b", "c"]
    for service in ("a", "b", "c"):
        node.ctl("service", "rm", service)


@pytest.mark.parametrize("only", [["--type=pending"], ["--since=0s"], ["b"]])
def test_only_what_is_asked_for(node: WarrenNode, tmp_path: Path, only: list[str]) -> None:
    node.ctl("service", "create", "a", "--image=tiny:1", "--replicas=2", *FOREVER)
    node.ctl("service", "create", "b", "--image=tiny:1", "--reserve-cpu=1000", "--detach",
             *FOREVER)  # fmt: skip
    eventually(lambda: node.json("events", "--type=pending"), "the second one waits")
    everything = node.json("events")
    assert "no node `nowhere`" in node.run("events", "--node=nowhere").stderr
    kinds = {it["kind"] for it in everything}
    assert {"placed", "pending", "service_created", "node_joined", "leader_elected"} <= kinds
    assert kinds <= set(KINDS)
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


def test_what_is_rare_is_found_behind_the_limit(node: WarrenNode, tmp_path: Path) -> None:
    (joined,) = node.json("events", "--type=node_joined")
    with following(node, tmp_path / "told", "--type=service_created", "--limit=1") as file:
        for service in ("a", "b", "c"):
            node.ctl("service", "create", service, "--image=tiny:1", "--detach", *FOREVER)
        eventually(lambda: created(file)[-1:] == ["c"], "what comes is shown")
        assert {it["kind"] for it in lines(file)} == {"service_created"}
        assert created(file) in (["a", "b", "c"], ["b", "c"]), "the first may be from before"
    for name in (joined["node"], joined["node_id"], joined["node_id"][:6]):
        found = node.json("events", "--limit=1", "--type=node_joined", f"--node={name}")
        assert found == [joined]
    (newest,) = node.json("events", "--limit=1")
    assert newest != joined
    assert [it["service"] for it in node.json("events", "--limit=2", "--type=service_created")] == [
        "b", "c",
    ]  # fmt: skip
    for service in ("a", "b", "c"):
        node.ctl("service", "rm", service)


def test_the_first_election_has_a_time_and_a_name(node: WarrenNode) -> None:
    (first,) = node.json("events", "--type=leader_elected")
    (joined,) = node.json("events", "--type=node_joined")
    assert (first["node"], first["node_id"]) == (joined["node"], joined["node_id"])
    assert 0 <= seconds_between(first["time"], joined["time"]) < 60
    node.kill()
    node.start()
    node.wait_ready()
    again, newest = node.json("events", "--type=leader_elected")
    assert (again["node"], newest["node"]) == (first["node"], first["node"])
    # What the log has is the time of the first command.
    assert 0 <= seconds_between(first["time"], again["time"]) < 60
    assert seconds_between(again["time"], newest["time"]) > 0
    assert node.json("events", "--type=leader_elected", "--since=1h") == [again, newest]


def seconds_between(a: str, b: str) -> float:
    return (datetime.fromisoformat(b) - datetime.fromisoformat(a)).total_seconds()


def test_a_new_leader_goes_on_without_a_gap(
    hosts: Callable[..., Host], tiny_image: Path, tmp_path: Path
) -> None:
    managers = three_managers(hosts)
    leader = leader_of(managers)
    asked, other = (host for host in managers if host is not leader)
    for host in managers:
        host.ctl("image", "load", "-i", str(tiny_image))
    with following(asked, tmp_path / "told") as file:
        # Without a container, which might be with the one that is killed, and hold up the removal.
        asked.ctl("service", "create", "a", "--image=tiny:1", "--replicas=0", *FOREVER)
        eventually(lambda: created(file) == ["a"], "it is shown")
        leader.kill()
        successor = eventually(lambda: leader_of([asked, other]), "another one leads")
        asked.ctl("service", "create", "b", "--image=tiny:1", "--detach", *FOREVER)
        asked.ctl("service", "rm", "a")
        eventually(
            lambda: [it for it in lines(file) if it.get("kind") == "service_removed"], "a is gone"
        )
        told = [it for it in lines(file) if it.get("index")]
        places = [it["index"] for it in told]
        assert places == sorted(places)
        assert created(file) == ["a", "b"], "nothing twice, nothing missing"
        elected = [it for it in told if it["kind"] == "leader_elected"]
        assert elected[-1]["node_id"] == successor.node_id
        terms = [it["why"] for it in elected]
        assert len(terms) == len(set(terms)), "changes of the members elect nobody"
        [removing] = [it for it in told if it["kind"] == "service_removing"]
        assert "asked for by local" in removing["why"]

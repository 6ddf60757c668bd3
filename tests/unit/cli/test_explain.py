"""Explanations and plans: what is asked, and what is made of the answers."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from pathlib import Path

import pytest
import yaml

from tests.unit.cli.conftest import Done, Run
from tests.unit.cli.fake_manager import NODE_ID, OTHER_NODE_ID, FakeManager, RefusalError
from warren.cli import client, events
from warren.cli.events import KINDS
from warren.cli.exits import EXIT_NOT_FOUND, EXIT_USAGE, EXIT_WAITS, exit_of
from warren.cli.views_explain import changes
from warren.pb.v1 import explain_pb2, objects_pb2


def create(ctl: Run, *flags: str) -> None:
    done = ctl("service", "create", "web", "--image=tiny:1", "--detach", *flags)
    assert (done.code, done.err) == (0, "")


def told() -> explain_pb2.ExplainResponse:
    against = [
        explain_pb2.ExplainAgainst(kind="memory", why="256 MiB asked, 128 MiB free"),
        explain_pb2.ExplainAgainst(kind="taint", why="taint gpu:no-schedule is not tolerated"),
    ]
    good = explain_pb2.ExplainNode(
        node_id=NODE_ID,
        name="a",
        fits=True,
        rank=1,
        free=objects_pb2.Resources(cpu_milli=1500, memory_bytes=1 << 30),
        service_containers=2,
        stranded_milli=-1500,
        left_free_milli=250,
        affinity_milli=20_000,
        spreads=[explain_pb2.ExplainValue(attribute="node.labels.zone", value="eu", containers=3)],
    )
    bad = explain_pb2.ExplainNode(node_id=OTHER_NODE_ID, name="b", against=against)
    return explain_pb2.ExplainResponse(
        service_id=b"\1" * 16,
        service_name="web",
        summary="1 of 2 nodes could take another: a; 1: not enough memory",
        nodes_total=2,
        nodes_fit=1,
        reasons=[
            explain_pb2.ExplainReason(kind="memory", what="not enough memory", nodes=1),
            explain_pb2.ExplainReason(kind="taint", what="taint gpu", nodes=1, nodes_only=0),
        ],
        nodes=[good, bad],
        nodes_left_out=7,
        pending_reason="2 nodes: not enough memory",
    )


def test_an_explanation_tells_the_sentence_then_the_filters_then_the_nodes(
    ctl: Run, manager: FakeManager
) -> None:
    create(ctl)
    manager.explained = told()
    done = ctl("explain", "web")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("1 of 2 nodes could take another")
    assert lines[1] == "when it was last tried: 2 nodes: not enough memory"
    (memory,) = [line for line in lines if line.startswith("memory ")]
    assert memory.split()[1:3] == ["1", "0"]
    (good,) = [line for line in lines if line.startswith("a ")]
    assert "-21.250" in good
    assert "node.labels.zone is eu: 3 of the service" in good
    assert "affinities +20" in good
    (bad,) = [line for line in lines if line.startswith("b ")]
    assert "256 MiB asked, 128 MiB free; taint gpu:no-schedule is not tolerated" in bad
    assert lines[-1] == "7 more nodes: --all"
    assert [it.nodes_max for it in manager.requests("Explain")] == [20]
    assert ctl("explain", "web", "--all").code == 0
    assert manager.requests("Explain")[-1].nodes_max == 100_000


def test_an_explanation_for_programs(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.explained = told()
    shown = json.loads(ctl("explain", "web", "--format=json").out)
    good, bad = shown["nodes"]
    assert good["score"] == {"stranded": -1.5, "left_free": 0.25, "affinity": 20.0}
    assert (good["rank"], bad["rank"], bad["score"]) == (1, None, None)
    assert [it["kind"] for it in bad["against"]] == ["memory", "taint"]
    assert (shown["container_id"], shown["slot"]) == (None, None)
    assert ctl("explain", "other").code == EXIT_NOT_FOUND


def test_what_keeps_failing_and_what_makes_room_is_told(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    answer = told()
    good, bad = answer.nodes
    good.failing.MergeFrom(explain_pb2.ExplainFailing(failures=4, left_ms=500_001, avoided=True))
    bad.failing.MergeFrom(explain_pb2.ExplainFailing(failures=3, left_ms=1))
    bad.victims, bad.victims_priority = 2, 10
    answer.failing_slots.add(slot=3, failures=5, crash_looping=True, exit_code=0, exited=True)
    answer.failing_slots.add(slot=4, failures=1, retry_in_ms=1_001, waits=True)
    answer.failing_slots_total = 9
    hold = answer.holds.add(slot=1, node_id=NODE_ID, node_name="a")
    hold.kept.cpu_milli = 500
    hold.victims.add(container_id=b"\7" * 16, container="batch.2", priority=10)
    manager.explained = answer
    lines = ctl("explain", "web").out.splitlines()
    words = [line.split() for line in lines]
    assert ["3", "crash-looping", "5", "0", "-"] in words
    assert ["4", "backs", "off", "1", "-", "2", "s"] in words
    assert "7 more slots" in lines
    (kept,) = [line for line in lines if "batch.2" in line]
    assert kept.split() == ["1", "a", "0.5", "0", "B", "batch.2", "(priority", "10)"]
    (row,) = [line for line in lines if line.startswith("a ")]
    assert "failed there 4 times within ten minutes, the last choice for another 9 min" in row
    (row,) = [line for line in lines if line.startswith("b ")]
    assert "failed there 3 times within ten minutes, and runs nowhere else" in row
    assert "2 containers of priority 10 or less would make room" in row
    shown = json.loads(ctl("explain", "web", "--format=json").out)
    good, bad = shown["nodes"]
    assert good["failing"] == {"failures": 4, "left_seconds": 501, "avoided": True}
    assert (good["victims"], bad["victims"]) == (None, {"containers": 2, "priority": 10})
    exits = [(it["exit_code"], it["retry_in_seconds"]) for it in shown["failing_slots"]]
    assert exits == [(0, None), (None, 2)]
    (kept,) = shown["holds"]
    assert (kept["slot"], kept["node"], kept["kept"]["cpu_milli"]) == (1, "a", 500)
    assert kept["victims"][0]["container"] == "batch.2"


def test_events_tell_what_was_decided(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    done = ctl("events", "web", "--limit=5")
    assert done.code == 0, done.err
    header, line = done.out.splitlines()
    assert header.split() == ["AGE", "CONTAINER", "WHAT", "NODE", "WHY"]
    assert line.endswith("web.2       placed   a      found room after 3 ms")
    (request,) = manager.requests("ListEvents")
    assert request == explain_pb2.ListEventsRequest(ref="web", count_max=5)
    (shown,) = json.loads(ctl("events", "--format=json").out)
    assert (shown["sequence"], shown["kind"], shown["slot"]) == (7, "placed", 2)
    assert ctl("events", "other").code == EXIT_NOT_FOUND
    assert ctl("events", "--service=web").code == ctl("events", "web", "--service=web").code == 0
    assert [asked.ref for asked in manager.requests("ListEvents")[-2:]] == ["web", "web"]
    both = ctl("events", "web", "--service=other")
    assert (both.code, "name one" in both.err) == (2, True)


def test_the_manager_is_told_which_events_are_wanted(ctl: Run, manager: FakeManager) -> None:
    words = "--type=node_down --type=placed --node=a --node=b --type=placed --since=90s"
    assert ctl("events", *words.split()).code == 0
    (request,) = manager.requests("ListEvents")
    assert (request.kinds, request.nodes) == (["node_down", "placed"], ["a", "b"])
    assert (request.newer_than_ms, request.count_max) == (90_000, 100)
    # 0 would be of any age.
    assert ctl("events", "--since=0s").code == 0
    assert manager.requests("ListEvents")[-1].newer_than_ms == 1
    done = ctl("events", "--type=node_exploded")
    assert (done.code, "'node_down'" in done.err) == (2, True)


def test_of_an_older_managers_events_those_are_shown_that_are_wanted(
    ctl: Run, manager: FakeManager
) -> None:
    create(ctl)
    new_ms = int(time.time() * 1000)
    manager.filters = False
    for time_ms, kind, node_id, name in (
        (new_ms, "node_down", OTHER_NODE_ID, "b"),
        (new_ms, "node_ready", NODE_ID, "a"),
        (new_ms, "cluster_changed", b"", ""),
    ):
        manager.events.append(
            explain_pb2.ServiceEvent(time_ms=time_ms, kind=kind, node_id=node_id, node_name=name)
        )

    def kinds(*words: str) -> list[str]:
        return [it["kind"] for it in json.loads(ctl("events", *words, "--format=json").out)]

    assert kinds() == ["placed", "node_down", "node_ready", "cluster_changed"]
    assert kinds("--type=node_down", "--type=placed") == ["placed", "node_down"]
    assert kinds("--node=a") == kinds(f"--node={NODE_ID.hex()[:4]}") == ["placed", "node_ready"]
    assert kinds("--since=1h") == ["node_down", "node_ready", "cluster_changed"]
    assert kinds("--since=1h", "--node=b", "--type=placed") == []
    # It would say nothing of a service that is not there.
    assert ctl("events", "other").code == EXIT_NOT_FOUND


def test_an_event_without_a_time_has_no_age(ctl: Run, manager: FakeManager) -> None:
    del manager.events[:]
    manager.events.append(explain_pb2.ServiceEvent(kind="leader_elected", why="term 1"))
    _, line = ctl("events").out.splitlines()
    assert line.split() == ["-", "-", "leader", "elected", "-", "term", "1"]
    (shown,) = json.loads(ctl("events", "--format=json").out)
    assert (shown["time"], shown["node"]) == (None, None)


def test_the_kinds_of_events_are_those_that_the_core_tells() -> None:
    core = Path(__file__).parents[3] / "rust/warren_core/src"
    decisions = (core / "orchestrator/decisions.rs").read_text()
    history = (core / "control/history.rs").read_text()
    told = re.compile(r'^ {8}[A-Z]\w+ = "(\w+)",$', re.MULTILINE)
    told_of = [told.findall(decisions), told.findall(history)]
    assert all(told_of)
    assert sorted(KINDS) == sorted([*told_of[0], *told_of[1]])


def test_an_older_manager_cannot_be_followed(ctl: Run, manager: FakeManager) -> None:
    done = ctl("events", "--watch")
    assert done.code == 1
    assert len(manager.requests("ListEvents")) == 1
    assert "leave out --watch" in done.err


def followed(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch, troubles: list[str]
) -> Done:
    """`events -w` of a manager that tells of n1, then has these troubles (``: it takes the call and
    never answers), then tells of n2, and at last says that one may not ask.
    """
    steps: list[str | int] = [1, *troubles, 2, "denied"]

    def answer(_: explain_pb2.ListEventsRequest) -> explain_pb2.ListEventsResponse:
        step = steps.pop(0)
        if step == "":
            manager.hold.wait(60)
        if isinstance(step, str):
            raise RefusalError(step, f"it is {step}")
        event = explain_pb2.ServiceEvent(kind="node_ready", node_name=f"n{step}")
        revision = explain_pb2.EventRevision(sequence=step)
        return explain_pb2.ListEventsResponse(events=[event], filtered=True, revision=revision)

    monkeypatch.setattr(manager, "ListEvents", answer, raising=False)
    # Each call is tried once, so that the watch meets every trouble.
    monkeypatch.setattr(client, "_BACKOFF_FIRST_S", 3600.0)
    monkeypatch.setattr(events, "_POLL_S", 0.01)
    return ctl("events", "--watch", "--format=json", "--timeout=2s")


def test_a_watch_goes_on_through_what_a_read_meets_in_an_outage(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = ["unavailable", "no_leader", "not_leader", "no_quorum", "no_answer",
                "overloaded", "handing_over", "shutting_down", "worker_only"]  # fmt: skip
    done = followed(ctl, manager, monkeypatch, troubles)
    assert [json.loads(line)["node"] for line in done.out.splitlines()] == ["n1", "n2"]
    assert done.code == exit_of("denied")
    tried = [line for line in done.err.splitlines() if line.endswith("trying on")]
    assert len(tried) == len(troubles)
    assert "it is no_quorum; trying on" in tried


def test_a_watch_outlives_a_manager_that_takes_the_call_and_never_answers(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = followed(ctl, manager, monkeypatch, [""])
    assert [json.loads(line)["node"] for line in done.out.splitlines()] == ["n1", "n2"]
    assert "no answer in time; on the host that was asked, `warrenctl doctor`" in done.err
    assert "may still take effect" not in done.err


def test_a_host_that_manages_nothing_is_not_watched(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.refuse["ListEvents"] = deque([RefusalError("worker_only", "ask a manager")])
    monkeypatch.setattr(client, "_BACKOFF_FIRST_S", 3600.0)
    done = ctl("events", "--watch")
    assert (done.code, "ask a manager" in done.err) == (exit_of("worker_only"), True)
    assert len(manager.requests("ListEvents")) == 1


def plan_of(**fields: object) -> explain_pb2.PlanResponse:
    before, after = (objects_pb2.ServiceSpec(name="web", mode=1, replicas=n) for n in (2, 5))
    service = explain_pb2.PlannedService(
        name="web",
        action="update",
        before=before,
        after=after,
        desired=5,
        unchanged=2,
        placed=[explain_pb2.PlannedNode(node_id=NODE_ID, name="a", count=3)],
        **fields,
    )
    return explain_pb2.PlanResponse(services=[service], state_index=9)


def test_a_plan_shows_what_differs_and_where_everything_goes(
    ctl: Run, manager: FakeManager
) -> None:
    create(ctl, "--replicas=2")
    manager.planned = plan_of()
    done = ctl("service", "update", "web", "--replicas=5", "--plan")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "web: would be changed",
        "  replicas: 2 -> 5",
        "  2 of 5 stay as they are",
        "  3 would be started: a 3",
    ]
    assert manager.requests("UpdateService") == []
    (request,) = manager.requests("Plan")
    (item,) = request.items
    assert (item.update.expected_version, item.update.spec.replicas) == (1, 5)


def test_a_plan_names_who_would_make_room(ctl: Run, manager: FakeManager) -> None:
    planned = plan_of()
    for slot in range(1, 24):
        planned.preempted.add(
            container_id=b"\7" * 16, service_name="batch", slot=slot, node_id=NODE_ID,
            node_name="a", priority=10, by_service_name="web", by_slot=5, by_priority=80,
        )  # fmt: skip
    planned.preempted_total = 1_023
    planned.preempted[1].slot = 0
    manager.planned = planned
    lines = ctl("service", "create", "web", "--image=tiny:1", "--plan").out.splitlines()
    first = "batch.1 on a (priority 10) would make room for web.5 (priority 80)"
    assert lines[4:6] == [first, first.replace("batch.1", "batch")]
    assert lines[-1] == "1003 more would make room"
    shown = json.loads(
        ctl("service", "create", "web", "--image=tiny:1", "--plan", "--format=json").out
    )
    assert (len(shown["preempted"]), shown["preempted_total"]) == (23, 1_023)
    assert shown["preempted"][0] == {
        "container_id": "07" * 16, "service": "batch", "slot": 1, "node_id": NODE_ID.hex(),
        "node": "a", "priority": 10, "by_service": "web", "by_slot": 5, "by_priority": 80,
    }  # fmt: skip
    assert shown["preempted"][1]["slot"] is None


def test_what_would_wait_is_told_by_the_exit_code(ctl: Run, manager: FakeManager) -> None:
    manager.planned = plan_of(pending=1, pending_reason="3 nodes: not enough memory")
    done = ctl("service", "create", "web", "--image=tiny:1", "--plan", "--format=json")
    assert done.code == EXIT_WAITS
    shown = json.loads(done.out)
    assert (shown["fits"], shown["services"][0]["pending"]) == (False, 1)
    assert shown["services"][0]["changes"] == [{"field": "replicas", "old": 2, "new": 5}]
    assert manager.requests("CreateService") == []
    assert manager.requests("Plan")[0].items[0].create.spec.name == "web"


def test_drain_plans_and_drains(ctl: Run, manager: FakeManager) -> None:
    assert ctl("node", "drain", "a", "--plan").code == 0
    assert manager.requests("Plan")[0].items[0].drain_node == NODE_ID.hex()
    assert manager.requests("SetNodeAvailability") == []
    done = ctl("node", "drain", "a", "--deadline=10m")
    assert (done.code, done.out) == (0, "node a is drained\n")
    done = ctl("node", "activate", "a")
    assert (done.code, done.out) == (0, "node a takes containers\n")
    drain, activate = manager.requests("SetNodeAvailability")
    assert (drain.availability, drain.drain_within_ms) == (
        objects_pb2.AVAILABILITY_DRAIN,
        600_000,
    )
    assert activate.availability == objects_pb2.AVAILABILITY_ACTIVE


FILE = """
- name: web
  image: web:1
  replicas: 3
  cpus: 0.5
  memory: 64m
  env: {A: b, PORT: 80}
  constraint: ["node.labels.zone==eu", "node.kernel>=5.10"]
  preempt: true
  command: [httpd, -p, 80]
- name: agent
  image: agent:1
  mode: global
  tolerate: "*"
"""


def test_a_file_says_what_flags_say(ctl: Run, manager: FakeManager, tmp_path: Path) -> None:
    file = tmp_path / "services.yaml"
    file.write_text(FILE)
    done = ctl("plan", "-f", str(file))
    assert (done.code, done.out) == (0, "nothing would change\n")
    flags = (
        "--replicas=3", "--cpus=0.5", "--memory=64m", "-eA=b", "-ePORT=80",
        "--constraint=node.labels.zone==eu", "--constraint=node.kernel>=5.10", "--preempt",
    )  # fmt: skip
    for words in (
        ("web", "--image=web:1", *flags, "--", "httpd", "-p", "80"),
        ("agent", "--image=agent:1", "--mode=global", "--tolerate=*"),
    ):
        assert ctl("service", "create", "--plan", *words).code == 0
    by_file, web, agent = manager.requests("Plan")
    assert [it.service for it in by_file.items] == [
        web.items[0].create.spec,
        agent.items[0].create.spec,
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is no YAML"),
        ("3", "holds no list of services"),
        ("- image: web:1", "has no name"),
        ("- {name: web}", "service 1 (web): Missing option '--image'"),
        ("- {name: web, image: a, colour: red}", "--colour"),
        ("- {name: web, image: a, host: unix}", "a service has no `host`"),
        ("- {name: web, image: a, cpus: lots}", "service 1 (web): Invalid value"),
        ("- {name: web, image: a, env: [[1]]}", "neither text nor a number"),
    ],
)
def test_a_file_that_makes_no_sense(ctl: Run, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "services.yaml"
    file.write_text(text)
    done = ctl("plan", "-f", str(file))
    assert done.code == EXIT_USAGE
    assert said in done.err


def test_changes_are_told_by_field() -> None:
    def spec(**fields: object) -> objects_pb2.ServiceSpec:
        made = objects_pb2.ServiceSpec(name="web", mode=1, replicas=2)
        made.container.MergeFrom(objects_pb2.ContainerSpec(**fields))
        return made

    before = spec(image="a:1", env=["A=1", "B=2"], labels={"x": "1"})
    after = spec(image="a:2", env=["A=1", "B=3", "C=4"])
    after.placement.constraints.append("node.labels.zone==eu")
    found = {it.field: (it.old, it.new) for it in changes(before, after)}
    assert found == {
        "container.image": ("a:1", "a:2"),
        "container.env.B": ("2", "3"),
        "container.env.C": (None, "4"),
        "container.labels.x": ("1", None),
        "placement.constraints": (None, ["node.labels.zone==eu"]),
    }
    assert changes(before, before) == []
    assert {it.field for it in changes(None, before)} >= {"mode", "replicas", "container.image"}


def test_what_is_printed_as_yaml_reads_back(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.explained = told()
    shown = yaml.safe_load(ctl("explain", "web", "--format=yaml").out)
    assert shown["nodes_left_out"] == 7

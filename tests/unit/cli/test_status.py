"""`cluster status`: what is found, how it is ranked, and how the screen looks."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import msgspec
import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import (
    CLUSTER_ID,
    CREATED_AT_MS,
    LAST_INDEX,
    NODE_ID,
    OTHER_NODE_ID,
    FakeManager,
    RefusalError,
    member,
)
from warren.cli import screen, status_screen, views, views_status
from warren.cli.shapes import EventView, StatusView
from warren.pb.v1 import api_pb2, explain_pb2, node_pb2, objects_pb2

NOW_MS = CREATED_AT_MS + 600_000
LONG = "a-service-whose-name-is-as-long-as-a-dns-label-may-be-which-is63"[:63]
READY = objects_pb2.NODE_STATUS_READY
DOWN = objects_pb2.NODE_STATUS_DOWN


def node(name: str, status: objects_pb2.NodeStatus = READY, **fields: Any) -> api_pb2.NodeView:
    """A worker with 4 CPUs and 8 GiB."""
    found = objects_pb2.Node(id=name.encode().ljust(16, b"\0"), worker=True, status=status)
    found.availability = fields.pop("availability", objects_pb2.AVAILABILITY_ACTIVE)
    found.drain_overdue = fields.pop("drain_overdue", False)
    about = found.description
    about.name, about.containerd_version = name, fields.pop("containerd", "1.7")
    about.capacity.cpu_milli, about.capacity.memory_bytes = 4000, 8 << 30
    about.capacity.disk_bytes = 100 << 30
    about.disk_free_bytes = fields.pop("disk_free", 50 << 30)
    return api_pb2.NodeView(node=found, **fields)


def service(name: str, running: int, desired: int) -> api_pb2.ServiceView:
    record = objects_pb2.Service(id=name.encode()[:16].ljust(16, b"\0"))
    record.spec.name = name
    return api_pb2.ServiceView(service=record, running=running, desired=desired)


def slot(number: int, state: int = 0, why: str = "", **more: Any) -> api_pb2.Slot:
    """`state` 0: it waits for a node."""
    found = api_pb2.Slot(slot=number, **more)
    if not state:
        found.pending_reason = why
        return found
    found.container.slot = number
    found.container.created_at_ms = NOW_MS - 1000
    found.container.status.state = state
    found.container.status.message = why
    return found


def members(*heard: bool) -> list[Any]:
    """Voters m0, m1, …, of which the first leads."""
    listed = [
        member(n + 1, bytes([n + 1] * 16), leader=n == 0, match_index=LAST_INDEX)
        for n in range(len(heard))
    ]
    for each, active in zip(listed, heard, strict=True):
        each.recent_active = active
    names = {(bytes([n + 1] * 16)).hex(): f"m{n}" for n in range(len(heard))}
    answer = api_pb2.ListMembersResponse(members=listed, last_index=LAST_INDEX)
    return views.members(answer, names)


def asked(**fields: Any) -> views_status.Asked:
    cluster = api_pb2.GetClusterResponse(
        cluster=objects_pb2.Cluster(id=CLUSTER_ID, epoch=1), node_id=NODE_ID, term=3, last_index=9
    )
    given = {
        "cluster": cluster, "members": members(True, True, True), "joint": False,
        "nodes": [node("w1"), node("w2")], "services": [service("web", 2, 2)], "slots": {},
        "events": [], "loop_events": [], "events_why": "", "no_quorum": "", "stale": False,
        "newest_change_ms": 0,
    }  # fmt: skip
    return views_status.Asked(**{**given, **fields})


def status(**fields: Any) -> StatusView:
    return views_status.status(asked(**fields), now_ms=NOW_MS)


def kinds(view: StatusView) -> list[tuple[str, str]]:
    return [(each.severity, each.kind) for each in view.findings]


def lines(view: StatusView, width: int | None) -> list[str]:
    return screen.paint(status_screen.lines(view, width, NOW_MS / 1000), colour=False)


def troubled(view: api_pb2.ServiceView, *slots: api_pb2.Slot) -> dict[str, Any]:
    return {"services": [view], "slots": {view.service.id: slots}}


def test_a_whole_cluster_needs_no_attention() -> None:
    view = status()
    assert view.healthy
    assert view.findings == []
    assert (view.quorum.answering, view.quorum.voters, view.quorum.spare) == (3, 3, 1)
    assert "Nothing needs attention." in lines(view, 80)


def test_a_host_that_is_not_ready_is_told_of_unless_the_majority_is_why() -> None:
    why = "waiting for raft: the log's disk has not answered for 2.1 s"
    daemon = node_pb2.GetDaemonResponse(node_name="m1", ready_message=why)
    view = status(daemon=daemon)
    assert kinds(view) == [("warning", "not_ready")]
    assert view.findings[0].summary == f"host m1 is not ready: {why}"
    assert view.findings[0].command == "warrenctl doctor"
    assert not view.healthy
    without = status(daemon=daemon, no_quorum="2 of 3 managers are missing", stale=True)
    assert ("critical", "no_quorum") in kinds(without)
    assert ("warning", "not_ready") not in kinds(without)
    assert status(daemon=node_pb2.GetDaemonResponse(node_name="m1")).healthy


def test_the_worst_comes_first() -> None:
    down = service("api", 0, 2)
    view = status(
        members=members(True, True, False),
        nodes=[node("w1"), node("w2", DOWN, containers=3), node("w3", disk_free=1 << 30)],
        **troubled(down, slot(1, why="no node has memory"), slot(2, why="no node has memory")),
    )
    assert kinds(view) == [
        ("critical", "manager_silent"),
        ("critical", "service_down"),
        ("warning", "node_down"),
        ("warning", "disk_full"),
    ]
    assert not view.healthy
    silent, api, node_down, disk = view.findings
    assert "the next manager that is lost stops the cluster" in silent.summary
    assert api.summary == "service api: none of 2 runs; 2 pending: no node has memory"
    assert (api.subject, api.command) == ("api", "warrenctl explain api")
    assert node_down.summary == "node w2 is down; it holds 3 containers"
    assert "1 % of its disk free" in disk.summary


@pytest.mark.parametrize(
    ("heard", "answering", "spare", "severity"),
    [
        ((True,), 1, 0, None),
        ((True, True, False), 2, 0, "critical"),
        ((True, True, True, True, False), 4, 1, "warning"),
        ((True, True, True, False, False), 3, 0, "critical"),
    ],
)
def test_what_may_still_be_lost(
    heard: tuple[bool, ...], answering: int, spare: int, severity: str | None
) -> None:
    view = status(members=members(*heard))
    assert (view.quorum.answering, view.quorum.spare) == (answering, spare)
    assert {each.severity for each in view.findings} == ({severity} if severity else set())


def test_many_nodes_with_one_trouble_are_one_finding() -> None:
    view = status(nodes=[node(f"n{n:02}", DOWN) for n in range(30)])
    (found,) = view.findings
    assert found.summary == "30 nodes are down: n00, n01, n02 and 27 more"
    assert (len(view.node_troubles), view.node_troubles_left_out) == (20, 10)


def test_draining_and_pausing_are_notes_and_a_late_drain_is_not() -> None:
    drain, pause = objects_pb2.AVAILABILITY_DRAIN, objects_pb2.AVAILABILITY_PAUSE
    view = status(
        nodes=[node("a", availability=drain, containers=1), node("b", availability=pause)]
    )
    assert kinds(view) == [("note", "draining"), ("note", "paused")]
    assert view.healthy
    late = status(nodes=[node("a", availability=drain, drain_overdue=True, containers=1)])
    assert kinds(late) == [("warning", "drain_overdue")]


def test_crash_loops_are_told_with_their_exit_code() -> None:
    looping = slot(1, objects_pb2.CONTAINER_STATE_RUNNING)
    looping.crash_loop.failures, looping.crash_loop.exit_code = 5, 3
    looping.crash_loop.exited = True
    view = status(**troubled(service("web", 1, 2), looping, slot(2, 5)))
    (found,) = view.findings
    assert found.severity == "warning"
    assert found.summary == (
        "service web: 1 of 2 run; 1 crash-looping: failed 5 times in a row, the last time with "
        "exit code 3"
    )
    assert found.command == "warrenctl service ps web"


def test_a_start_is_no_trouble_until_it_takes_long() -> None:
    starting = slot(1, objects_pb2.CONTAINER_STATE_PREPARING)
    view = status(**troubled(service("web", 0, 1), starting))
    assert view.healthy
    assert view.service_troubles[0].starting == 1
    starting.container.created_at_ms = NOW_MS - 301_000
    assert kinds(status(**troubled(service("web", 0, 1), starting))) == [("critical", "slow_start")]


def test_what_has_completed_is_not_missed() -> None:
    done = slot(1, objects_pb2.CONTAINER_STATE_COMPLETE)
    view = status(**troubled(service("job", 0, 1), done))
    assert view.healthy
    assert view.services.as_desired == 1


def test_slots_that_a_follower_does_not_list_wait_for_a_node() -> None:
    # Without the leader's word on them, the newest event says why.
    event = EventView(
        sequence=1, index=None, time=None, kind="pending",
        service_id=service("web", 0, 0).service.id.hex(), service="web",
        slot=2, node_id=None, node=None, why="not enough memory",
    )  # fmt: skip
    running = slot(1, objects_pb2.CONTAINER_STATE_RUNNING)
    view = status(events=[event], **troubled(service("web", 1, 3), running))
    (found,) = view.findings
    assert found.summary == "service web: 1 of 3 run; 2 pending: not enough memory"


def test_a_follower_knows_of_crash_loops_from_events() -> None:
    running = slot(1, objects_pb2.CONTAINER_STATE_RUNNING)
    view = service("web", 1, 1)
    event = EventView(
        1,
        None,
        None,
        "crash_looping",
        view.service.id.hex(),
        "web",
        1,
        None,
        None,
        "3 failures in a row",
    )
    told = asked(loop_events=[event], **troubled(view, running))
    (found,) = views_status.status(told, now_ms=NOW_MS).findings
    assert found.summary == "service web: 1 of 1 run; 1 crash-looping: 3 failures in a row"
    told.cluster.leader_node_id = told.cluster.node_id
    assert views_status.status(told, now_ms=NOW_MS).healthy, "the leader would have said so itself"


def test_services_that_were_not_looked_into_are_counted() -> None:
    short = [service(f"s{n}", 0, 1) for n in range(5)]
    first = short[0].service.id
    view = status(services=short, slots={first: [slot(1, why="no room")]})
    assert kinds(view) == [("critical", "service_down"), ("warning", "services_short")]
    assert view.service_troubles_left_out == 4
    assert view.services.as_desired == 0


def test_crash_looping_services_are_looked_into_while_they_run() -> None:
    looping, calm = service("looping", 1, 1), service("calm", 1, 1)

    def event(kind: str) -> EventView:
        return EventView(
            1, None, None, kind, looping.service.id.hex(), "looping", 1, None, None, ""
        )

    chosen = views_status.candidates([calm, looping], [event("crash_looping")])
    assert [each.service.spec.name for each in chosen] == ["looping"]
    over = [event("crash_looping"), event("crash_loop_over")]
    assert views_status.candidates([calm, looping], over) == []


def test_the_leader_says_whose_containers_crash_loop() -> None:
    """However long ago the loop began: nothing of it need stand in the newest events."""
    looping, calm = service("looping", 3, 3), service("calm", 1, 1)
    looping.crash_looping = 1
    chosen = views_status.candidates([calm, looping], [])
    assert [each.service.spec.name for each in chosen] == ["looping"]
    view = status(services=[calm, looping], slots={})
    assert kinds(view) == [("warning", "services_short")], "too many others were looked into"
    assert view.findings[0].summary == (
        "1 more services have fewer containers than they should, or crash-looping ones"
    )
    looping.service.removing = True
    assert views_status.candidates([looping], []) == []


def test_without_a_majority_it_is_said_how_old_this_is() -> None:
    view = status(
        no_quorum="2 of 3 are missing", stale=True, newest_change_ms=NOW_MS - 300_000,
        events=None, events_why="no",
    )  # fmt: skip
    assert kinds(view)[0] == ("critical", "no_quorum")
    assert (view.stale, view.leader, view.quorum.held) == (True, None, False)
    text = " ".join(" ".join(lines(view, 80)).split())
    assert "which may be old: entry 0, newest change 5m ago" in text
    assert "no majority: 2 of 3 are needed" in text
    assert "the leader keeps them, and there is none" in text


def test_with_stale_it_is_not_known_whether_a_majority_answers(
    ctl: Run, manager: FakeManager
) -> None:
    view = json.loads(ctl("cluster", "status", "--stale", "--format=json").out)
    assert (view["stale"], view["quorum"]["held"]) == (True, None)
    assert "no_quorum" not in {each["kind"] for each in view["findings"]}
    shown = ctl("cluster", "status", "--stale").out
    assert "asked with --stale" in shown


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_the_terminal_whatever_names_are_like(width: int) -> None:
    why = "5 nodes: not enough memory (asked 900 GiB, most free 23.5 GiB); 1: being drained"
    events = [
        EventView(n, None, None, "pending", "ab", LONG, n, None, None, why) for n in range(1, 13)
    ]  # fmt: skip
    long_nodes = [node(f"node-{n}-in-a-rack-with-a-rather-long-name", DOWN) for n in range(3)]
    view = status(
        nodes=long_nodes, events=events, **troubled(service(LONG, 0, 2), slot(1, why=why))
    )
    shown = lines(view, width)
    # A command to copy stays in one piece.
    too_wide = [it for it in shown if screen.text_width(it) > width and "→ warrenctl" not in it]
    assert too_wide == []
    assert any(f"{LONG[:5]}" in it for it in shown)
    assert width < 80 or any("(12)" in it for it in shown), "events of one kind share a line"


def test_into_a_pipe_names_and_reasons_are_whole() -> None:
    why = "word " * 40
    view = status(**troubled(service(LONG, 0, 1), slot(1, why=why.strip())))
    text = lines(view, None)
    assert any(f"  {LONG}  0/1  1 pending: {why.strip()}" == it for it in text)


# The command, against a manager on the wire


def test_the_exit_code_says_whether_something_needs_attention(
    ctl: Run, manager: FakeManager
) -> None:
    # The fake's only node has a worker without containerd.
    done = ctl("cluster", "status")
    assert done.code == 8
    assert "has no containerd that answers" in done.out
    assert "\x1b" not in done.out
    described = manager.ListNodes(api_pb2.ListNodesRequest())
    described.nodes[0].node.description.containerd_version = "1.7"
    manager.ListNodes = lambda _: described  # type: ignore[method-assign]
    done = ctl("cluster", "status")
    assert (done.code, done.err) == (0, "")
    assert "Nothing needs attention." in done.out


def crash_looping(manager: FakeManager) -> api_pb2.ServiceView:
    """A service, of whose containers all run, and one has crashed again and again."""
    described = manager.ListNodes(api_pb2.ListNodesRequest())
    described.nodes[0].node.description.containerd_version = "1.7"
    manager.ListNodes = lambda _: described  # type: ignore[method-assign]
    view = service("web", 3, 3)
    manager.services[view.service.id] = view.service
    listed = api_pb2.ListServicesResponse(services=[view])
    manager.ListServices = lambda _: listed  # type: ignore[method-assign]
    manager.slots = [slot(n, objects_pb2.CONTAINER_STATE_RUNNING) for n in (1, 2, 3)]
    return listed.services[0]


def test_what_crash_loops_needs_attention_also_while_it_runs(
    ctl: Run, manager: FakeManager
) -> None:
    view = crash_looping(manager)
    assert ctl("cluster", "status").code == 0
    view.crash_looping = 1
    manager.slots[1].crash_loop.failures = 12
    done = ctl("cluster", "status", "--format=json")
    assert done.code == 8
    (found,) = json.loads(done.out)["findings"]
    assert (found["severity"], found["subject"]) == ("warning", "web")
    assert found["summary"] == (
        "service web: 3 of 3 run; 1 crash-looping: failed 12 times in a row"
    )


def test_a_follower_asks_for_the_events_of_crash_loops_by_themselves(
    ctl: Run, manager: FakeManager
) -> None:
    """Among all the newest, whatever else is decided would push them out."""
    view, (placed,) = crash_looping(manager), manager.events
    begun = explain_pb2.ServiceEvent(
        kind="crash_looping", service_id=view.service.id, slot=2, why="failed 12 times in a row"
    )

    def listed(request: explain_pb2.ListEventsRequest) -> explain_pb2.ListEventsResponse:
        events = [begun] if "crash_looping" in request.kinds else [placed] * request.count_max
        return explain_pb2.ListEventsResponse(events=events, filtered=True)

    manager.ListEvents = listed  # type: ignore[method-assign]
    answer = manager.GetCluster(api_pb2.GetClusterRequest())
    answer.leader_node_id = OTHER_NODE_ID
    manager.GetCluster = lambda _: answer  # type: ignore[method-assign]
    done = ctl("cluster", "status", "--format=json")
    assert done.code == 8
    (found,) = json.loads(done.out)["findings"]
    assert found["summary"] == (
        "service web: 3 of 3 run; 1 crash-looping: failed 12 times in a row"
    )


def test_service_ls_says_whose_containers_crash_loop(ctl: Run, manager: FakeManager) -> None:
    view = crash_looping(manager)
    assert "LOOPING" not in ctl("service", "ls").out, "there is no room for what is zero"
    view.crash_looping = 2
    header, row = ctl("service", "ls").out.splitlines()
    assert header.split() == ["ID", "NAME", "MODE", "RUNNING", "LOOPING", "AGE", "IMAGE"]
    assert row.split()[3:5] == ["3/3", "2"]
    (listed,) = json.loads(ctl("service", "ls", "--format=json").out)
    assert listed["crash_looping"] == 2


def test_json_is_the_shape_that_is_documented(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "status", "--format=json")
    view = msgspec.json.decode(done.out, type=StatusView)
    assert view.answered_by == "a"
    assert view.events is not None
    assert view.events[0].kind == "placed"
    assert list(json.loads(done.out)) == [field.name for field in msgspec.structs.fields(view)]


def test_without_a_majority_one_managers_state_is_shown(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["GetCluster"] = manager_refusals("no_quorum", "2 of 3 managers are missing")
    done = ctl("cluster", "status")
    assert done.code == 8
    assert "nothing can be decided: 2 of 3 managers are missing" in " ".join(done.out.split())
    assert {"GetCluster", "ListNodes", "ListServices", "ListMembers"} <= manager.stale


def test_the_leader_is_asked_who_answers_where_it_is_among_the_hosts(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    voters = [member(7, NODE_ID), member(8, OTHER_NODE_ID, leader=True)]
    manager.members = voters
    told = [member(7, NODE_ID, match_index=LAST_INDEX)]
    told.append(member(8, OTHER_NODE_ID, leader=True, match_index=LAST_INDEX))
    others[0].members = told
    alone = json.loads(ctl("cluster", "status", "--format=json").out)["quorum"]
    assert (alone["answering"], alone["held"]) == (None, True)
    hosts = f"--host={manager.host},{others[0].host}"
    both = json.loads(ctl("cluster", "status", hosts, "--format=json").out)["quorum"]
    assert (both["answering"], both["spare"]) == (2, 0)


def test_a_manager_that_hangs_is_asked_again_for_what_may_be_old(
    ctl: Run, manager: FakeManager
) -> None:
    """As with a disk that does not answer: what needs the log waits, what it has it tells."""
    manager.hangs.add("GetCluster")
    began_s = time.monotonic()
    done = ctl("cluster", "status", "--timeout=4s", "--format=json")
    assert time.monotonic() - began_s < 3.5, "there was time left for it"
    assert done.code == 8, done.err
    view = json.loads(done.out)
    assert view["stale"]
    assert "no answer in time" in view["findings"][0]["summary"]
    assert "GetCluster" in manager.stale


def test_a_manager_that_says_nothing_is_exit_code_3(ctl: Run, manager: FakeManager) -> None:
    manager.hangs.add("*")
    done = ctl("cluster", "status", "--timeout=500ms")
    assert done.code == 3
    assert "no answer in time" in done.err
    assert "`warrenctl doctor`" in done.err
    assert "take effect" not in done.err, "a read changes nothing"


def test_of_several_hosts_one_that_hangs_takes_its_share_of_the_time(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    manager.hangs.add("*")
    hosts = f"--host={manager.host},{others[0].host}"
    done = ctl("cluster", "status", hosts, "--timeout=3s", "--format=json")
    assert done.code in (0, 8), done.err
    assert not json.loads(done.out)["stale"], "the other one knows"


def test_no_manager_at_all_is_exit_code_3(ctl: Run) -> None:
    done = ctl("cluster", "status", "--host=unix:///nowhere/w.sock")
    assert done.code == 3
    assert "is warrend running?" in done.err


def test_service_inspect_shows_the_newest_events(ctl: Run, manager: FakeManager) -> None:
    assert ctl("service", "create", "web", "--image=tiny:1", "--detach").code == 0
    shown = ctl("service", "inspect", "web").out
    assert re.search(r"^events \(the newest 1; more: warrenctl events web\):$", shown, re.MULTILINE)
    assert "found room after 3 ms" in shown
    assert manager.requests("ListEvents")[-1].count_max == 10
    view = json.loads(ctl("service", "inspect", "web", "--format=json").out)
    assert [each["kind"] for each in view["events"]] == ["placed"]
    manager.refuse["ListEvents"] = manager_refusals("no_quorum", "nobody leads")
    assert "events: not known: nobody leads" in ctl("service", "inspect", "web").out


def manager_refusals(code: str, message: str) -> Any:
    from collections import deque

    return deque([RefusalError(code, message)])

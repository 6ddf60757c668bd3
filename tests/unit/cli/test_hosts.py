"""Several hosts: which is asked, when the next one is, and when that is given up."""

from __future__ import annotations

import json
import time
from collections import deque

import grpc
import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager, RefusalError
from warren.cli import client, hosts
from warren.pb.v1 import api_pb2

LONG = 1000
GONE = RefusalError("", "Socket closed", bare=grpc.StatusCode.UNAVAILABLE)


def trouble(code: str, message: str = "this; do that") -> deque[RefusalError]:
    return deque([RefusalError(code, message)] * LONG)


def named(*managers: FakeManager) -> str:
    return ",".join(manager.host for manager in managers)


def test_a_list_of_hosts() -> None:
    socket, first, second = hosts.parse(
        "unix:///a.sock, 10.0.0.1:2377,[fd00::1]:2377,10.0.0.1:2377"
    )
    assert socket.path == "/a.sock"
    assert first.address == ("10.0.0.1", 2377)
    assert second.address == ("fd00::1", 2377)


def test_the_first_that_can_be_reached_is_asked(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    second, third = others
    assert ctl("--host", f"unix:///nowhere/a.sock,{named(second, third)}", "node", "ls").code == 0
    assert second.requests("ListNodes")
    assert not third.requests("ListNodes")


def test_where_none_can_be_reached_each_says_why(ctl: Run) -> None:
    started_s = time.monotonic()
    done = ctl("node", "ls", "--host", "unix:///nowhere/a.sock,unix:///nowhere/b.sock")
    assert done.code == 3
    assert "none of the hosts can be reached" in done.err
    assert "/nowhere/a.sock" in done.err
    assert "/nowhere/b.sock" in done.err
    assert time.monotonic() - started_s < 10


@pytest.mark.parametrize("code", ["unavailable", "shutting_down", "no_leader", "not_leader"])
def test_a_change_goes_on_at_the_next_host_under_the_same_request_id(
    ctl: Run, manager: FakeManager, others: list[FakeManager], code: str
) -> None:
    manager.refuse["CreateService"] = trouble(code)
    done = ctl("--host", named(manager, *others), "service", "create", "web", "--image=tiny:1")
    assert done.code == 0, done.err
    (here,), (there,) = manager.requests("CreateService"), others[0].requests("CreateService")
    assert here == there
    assert others[0].requests("WatchService")


def test_a_refusal_goes_nowhere_else(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    manager.refuse["ListNodes"] = trouble("denied")
    assert ctl("node", "ls", "--host", named(manager, *others)).code == 6
    assert others[0].requests("ListNodes") == []


def test_hosts_are_asked_in_turn_until_one_answers(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    for fake in (manager, *others):
        fake.refuse["ListNodes"] = deque([GONE, GONE])
    assert ctl("node", "ls", "--host", named(manager, *others)).code == 0
    asked = [len(fake.requests("ListNodes")) for fake in (manager, *others)]
    assert asked[0] >= 3
    assert asked[1:] == [2, 2]


def test_a_daemon_that_dies_between_two_calls(
    ctl: Run, manager: FakeManager, others: list[FakeManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = manager.ListNodes

    def last_words(request: api_pb2.ListNodesRequest) -> api_pb2.ListNodesResponse:
        manager.refuse["ListMembers"] = deque([GONE] * LONG)
        return answer(request)

    monkeypatch.setattr(manager, "ListNodes", last_words)
    assert ctl("node", "ls", "--host", named(manager, *others)).code == 0
    assert others[0].requests("ListMembers")


def test_a_wait_goes_on_at_the_next_host(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    manager.refuse["WatchService"] = deque([GONE] * LONG)
    others[0].services = manager.services
    done = ctl("--host", named(manager, *others), "service", "create", "web", "--image=tiny:1")
    assert done.code == 0, done.err
    assert len(manager.requests("WatchService")) == 1
    assert len(others[0].requests("WatchService")) == 1


# -- without a majority, without a leader --------------------------------------------------------


@pytest.mark.parametrize("words", [("node", "ls"), ("service", "create", "web", "--image=tiny:1")])
def test_without_a_majority_it_fails_at_once(
    ctl: Run, manager: FakeManager, words: tuple[str, ...]
) -> None:
    sentence = "no majority of the managers: b and c are missing"
    for method in ("ListNodes", "CreateService"):
        manager.refuse[method] = trouble("no_quorum", sentence)
    started_s = time.monotonic()
    done = ctl(*words)
    assert time.monotonic() - started_s < 2
    assert (done.code, done.complaint) == (3, f"warrenctl: {sentence}\n")
    assert json.loads(ctl(*words, "--format=json").err)["error"]["code"] == "no_quorum"


def test_another_host_may_have_the_majority(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    manager.refuse["ListNodes"] = trouble("no_quorum")
    assert ctl("node", "ls", "--host", named(manager, *others)).code == 0
    assert len(manager.requests("ListNodes")) == 1


@pytest.mark.parametrize(
    ("code", "exit_code"), [("worker_only", 3), ("not_in_cluster", 1), ("member_removed", 1)]
)
def test_a_host_that_does_not_manage_is_asked_once(
    ctl: Run, manager: FakeManager, others: list[FakeManager], code: str, exit_code: int
) -> None:
    manager.refuse["ListNodes"] = trouble(code, "this host is no manager; ask one")
    assert ctl("node", "ls", "--host", named(manager, *others)).code == 0
    done = ctl("node", "ls")
    assert (done.code, done.complaint) == (
        exit_code,
        "warrenctl: this host is no manager; ask one\n",
    )
    assert len(manager.requests("ListNodes")) == 2


def test_where_the_others_are_gone_who_is_missing_is_what_is_said(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    manager.refuse["ListNodes"] = trouble("no_quorum", "b and c are missing")
    for fake in others:
        fake.refuse["ListNodes"] = deque([GONE] * LONG)
    started_s = time.monotonic()
    done = ctl("node", "ls", "--host", named(manager, *others))
    assert time.monotonic() - started_s < 2
    assert (done.code, done.complaint) == (3, "warrenctl: b and c are missing\n")
    assert [len(fake.requests("ListNodes")) for fake in (manager, *others)] == [1, 1, 1]


def test_who_could_not_be_reached_at_first_has_had_its_turn(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    manager.refuse["ListNodes"] = trouble("no_quorum", "b is missing")
    done = ctl("node", "ls", "--host", f"unix:///nowhere/a.sock,{named(manager)}")
    assert (done.code, done.complaint) == (3, "warrenctl: b is missing\n")
    assert len(manager.requests("ListNodes")) == 1


def test_an_election_that_does_not_end(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ELECTION_TIMEOUT_S", 0.3)
    manager.refuse["ListNodes"] = trouble("no_leader", "no leader at the moment")
    started_s = time.monotonic()
    done = ctl("node", "ls")
    assert 0.3 <= time.monotonic() - started_s < 5
    assert (done.code, done.complaint) == (3, "warrenctl: no leader at the moment\n")


def test_an_election_with_one_host_gone(
    ctl: Run, manager: FakeManager, others: list[FakeManager], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ELECTION_TIMEOUT_S", 0.3)
    manager.refuse["ListNodes"] = trouble("no_leader", "no leader at the moment")
    others[0].refuse["ListNodes"] = deque([GONE] * LONG)
    done = ctl("node", "ls", "--host", named(manager, others[0]))
    assert (done.code, done.complaint) == (3, "warrenctl: no leader at the moment\n")


def test_what_is_no_election_any_more_is_tried_until_the_timeout(
    ctl: Run, manager: FakeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ELECTION_TIMEOUT_S", 0.2)
    manager.refuse["ListNodes"] = deque(
        [
            RefusalError("no_leader", "no leader at the moment"),
            *[RefusalError("overloaded", "full")] * 3,
            RefusalError("no_leader", "no leader at the moment"),
        ]
    )
    assert ctl("node", "ls").code == 0


# -- what concerns one host ----------------------------------------------------------------------


def test_what_is_asked_of_one_node_is_not_asked_of_another(
    ctl: Run, manager: FakeManager, others: list[FakeManager]
) -> None:
    manager.refuse["ListImages"] = deque([GONE])
    assert ctl("image", "ls", "--host", named(manager, *others)).code == 0
    assert len(manager.requests("ListImages")) == 2
    assert others[0].requests("ListImages") == []


def test_joining_is_asked_at_the_socket(ctl: Run, manager: FakeManager) -> None:
    assert ctl("image", "ls", "--host", f"unix:///nowhere/a.sock,{manager.host}").code == 3
    words = ("cluster", "join", "10.0.0.9:2377", "--host")
    assert ctl(*words, f"10.0.0.1:2377,{manager.host}").code == 0
    done = ctl(*words, "10.0.0.1:2377")
    assert done.code == 2
    assert "unix:///" in done.err


def test_a_manager_elsewhere_needs_certificates(ctl: Run) -> None:
    done = ctl("node", "ls", "--host", "127.0.0.1:2377", "--tls-ca", "ca.pem")
    assert done.code == 2
    assert "--tls-ca, --tls-cert and --tls-key" in done.err


# -- stale ---------------------------------------------------------------------------------------


def test_stale_is_asked_for_and_told(ctl: Run, manager: FakeManager) -> None:
    done = ctl("node", "ls", "--stale")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "stale: as one manager has it, which may be old"
    assert manager.stale == {"ListNodes", "ListMembers"}
    (view,) = json.loads(ctl("node", "ls", "--stale", "--format=json").out)
    assert view["stale"] is True
    assert json.loads(ctl("cluster", "info", "--stale", "--format=json").out)["stale"] is True
    assert "stale: as one manager" in ctl("cluster", "info", "--stale").out


def test_nothing_is_stale_unless_asked_for(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "info", "--format=json")
    assert "stale" not in json.loads(done.out)
    assert manager.stale == set()

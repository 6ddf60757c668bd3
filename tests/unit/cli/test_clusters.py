"""Commands about managers and nodes: what they send, wait for and print."""

from __future__ import annotations

import json
from collections import deque

import pytest
import yaml

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import (
    CLUSTER_ID,
    LAST_INDEX,
    NODE_ID,
    OTHER_NODE_ID,
    FakeManager,
    RefusalError,
    member,
)
from warren.pb.v1 import api_pb2, node_pb2, objects_pb2

THIRD_NODE_ID = bytes([0xD0] * 16)


@pytest.fixture
def three(manager: FakeManager) -> FakeManager:
    """A leader, a voter, and a learner that is far behind."""
    manager.members += [
        member(5, OTHER_NODE_ID, address="10.0.0.2:2378", match_index=LAST_INDEX - 1),
        member(6, THIRD_NODE_ID, address="10.0.0.3:2378", match_index=1, voter=False),
    ]
    return manager


# -- looking -------------------------------------------------------------------------------------


def test_members(ctl: Run, three: FakeManager) -> None:
    assert ctl("cluster", "members").out == (
        "ID   NODE           ADDRESS         ROLE               LAG   STATE    RELEASE\n"
        "7    a              10.0.0.1:2378   leader             0     active   0.1.0\n"
        "5    b0b0b0b0b0b0   10.0.0.2:2378   voter              1     active   0.1.0\n"
        "6    d0d0d0d0d0d0   10.0.0.3:2378   learner, to vote   39    active   0.1.0\n"
    )
    leader, *_, learner = json.loads(ctl("cluster", "members", "--format=json").out)
    assert leader["id"] == "7"
    assert (leader["role"], leader["lag"], leader["node"]) == ("leader", 0, "a")
    assert (learner["role"], learner["wanted"], learner["lag"]) == ("learner", "voter", 39)


@pytest.mark.parametrize(
    "words",
    [
        ("cluster", "members"),
        ("cluster", "info"),
        ("cluster", "transfer-leadership"),
        ("node", "inspect", "a"),
    ],
)
def test_of_all_nodes_only_the_managers_are_asked_for(
    ctl: Run, three: FakeManager, words: tuple[str, ...]
) -> None:
    three.nodes = 50
    done = ctl(*words)
    assert done.code == 0, done.err
    asked = three.requests("ListNodes")
    assert asked
    for request in asked:
        assert set(request.node_ids) == {NODE_ID, OTHER_NODE_ID, THIRD_NODE_ID}


def test_what_the_leader_alone_knows_is_null_elsewhere(ctl: Run, three: FakeManager) -> None:
    for each in three.members:
        each.match_index = 0
        each.recent_active = each.member.id == 5
    leader, *others = yaml.safe_load(ctl("cluster", "members", "--format=yaml").out)
    assert (leader["lag"], leader["active"]) == (0, True)
    assert [(view["lag"], view["active"]) for view in others] == [(None, None)] * 2


@pytest.fixture
def follower(manager: FakeManager) -> FakeManager:
    """It knows who leads, and nothing of how far the members are."""
    leader = member(8, OTHER_NODE_ID, address="10.0.0.2:2378", leader=True)
    leader.member.api_address = "10.0.0.2:2377"
    manager.members = [member(7, NODE_ID), leader]
    return manager


def test_members_are_as_the_leader_knows_them_where_it_is_among_the_hosts(
    ctl: Run, follower: FakeManager, others: list[FakeManager]
) -> None:
    leader = member(8, OTHER_NODE_ID, leader=True, match_index=LAST_INDEX)
    others[0].members = [member(7, NODE_ID, match_index=LAST_INDEX - 3), leader]
    hosts = f"--host={follower.host},{others[0].host}"
    _, voter = json.loads(ctl("cluster", "members", hosts, "--format=json").out)
    assert (voter["id"], voter["lag"], voter["active"]) == ("7", 3, True)
    assert "not known" not in ctl("cluster", "members", hosts).out


def test_why_lag_and_state_are_not_known_is_said(ctl: Run, follower: FakeManager) -> None:
    said = "LAG and STATE are not known: the leader alone knows them; "
    shown = ctl("cluster", "members").out.splitlines()
    assert shown[2].split() == ["7", "a", "10.0.0.1:2378", "voter", "-", "-", "0.1.0"]
    assert shown[3:] == [said + "run this on b0b0b0b0b0b0, or with --host 10.0.0.2:2377"]
    gone = ctl("cluster", "members", f"--host={follower.host},unix:///nowhere/w.sock")
    last = gone.out.splitlines()[-1]
    assert last.startswith(said + "run this on b0b0b0b0b0b0")
    assert "no daemon at /nowhere/w.sock" in last
    assert ctl("cluster", "members", "--stale").out.splitlines()[-1] == (
        said + "--stale asks one manager only"
    )
    follower.members[1].leader = False
    assert ctl("cluster", "members").out.splitlines()[-1] == (
        said + "who leads is not known yet: run this again"
    )


def test_info_counts_them(ctl: Run, three: FakeManager) -> None:
    view = json.loads(ctl("cluster", "info", "--format=json").out)
    assert (view["leader"], view["voters"], view["learners"]) == ("a", 2, 1)
    assert [each["id"] for each in view["members"]] == ["7", "5", "6"]
    assert "leader: a" in ctl("cluster", "info").out.splitlines()


def test_a_node_that_learns_to_manage(ctl: Run, manager: FakeManager) -> None:
    manager.members = [member(7, NODE_ID, voter=False), member(5, OTHER_NODE_ID, leader=True)]
    (node,) = json.loads(ctl("node", "ls", "--format=json").out)
    assert (node["member_id"], node["voter"]) == ("7", False)


# -- joining and leaving -------------------------------------------------------------------------


def test_a_worker_joins(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "join", "10.0.0.9:2377")
    assert done.code == 0, done.err
    assert done.out == f"node {NODE_ID.hex()} is a worker of cluster {CLUSTER_ID.hex()}\n"
    (request,) = manager.requests("JoinCluster")
    assert (request.address, request.manager) == ("10.0.0.9:2377", False)
    assert manager.requests("ListMembers") == []


def test_a_worker_that_can_ask_no_manager_is_ready_by_its_own_word(
    ctl: Run, manager: FakeManager
) -> None:
    manager.refuse["GetNode"] = deque([RefusalError("worker_only", "this host is no manager")])
    assert ctl("cluster", "join", "10.0.0.9:2377").code == 0


def test_a_manager_joins_and_votes(ctl: Run, manager: FakeManager) -> None:
    answer = manager.ListMembers
    seen = 0

    def catching_up(request: api_pb2.ListMembersRequest) -> api_pb2.ListMembersResponse:
        nonlocal seen
        seen += 1
        manager.members[-1].voter = seen > 2
        manager.members[-1].match_index = LAST_INDEX - 3
        return answer(request)

    manager.ListMembers = catching_up  # type: ignore[method-assign]
    done = ctl("cluster", "join", "[fd00::9]:2377", "--role=manager")
    assert done.code == 0, done.err
    assert done.out.endswith(", member 9\n")
    assert done.err == "waiting for the manager: member 9 catches up, 3 entries behind\n"
    (request,) = manager.requests("JoinCluster")
    assert (request.address, request.manager) == ("[fd00::9]:2377", True)


def test_a_manager_stays_one_though_it_joins_as_a_worker(ctl: Run, manager: FakeManager) -> None:
    manager.manages = True
    done = ctl("cluster", "join", "a:2377", "--role=worker")
    assert (
        done.out == f"node {NODE_ID.hex()} is a manager of cluster {CLUSTER_ID.hex()}, member 7\n"
    )


def test_a_manager_that_has_not_started_yet(ctl: Run, manager: FakeManager) -> None:
    for method in ("GetNode", "ListMembers"):
        manager.refuse[method] = deque([RefusalError("worker_only", "starting; ask again")] * 2)
    done = ctl("cluster", "join", "a:2377", "--role=manager")
    assert done.code == 0, done.err
    assert done.err == "waiting for the manager: it has not started yet\n"


def test_joining_for_programs(ctl: Run, manager: FakeManager) -> None:
    words = ("cluster", "join", "a:2377", "--role=manager", "--detach", "--format=json")
    assert json.loads(ctl(*words).out) == {
        "id": CLUSTER_ID.hex(),
        "node_id": NODE_ID.hex(),
        "role": "manager",
        "member_id": "9",
    }
    assert manager.requests("GetDaemon") == []


def test_a_join_that_does_not_get_ready(ctl: Run, manager: FakeManager) -> None:
    manager.ready_message = "no manager answers"
    done = ctl("cluster", "join", "a:2377", "--timeout=300ms")
    assert done.code == 1
    assert "this host has joined, but after 0.3 s" in done.err
    assert "no manager answers" in done.err


def test_a_join_is_not_repeated_by_itself(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["JoinCluster"] = deque([RefusalError("outcome_unknown", "no answer")])
    assert ctl("cluster", "join", "a:2377").code == 1
    assert len(manager.requests("JoinCluster")) == 1


@pytest.mark.parametrize("address", ["a", "a:0", "http://a:1", "a:b", ""])
def test_a_join_at_no_address(ctl: Run, manager: FakeManager, address: str) -> None:
    done = ctl("cluster", "join", address)
    assert done.code == 2
    assert "HOST:PORT" in done.err


def test_leaving(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "leave", "--yes", "--force")
    assert (done.code, done.out) == (0, f"node {NODE_ID.hex()} has left its cluster\n")
    assert manager.requests("LeaveCluster") == [node_pb2.LeaveClusterRequest(force=True)]


def test_leaving_is_not_done_in_passing(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "leave")
    assert done.code == 2
    assert "--yes" in done.err
    assert manager.requests("LeaveCluster") == []


# -- members by hand -----------------------------------------------------------------------------


def test_a_member_is_added_by_hand(ctl: Run, manager: FakeManager) -> None:
    done = ctl(
        "cluster",
        "add-member",
        f"--node={OTHER_NODE_ID.hex()}",
        "--data-dir=01234567-89ab-cdef-0123-456789abcdef",
        "--address=10.0.0.2:2378",
        "--api-address=10.0.0.2:2377",
        "--learner",
    )
    assert (done.code, done.out) == (0, "member 8 is added as a learner; it will not vote\n")
    (request,) = manager.requests("AddMember")
    assert request.node_id == OTHER_NODE_ID
    assert request.data_dir.hex() == "0123456789abcdef0123456789abcdef"
    assert (request.address, request.api_address) == ("10.0.0.2:2378", "10.0.0.2:2377")
    assert request.learner_only
    assert len(request.request.client) == 16


def test_of_a_known_node_the_daemon_has_said_the_rest(ctl: Run, manager: FakeManager) -> None:
    answer = manager.GetNode(api_pb2.GetNodeRequest())
    answer.node.node.description.data_dir = bytes(range(16))
    answer.node.node.description.peer_address = "10.0.0.1:2378"
    manager.GetNode = lambda _: answer  # type: ignore[method-assign]
    assert ctl("cluster", "add-member", "a", "--address=10.9.9.9:1").code == 0
    (request,) = manager.requests("AddMember")
    assert (request.node_id, request.data_dir) == (NODE_ID, bytes(range(16)))
    assert request.address == "10.9.9.9:1"


def test_a_node_that_is_a_member_is_added_again_as_that_one(ctl: Run, manager: FakeManager) -> None:
    known = manager.ListMembers(api_pb2.ListMembersRequest())
    member = known.members[0].member
    member.node_id, member.data_dir, member.address = NODE_ID, bytes(range(16)), "10.0.0.1:2378"
    manager.ListMembers = lambda _: known  # type: ignore[method-assign]
    assert ctl("cluster", "add-member", "a").code == 0
    (request,) = manager.requests("AddMember")
    assert (request.node_id, request.data_dir) == (NODE_ID, bytes(range(16)))
    assert request.address == "10.0.0.1:2378"


@pytest.mark.parametrize(
    "words",
    [(), ("a", f"--node={OTHER_NODE_ID.hex()}"), ("a",), ("--node=b0",), ("a", "--data-dir=x")],
)
def test_a_member_that_is_not_said_in_full(
    ctl: Run, manager: FakeManager, words: tuple[str, ...]
) -> None:
    assert ctl("cluster", "add-member", *words).code == 2
    assert manager.requests("AddMember") == []


def test_a_member_is_removed_after_the_lead_was_handed_over(ctl: Run, three: FakeManager) -> None:
    three.refuse["RemoveMember"] = deque([RefusalError("handing_over", "repeat the request")] * 2)
    assert ctl("cluster", "remove-member", "7").out == "member 7 is removed for good\n"
    first, *again = three.requests("RemoveMember")
    assert again == [first, first]
    assert ctl("cluster", "remove-member", "7").code == 4
    assert ctl("cluster", "remove-member", "a").code == 2


@pytest.mark.parametrize(
    ("reference", "target"), [(None, 0), ("5", 5), ("b0b0", 5), (OTHER_NODE_ID.hex(), 5), ("a", 7)]
)
def test_the_lead_is_handed_over(
    ctl: Run, three: FakeManager, reference: str | None, target: int
) -> None:
    words = ("cluster", "transfer-leadership", *([reference] if reference else []))
    done = ctl(*words)
    assert done.code == 0, done.err
    assert [each.member_id for each in three.requests("TransferLeadership")] == [target]
    leader = target or 6
    assert f"leads now (member {leader})" in done.out
    assert json.loads(ctl(*words, "--format=json").out)["member_id"] == str(leader)


def test_the_lead_goes_to_no_stranger(ctl: Run, three: FakeManager) -> None:
    assert ctl("cluster", "transfer-leadership", "nobody").code == 4
    three.members.append(member(4, bytes([0xB0, *[1] * 15])))
    assert ctl("cluster", "transfer-leadership", "b0").code == 2
    assert three.requests("TransferLeadership") == []


# -- nodes ---------------------------------------------------------------------------------------


def test_promote_waits_for_the_vote(ctl: Run, manager: FakeManager) -> None:
    done = ctl("node", "promote", "a")
    assert (done.code, done.out) == (0, "node a is a manager and votes (member 9)\n")
    (request,) = manager.requests("PromoteNode")
    assert request.ref == NODE_ID.hex()
    words = ("node", "promote", "a", "--format=json")
    assert json.loads(ctl(*words).out) == [
        {"id": NODE_ID.hex(), "name": "a", "role": "manager", "member_id": "9"}
    ]


def test_demote_waits_until_it_has_gone(ctl: Run, three: FakeManager) -> None:
    three.refuse["DemoteNode"] = deque([RefusalError("handing_over", "repeat the request")])
    done = ctl("node", "demote", "a")
    assert (done.code, done.out) == (0, "node a is a worker\n")
    first, second = three.requests("DemoteNode")
    assert first == second


@pytest.mark.parametrize("code", ["worker_only", "member_removed"])
def test_a_node_that_demotes_itself(ctl: Run, three: FakeManager, code: str) -> None:
    three.refuse["ListMembers"] = deque([RefusalError(code, "this host is no manager; ask one")])
    assert ctl("node", "demote", "a").code == 0


def test_demote_that_goes_on(ctl: Run, three: FakeManager) -> None:
    three.DemoteNode = lambda _: api_pb2.DemoteNodeResponse()  # type: ignore[method-assign]
    done = ctl("node", "demote", "a", "--timeout=300ms")
    assert done.code == 1
    assert "member 7 is still there" in done.err
    assert ctl("node", "demote", "a", "--detach").code == 0


def test_rm(ctl: Run, manager: FakeManager) -> None:
    assert (
        ctl("node", "rm", "--force", "a", "a0a0a0").out == "node a is removed\nnode a is removed\n"
    )
    assert [each.force for each in manager.requests("RemoveNode")] == [True, True]
    assert len({each.request.sequence for each in manager.requests("RemoveNode")}) == 2
    assert json.loads(ctl("node", "rm", "a", "--format=json").out) == [
        {"id": NODE_ID.hex(), "name": "a"}
    ]


def test_a_name_that_has_gone_is_no_beginning_of_an_id(ctl: Run, manager: FakeManager) -> None:
    done = ctl("node", "rm", "--force", "a0")
    assert done.code == 4
    assert "no node is named `a0`" in done.err
    assert NODE_ID.hex()[:12] in done.err
    assert manager.requests("RemoveNode") == []


def test_a_wrong_name_among_others_changes_nothing(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["GetNode"] = deque([RefusalError("not_found", "no node")])
    assert ctl("node", "rm", "nobody", "a").code == 4
    assert manager.requests("RemoveNode") == []


# -- partition policies --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "policy", "stop_after_ms"),
    [
        ("keep", objects_pb2.PARTITION_POLICY_KEEP, 0),
        ("stop_after=30s", objects_pb2.PARTITION_POLICY_STOP_AFTER, 30_000),
        ("stop-after=1m", objects_pb2.PARTITION_POLICY_STOP_AFTER, 60_000),
        ("singleton=500ms", objects_pb2.PARTITION_POLICY_SINGLETON, 500),
    ],
)
def test_partition(
    ctl: Run, manager: FakeManager, flag: str, policy: int, stop_after_ms: int
) -> None:
    words = ("service", "create", "web", "--image=tiny:1")
    assert ctl(*words, f"--partition={flag}").code == 0
    (request,) = manager.requests("CreateService")
    container = request.spec.container
    assert (container.partition, container.partition_stop_after_ms) == (policy, stop_after_ms)
    view = json.loads(ctl("service", "inspect", "web", "--format=json").out)["container"]
    assert view["partition"] == flag.partition("=")[0].replace("-", "_")
    assert view["partition_stop_after_ms"] == (stop_after_ms or None)


def test_partition_is_updated_and_kept(ctl: Run, manager: FakeManager) -> None:
    assert ctl("service", "create", "web", "--image=tiny:1").code == 0
    view = json.loads(ctl("service", "inspect", "web", "--format=json").out)["container"]
    assert (view["partition"], view["partition_stop_after_ms"]) == ("keep", None)
    assert ctl("service", "update", "web", "--partition=singleton=30s").code == 0
    assert ctl("service", "update", "web", "--memory=1m").code == 0
    assert ctl("service", "update", "web", "--partition=keep").code == 0
    times = [
        each.spec.container.partition_stop_after_ms for each in manager.requests("UpdateService")
    ]
    assert times == [30_000, 30_000, 0]


@pytest.mark.parametrize(
    "flag", ["", "kept", "keep=3s", "stop_after", "singleton=", "singleton=0s", "stop_after=soon"]
)
def test_no_partition_policy(ctl: Run, manager: FakeManager, flag: str) -> None:
    done = ctl("service", "create", "web", "--image=tiny:1", f"--partition={flag}")
    assert done.code == 2
    assert manager.requests("CreateService") == []

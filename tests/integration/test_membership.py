"""A host becomes a worker, a manager, a worker again, and blank: with real daemons, over TLS."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.certificates import TRUST_DOMAIN
from tests.support.containerd import Containerd, runtime_tasks
from tests.support.hosts import Host, leader_of, refusal_of, three_managers
from tests.support.node import FOREVER, eventually
from warren.cluster import files
from warren.cluster.files import ClusterFile
from warren.pb.v1 import api_pb2, objects_pb2

READY = objects_pb2.NODE_STATUS_READY
Made = Callable[..., Host]


def ready(host: Host, of: Host) -> bool:
    node = of.nodes().get(host.node_id)
    return node is not None and node.node.status == READY


def patiently(host: Host, method: str, request: Any) -> None:
    """Call until no other change of the members is under way, and the lead is where it must be."""
    request.request.CopyFrom(host.request_id())

    def done() -> bool:
        host.call(method, request)
        return True

    eventually(done, method)


def blank(host: Host) -> bool:
    described = host.describe()
    files = {path.name for path in host.data_dir.iterdir()}
    return (
        not described.in_cluster
        and not described.manages
        and not files & {"cluster.json", "member.json", "worker.db"}
        and not any((host.data_dir / "raft").iterdir())
    )


def test_what_is_wrong_with_a_join_is_said(hosts: Made) -> None:
    one, worker = hosts(1), hosts(2, manager=False)
    nobody = refusal_of(
        lambda: worker.join(one.api.replace("127.0.0.1", "127.0.0.9"), manager=False)
    )
    assert "nothing listens at" in nobody.message
    outside = refusal_of(lambda: worker.join(one.api, manager=False))
    assert outside.code == "not_in_cluster"
    one.call("InitCluster", api_pb2.InitClusterRequest())
    port = refusal_of(lambda: worker.join(one.peer, manager=False))
    assert "no manager's API" in port.message
    role = refusal_of(lambda: worker.join(one.api, manager=True))
    assert "certificate is a worker's" in role.message
    address = refusal_of(lambda: worker.join("box", manager=False))
    assert "host:port" in address.message
    alone = refusal_of(lambda: one.join(worker.api, manager=True))
    assert alone.code in ("already_in_cluster", "unavailable")
    assert blank(worker)
    founding = refusal_of(lambda: worker.call("InitCluster", api_pb2.InitClusterRequest()))
    assert "certificate is a worker's" in founding.message
    # Once it is right it works, and again it is the same.
    first = worker.join(one.api, manager=False)
    assert worker.join(one.api, manager=False) == first
    eventually(lambda: ready(worker, one), "the worker is ready")
    assert len(one.nodes()) == 2
    identity = worker.start_expecting_refusal(f"--data-dir={one.data_dir}")
    assert identity[0] == 1


def test_promoted_demoted_and_gone(hosts: Made, containerd: Containerd, tiny_image: Path) -> None:
    one, two, three = three_managers(hosts)
    four = hosts(4)
    four.join(one.api, manager=False)
    eventually(lambda: ready(four, one), "it is a worker")
    four.ctl("image", "load", "-i", str(tiny_image))
    one.ctl(
        "service", "create", "--mode=global", "--name=web", "--image=tiny:1", "--detach", *FOREVER
    )
    tasks = eventually(lambda: runtime_tasks(four.containerd_address, four.namespace), "it runs")

    patiently(two, "PromoteNode", api_pb2.PromoteNodeRequest(ref="node-4"))
    eventually(lambda: two.members()[four.node_id].voter, "it votes")
    eventually(lambda: four.describe().manages and four.http("/ready")[0] == 200, "it manages")
    assert four.call("ListServices", api_pb2.ListServicesRequest()).services
    before = json.loads((four.data_dir / "member.json").read_text())

    leader = leader_of([one, two, three, four])
    while leader is four:  # it may be asked to leave all the same; not in this test
        four.call("TransferLeadership", api_pb2.TransferLeadershipRequest())
        leader = leader_of([one, two, three, four])
    patiently(two, "DemoteNode", api_pb2.DemoteNodeRequest(ref="node-4"))
    assert four.node_id not in two.members()
    eventually(lambda: not four.describe().manages, "it manages no more")
    eventually(lambda: four.http("/ready")[0] == 200, "it is a worker again")
    # For a while it still answers the others, in case they need its vote; then the log goes.
    eventually(lambda: (four.data_dir / "raft.old").exists(), "the log is set aside", 60)
    assert json.loads((four.data_dir / "member.json").read_text())["data_dir"] != before["data_dir"]
    assert runtime_tasks(four.containerd_address, four.namespace) == tasks
    patiently(two, "PromoteNode", api_pb2.PromoteNodeRequest(ref="node-4"))
    eventually(lambda: two.members()[four.node_id].voter, "it votes again")
    eventually(lambda: four.describe().manages, "it manages again")

    four.leave()
    assert blank(four)
    assert four.node_id not in two.nodes()
    assert four.node_id not in two.members()
    assert runtime_tasks(four.containerd_address, four.namespace) == {}
    containerd.assert_nothing_left(four.namespace)
    assert "cluster init" in four.http("/ready")[1]

    four.join(two.api, manager=False)
    eventually(lambda: ready(four, two), "it has come back")
    eventually(lambda: runtime_tasks(four.containerd_address, four.namespace), "it works again")
    removal = api_pb2.RemoveNodeRequest(request=two.request_id(), ref="node-4", force=True)
    two.call("RemoveNode", removal)
    eventually(lambda: blank(four), "it knows that it was removed")
    assert "was removed from" in four.http("/ready")[1]
    assert four.alive()


def test_killed_at_any_step_of_joining_it_is_one_member(hosts: Made) -> None:
    """What each step leaves is made by hand: where a kill would have left it, to the byte."""
    one = hosts(1)
    one.call("InitCluster", api_pb2.InitClusterRequest())
    cluster_id = one.call("GetCluster", api_pb2.GetClusterRequest()).cluster.id.hex()
    known = ClusterFile(
        cluster_id=cluster_id, trust_domain=TRUST_DOMAIN, managers=(one.api,), role="worker"
    )
    # Let in, and not yet asked to be a member: a worker, until the command is repeated.
    two = hosts(2, started=False)
    two.data_dir.mkdir()
    files.write(two.data_dir / "cluster.json", known)
    two.start()
    eventually(lambda: ready(two, one), "it is a worker")
    joined = two.join(one.api, manager=True)
    assert two.join(one.api, manager=True) == joined

    # A member, and no log yet: the leader's word opens it.
    three = hosts(3, started=False)
    three.data_dir.mkdir()
    files.write(three.data_dir / "cluster.json", known)
    member = files.new_member()
    files.write(three.data_dir / "member.json", member)
    added = one.call_as(
        three.files,
        "AddMember",
        api_pb2.AddMemberRequest(
            data_dir=bytes.fromhex(member.data_dir),
            node_id=bytes.fromhex(three.node_id),
            address=three.peer,
            api_address=three.api,
        ),
    )
    three.start()
    eventually(lambda: three.describe().manages, "it has opened its log")
    assert three.join(one.api, manager=True).member_id == added.member_id
    eventually(lambda: [v.voter for v in one.members().values()] == [True] * 3, "three vote")
    assert two.join(three.api, manager=True).member_id == joined.member_id

    # A log that was lost is not begun anew under the same name.
    three.kill()
    (three.data_dir / "raft").rename(three.root / "lost")
    three.start()
    eventually(lambda: "not here any more" in three.http("/ready")[1], "it says what it lacks")
    eventually(lambda: ready(three, one), "it is a worker all the same")
    assert not any((three.data_dir / "raft").iterdir())
    assert not three.describe().manages
    refused = refusal_of(lambda: three.join(one.api, manager=True))
    assert "not here any more" in refused.message
    patiently(one, "DemoteNode", api_pb2.DemoteNodeRequest(ref="node-3"))
    eventually(lambda: three.http("/ready")[0] == 200, "nothing is lacking any more")
    assert three.join(one.api, manager=True).member_id != added.member_id
    eventually(lambda: three.describe().manages, "it manages as another member")


def test_a_leader_that_was_just_demoted_is_not_made_a_member_that_it_cannot_be(
    hosts: Made,
) -> None:
    """It comes back as a worker, to another leader, before it has heard that it manages no more."""
    one, two = hosts(1), hosts(2)
    one.call("InitCluster", api_pb2.InitClusterRequest())
    two.join(one.api, manager=True)
    eventually(lambda: sum(view.voter for view in one.members().values()) == 2, "two vote")
    eventually(lambda: ready(two, one), "both are ready")
    member = one.members()[two.node_id].member.id
    request = api_pb2.TransferLeadershipRequest(member_id=member)
    one.call("TransferLeadership", request)
    eventually(lambda: one.members()[two.node_id].leader, "it leads")
    eventually(lambda: ready(two, one), "both are ready")
    one.ctl("node", "demote", "node-2")
    eventually(lambda: not two.describe().manages, "it is a worker")
    done = one.run("node", "promote", "node-2", "--timeout=20s")
    assert done.returncode == 0 or "putting its log aside" in done.stderr, done.stderr

"""Three managers and a worker, each a real daemon, over TLS: any of them answers, one may die."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support import metrics_page
from tests.support.containerd import runtime_tasks
from tests.support.hosts import Host, leader_of, refusal_of, three_managers
from tests.support.node import FOREVER, eventually
from warren import rpc
from warren.pb.v1 import api_pb2, objects_pb2

READY = objects_pb2.NODE_STATUS_READY
Made = Callable[..., Host]


def test_any_answers_and_a_worker_follows_the_leader(hosts: Made, tiny_image: Path) -> None:
    managers = three_managers(hosts)
    leader = leader_of(managers)
    follower = next(host for host in managers if host is not leader)
    worker = hosts(4, manager=False)
    worker.join(follower.api, manager=False)
    worker.wait_ready()
    eventually(
        lambda: (
            len(nodes := follower.nodes()) == 4
            and all(view.node.status == READY for view in nodes.values())
        ),
        "all four are ready",
    )
    for host in [*managers, worker]:
        host.ctl("image", "load", "-i", str(tiny_image))

    # Through one that does not lead, and by a person from another host.
    follower.ctl("service", "create", "--mode=global", "--name=web", "--image=tiny:1", *FOREVER)
    ann = leader.authority.client("ann")
    services = follower.call_as(ann, "ListServices", api_pb2.ListServicesRequest()).services
    assert [view.service.spec.name for view in services] == ["web"]
    assert 'warren_forwards_total{result="answered"}' in follower.http("/metrics")[1]
    eventually(
        lambda: all(
            f'warren_container_{what}{{container="' in leader.http("/metrics")[1]
            for what in ("cpu_seconds_total", "working_set_bytes", "restarts_total")
        ),
        "what the container uses is exported",
    )
    assert not metrics_page.differences(host.http("/metrics")[1] for host in [*managers, worker])
    assert refusal_of(lambda: worker.call("ListNodes", api_pb2.ListNodesRequest())).code == (
        "worker_only"
    )
    tasks = runtime_tasks(worker.containerd_address, worker.namespace)
    assert len(tasks) == 1

    leader.kill()
    rest = [host for host in managers if host is not leader]
    successor = leader_of(rest)
    eventually(lambda: worker.http("/ready")[0] == 200, "the worker has found the new leader")
    eventually(
        lambda: successor.nodes()[worker.node_id].node.status == READY, "the worker is ready"
    )
    rest[0].ctl(
        "service", "create", "--mode=global", "--name=more", "--image=tiny:1", "--detach", *FOREVER
    )
    eventually(
        lambda: runtime_tasks(worker.containerd_address, worker.namespace).keys() > tasks.keys(),
        "the worker hears of what is new, and what ran goes on",
    )
    # What a manager knows by itself needs nobody; what is to be up to date does.
    rest[1].kill()
    stale = rest[0].call(
        "GetCluster", api_pb2.GetClusterRequest(), metadata=((rpc.STALE_KEY, "1"),)
    )
    assert stale.stale
    assert eventually(
        lambda: (
            refusal_of(lambda: rest[0].call("GetCluster", api_pb2.GetClusterRequest())).code
            == "no_quorum"
        ),
        "it is said that there is no majority",
    )
    # The worker goes on, also if it starts anew without anybody to ask.
    before = runtime_tasks(worker.containerd_address, worker.namespace)
    worker.kill()
    worker.start()
    eventually(lambda: "no session" in worker.http("/ready")[1], "it says what it lacks")
    assert runtime_tasks(worker.containerd_address, worker.namespace) == before

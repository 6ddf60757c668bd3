"""Two of three managers are lost: the third goes on alone, and the lost come back as workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.containerd import Containerd, end_tasks, runtime_tasks
from tests.support.hosts import Host
from tests.support.node import FOREVER, eventually
from warren.pb.v1 import api_pb2, objects_pb2

READY = objects_pb2.NODE_STATUS_READY
Made = Callable[..., Host]


@pytest.fixture
def hosts(containerd: Containerd, tmp_path: Path) -> Iterator[Made]:
    """Makes started hosts; each ends with the test, whatever became of it."""
    authority = Authority(tmp_path / "ca")
    made: list[Host] = []

    def make(number: int, *, manager: bool = True) -> Host:
        host = Host(containerd, authority, number, manager=manager)
        made.append(host)
        host.start()
        return host

    yield make
    for host in made:
        host.discard()
        end_tasks(containerd.address, host.namespace)


def test_a_survivor_goes_on_and_the_lost_cannot_come_back_unnoticed(
    hosts: Made, tiny_image: Path, tmp_path: Path
) -> None:
    one, two, three = hosts(1), hosts(2), hosts(3)
    one.call("InitCluster", api_pb2.InitClusterRequest())
    for host in (two, three):
        host.join(one.api, manager=True)
    eventually(lambda: sum(view.voter for view in one.members().values()) == 3, "three vote")
    eventually(
        lambda: [view.node.status for view in one.nodes().values()] == [READY] * 3, "three ready"
    )
    for host in (one, two, three):
        host.ctl("image", "load", "-i", str(tiny_image))
    three.ctl("service", "create", "--mode=global", "--name=web", "--image=tiny:1", *FOREVER)
    tasks = {h.number: runtime_tasks(h.containerd_address, h.namespace) for h in (one, two, three)}
    one.kill()
    two.kill()

    code, said = three.refused("service", "ls")
    assert (code, "2 of 3" in said) == (3, True), said
    stale = three.json("cluster", "backup", "save", "--stale", str(tmp_path / "stale"))
    assert (stale["stale"], stale["services"]) == (True, 1)
    done = three.json("cluster", "recover", "--from-quorum-loss", "--yes")
    assert (done["epoch"], len(done["removed"])) == (2, 2)
    three.wait_ready()
    assert [each["id"] for each in three.json("cluster", "members")] == [done["member_id"]]
    assert [each["name"] for each in three.json("service", "ls")] == ["web"]
    assert runtime_tasks(three.containerd_address, three.namespace) == tasks[3]

    # Together they would be a majority of the old epoch.
    one.start()
    two.start()
    eventually(lambda: three.nodes()[one.node_id].node.status == READY, "one follows", 60)
    eventually(lambda: three.nodes()[two.node_id].node.status == READY, "two follows", 60)
    for host in (one, two):
        eventually(lambda host=host: not host.describe().manages, "its manager has ended")
        assert "went on without this manager" in host.log()
        assert runtime_tasks(host.containerd_address, host.namespace) == tasks[host.number]
    three.ctl("node", "promote", "node-1")
    eventually(lambda: sum(view.voter for view in three.members().values()) == 2, "two vote")
    assert one.json("cluster", "info")["epoch"] == 2

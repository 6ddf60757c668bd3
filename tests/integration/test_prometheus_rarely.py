"""Alerts that hardly ever fire, each with its fault on real daemons: see test_prometheus.py."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.support.containerd import Containerd
from tests.support.counted import Script, load
from tests.support.disk import leave_free
from tests.support.hosts import Host
from tests.support.node import WarrenNode, eventually
from tests.support.prometheus import Prometheus, Targets, clears, fires
from tests.support.wal_edit import falsify
from tests.unit.deploy.rules import ALERTS
from warren.pb.v1 import api_pb2

Made = Callable[..., Host]
Watch = Callable[[Targets], Prometheus]

HASH_EVERY = 256
"""Members compare their states at each multiple of this index."""
AHEAD_S = 30


def _address(node: WarrenNode) -> str:
    return f"127.0.0.1:{node.metrics_port}"


def test_each_alert_is_caused_by_a_test() -> None:
    written = "".join(
        path.read_text() for path in Path(__file__).parent.glob("test_prometheus*.py")
    )
    assert {name for name in ALERTS if f'"{name}"' not in written} == set()


def test_what_waits_for_a_node_fires_and_clears(node: WarrenNode, watch: Watch) -> None:
    prometheus = watch({"managers": {"node-1": _address(node)}, "workers": {}})
    eventually(lambda: prometheus.health() == {"node-1": "up"}, "it is scraped")
    where = "--constraint=node.labels.zone==north"
    node.ctl("service", "create", "waits", "--image=tiny:1", "--replicas=2", where, "--detach")
    fires(prometheus, {"WarrenContainersPending"})
    assert prometheus.firing()["WarrenContainersPending"]["summary"] == (
        "test.example: 2 containers wait for a node"
    )
    # As the runbook has it: a node that suits them.
    node.ctl("node", "update", "node-1", "--label-add=zone=north")
    clears(prometheus)
    node.ctl("service", "rm", "waits")


def test_a_disk_with_little_room_fires_before_it_is_full(
    containerd: Containerd, small_disk: Path, watch: Watch
) -> None:
    node = WarrenNode(containerd.address, containerd.new_namespace(), small_disk)
    node.env["WARREN_WAL_SEGMENT_BYTES"] = str(1 << 20)
    node.up()
    try:
        prometheus = watch({"managers": {"node-1": _address(node)}, "workers": {}})
        eventually(lambda: prometheus.health() == {"node-1": "up"}, "it is scraped")
        ballast = leave_free(small_disk, 3 << 20)
        fires(prometheus, {"WarrenDiskNearFull"})
        assert "WarrenDiskFull" not in prometheus.firing()
        ballast.unlink()
        clears(prometheus)
    finally:
        node.kill()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler to make a clock wrong")
def test_a_wrong_clock_fires_and_clears(hosts: Made, watch: Watch, tmp_path: Path) -> None:
    manager = hosts(1)
    manager.call("InitCluster", api_pb2.InitClusterRequest())
    worker = hosts(2, manager=False, started=False)
    clock = Clock(worker, tmp_path)
    worker.start()
    worker.join(manager.api, manager=False)
    worker.wait_ready()
    targets = {"managers": {"node-1": _address(manager)}, "workers": {"node-2": _address(worker)}}
    prometheus = watch(targets)
    eventually(lambda: prometheus.health() == {"node-1": "up", "node-2": "up"}, "both are scraped")
    for ahead_s in (AHEAD_S, -AHEAD_S):
        clock.set(ahead_s)
        fires(prometheus, {"WarrenClockSkew"})
        assert _address(worker) in prometheus.firing()["WarrenClockSkew"]["summary"]
        assert prometheus.firing().keys() == {"WarrenClockSkew"}, "nothing else depends on it"
        clock.set(0)
        clears(prometheus)


def test_many_lost_workers_fire_and_clear(hosts: Made, watch: Watch) -> None:
    manager = hosts(1)
    manager.call("InitCluster", api_pb2.InitClusterRequest())
    manager.ctl("cluster", "update", "--node-grace=5s")
    workers = [hosts(number, manager=False) for number in range(2, 6)]
    for worker in workers:
        worker.join(manager.api, manager=False)
        worker.wait_ready()
    targets = {
        "managers": {"node-1": _address(manager)},
        "workers": {f"node-{worker.number}": _address(worker) for worker in workers},
    }
    prometheus = watch(targets)
    eventually(lambda: set(prometheus.health().values()) == {"up"}, "all are scraped")
    lost = workers[1:]  # three of five
    for worker in lost:
        worker.kill()
    fires(prometheus, {"WarrenReplacementFrozen", "WarrenNodeDown", "WarrenTargetDown"})
    for worker in lost:
        worker.start()
    clears(prometheus)


def test_states_that_differ_fire_and_clear(hosts: Made, watch: Watch, tiny_image: Path) -> None:
    """Two managers: neither has a majority, so both go on and say so."""
    one, two = hosts(1), hosts(2)
    one.call("InitCluster", api_pb2.InitClusterRequest())
    two.join(one.api, manager=True)
    eventually(lambda: sum(view.voter for view in one.members().values()) == 2, "two vote")
    load(one, tiny_image)
    script = Script(one)
    script.create(script.spec("truth", 0, env=["A=right"]))
    managers = {"node-1": _address(one), "node-2": _address(two)}
    prometheus = watch({"managers": managers, "workers": {}})
    eventually(lambda: prometheus.health() == {"node-1": "up", "node-2": "up"}, "both are scraped")

    two.kill()
    assert falsify(two.data_dir / "raft" / "wal", b"A=right", b"A=wrong") == 1
    two.start()
    for host in (one, two):
        host.wait_ready()
    for number in range(HASH_EVERY):
        script.create(script.spec(f"filler-{number}", 0))
    fires(prometheus, {"WarrenStateDiverged"})
    counts = "warren_state_hash_mismatches_total"
    eventually(lambda: [host.metric(counts) for host in (one, two)] == [1, 1], "both say so")

    # As the runbook has it: who is wrong is no manager any more, and the other counts anew.
    one.ctl("node", "demote", "node-2")
    eventually(lambda: not two.describe().manages, "it is a worker")
    one.stop()
    one.start()
    one.wait_ready()
    clears(prometheus)
    answer = one.call("GetService", api_pb2.GetServiceRequest(ref="truth"))
    assert list(answer.service.service.spec.container.env) == ["A=right"]

"""Alerts on what daemons say of themselves and how they come and go: see test_prometheus.py."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable

import pytest

from tests.support.containerd import Containerd
from tests.support.hosts import Host, leader_of, three_managers
from tests.support.node import WarrenNode, eventually
from tests.support.prometheus import (
    ALERT_DEADLINE_S,
    Prometheus,
    Targets,
    clears,
    fires,
)
from tests.support.strace import injected

Made = Callable[..., Host]
Watch = Callable[[Targets], Prometheus]


def _watched(watch: Watch, *nodes: WarrenNode) -> Prometheus:
    names = {f"node-{number}": node for number, node in enumerate(nodes, 1)}
    managers = {name: f"127.0.0.1:{node.metrics_port}" for name, node in names.items()}
    prometheus = watch({"managers": managers, "workers": {}})
    up = dict.fromkeys(names, "up")
    eventually(lambda: prometheus.health() == up, "all are scraped")
    return prometheus


def test_a_dead_containerd_fires_and_clears(own_containerd: Containerd, watch: Watch) -> None:
    node = WarrenNode(own_containerd.address, own_containerd.new_namespace())
    try:
        node.up()
        prometheus = _watched(watch, node)
        own_containerd.stop()
        fires(prometheus, {"WarrenNotReady"})
        assert "containerd does not work" in prometheus.firing()["WarrenNotReady"]["summary"]
        assert prometheus.firing().keys() == {"WarrenNotReady"}, "the rest goes on"
        own_containerd.start()
        clears(prometheus)
    finally:
        node.kill()


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to make the disk hang")
def test_a_hanging_disk_fires_and_clears(node: WarrenNode, watch: Watch) -> None:
    prometheus = _watched(watch, node)

    def write() -> None:
        node.run("service", "create", "waits", "--image=tiny:1", "--replicas=0", "--detach")

    # It was the leader when it could still tell.
    writing = threading.Thread(target=write)
    with injected(node.pid, "fdatasync", "delay_enter=20s"):
        writing.start()
        fires(prometheus, {"WarrenNoLeader", "WarrenNotReady"})
        assert node.metric("warren_raft_is_leader") == 1
    writing.join()
    clears(prometheus)


def test_a_daemon_that_dies_again_and_again_fires_and_clears(
    node: WarrenNode, watch: Watch
) -> None:
    prometheus = _watched(watch, node)

    def dies_until_it_fires() -> bool:
        node.kill()
        node.start()
        node.wait_ready()
        return "WarrenDaemonRestarts" in prometheus.firing()

    eventually(dies_until_it_fires, "it fires", ALERT_DEADLINE_S)
    clears(prometheus)


def test_a_lead_that_moves_again_and_again_fires_and_clears(hosts: Made, watch: Watch) -> None:
    managers = three_managers(hosts)
    prometheus = _watched(watch, *managers)

    def moves_until_it_fires() -> bool:
        leader = leader_of(managers)
        to = next(host for host in managers if host is not leader)
        leader.ctl("cluster", "transfer-leadership", f"node-{to.number}")
        return "WarrenLeaderUnstable" in prometheus.firing()

    eventually(moves_until_it_fires, "it fires", ALERT_DEADLINE_S)
    clears(prometheus)


def test_more_of_a_standing_trouble_fires_and_clears(node: WarrenNode, watch: Watch) -> None:
    prometheus = _watched(watch, node)
    where = "--constraint=node.labels.zone==nowhere"
    node.ctl("service", "create", "old", "--image=tiny:1", where, "--detach")
    before = "max_over_time(cluster_trouble:warren_troubles:leader[10s] offset 20s) > 0"
    eventually(lambda: prometheus.query(before), "it has stood for a while", ALERT_DEADLINE_S)
    assert "WarrenGettingWorse" not in prometheus.firing()
    node.ctl("service", "create", "new", "--image=tiny:1", "--replicas=3", where, "--detach")
    fires(prometheus, {"WarrenGettingWorse"})
    assert prometheus.firing()["WarrenGettingWorse"]["summary"] == (
        "test.example: 4 containers waiting, more than before"
    )
    node.ctl("service", "rm", "new")
    eventually(
        lambda: "WarrenGettingWorse" not in prometheus.firing(), "as before", ALERT_DEADLINE_S
    )
    assert "WarrenContainersPending" in prometheus.firing()
    node.ctl("service", "rm", "old")
    clears(prometheus)

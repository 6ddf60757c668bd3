"""Debian's Prometheus on real daemons, with the rules that are shipped."""

from __future__ import annotations

import json
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from prometheus_client.openmetrics import parser as om_parser

from tests.support.containerd import Containerd
from tests.support.disk import fill, write_much
from tests.support.hosts import Host, leader_of, three_managers
from tests.support.node import WarrenNode, eventually
from tests.support.prometheus import ALERT_DEADLINE_S, Prometheus, Targets, clears, fires
from tests.support.strace import injected
from tests.unit.deploy.rules import ALERTS, RECORDS, families_of_all_rules
from warren.observe import openmetrics
from warren.pb.v1 import objects_pb2

Made = Callable[..., Host]
Watch = Callable[[Targets], Prometheus]


def _metrics_of(host: WarrenNode) -> str:
    return f"127.0.0.1:{host.metrics_port}"


def test_every_metric_in_the_rules_is_exported(node: WarrenNode) -> None:
    exported = set(re.findall(r"^# TYPE (\w+) ", node.http("/metrics")[1], re.MULTILINE))
    assert families_of_all_rules() - exported == set()


def test_it_scrapes_all_and_what_is_lost_fires_and_clears(hosts: Made, watch: Watch) -> None:
    managers = three_managers(hosts)
    worker = hosts(4, manager=False)
    worker.join(managers[0].api, manager=False)
    worker.wait_ready()
    leader = leader_of(managers)
    leader.ctl("cluster", "update", "--node-grace=5s")
    targets = {
        "managers": {f"node-{host.number}": _metrics_of(host) for host in managers},
        "workers": {"node-4": _metrics_of(worker)},
    }
    prometheus = watch(targets)
    nodes = {f"node-{host.number}": "up" for host in [*managers, worker]}
    eventually(lambda: prometheus.health() == nodes, "all targets are scraped")
    eventually(lambda: set(prometheus.rules().values()) == {"ok"}, "all rules are evaluated")
    assert prometheus.rules().keys() == ALERTS.keys() | RECORDS.keys()
    eventually(
        lambda: all(prometheus.query(name) for name in RECORDS),
        "all that is recorded has samples",
    )
    voters = prometheus.query("cluster:warren_raft_voters:leader")
    assert [float(sample["value"][1]) for sample in voters] == [3.0]
    eventually(lambda: not prometheus.firing(), "nothing is wrong")

    first, second = (host for host in managers if host is not leader)
    first.kill()
    fires(prometheus, {"WarrenTargetDown", "WarrenQuorumAtRisk", "WarrenNodeDown"})
    assert prometheus.firing()["WarrenQuorumAtRisk"]["summary"] == (
        "test.example: 1 managers are missing"
    )
    second.kill()
    fires(prometheus, {"WarrenTargetDown", "WarrenNoLeader"})
    worker.kill()

    for host in (first, second, worker):
        host.start()
    ready = objects_pb2.NODE_STATUS_READY
    eventually(
        lambda: [view.node.status for view in leader.nodes().values()] == [ready] * 4,
        "all nodes are back",
    )
    clears(prometheus)


def test_what_fails_and_what_is_slow_fires_and_clears(node: WarrenNode, watch: Watch) -> None:
    prometheus = watch({"managers": {"node-1": _metrics_of(node)}, "workers": {}})
    eventually(lambda: prometheus.health() == {"node-1": "up"}, "it is scraped")

    node.ctl("service", "create", "brief", "--image=tiny:1", "--detach", "--", "false")
    fires(prometheus, {"WarrenCrashLoops"})
    # As its page has it: which services are these?
    header, row = node.ctl("service", "ls").splitlines()
    assert (header.split()[4], row.split()[4]) == ("LOOPING", "1"), (header, row)
    node.ctl("service", "rm", "brief")
    clears(prometheus)

    for _ in range(3):
        node.refused("service", "inspect", "absent")
    fires(prometheus, {"WarrenApiErrors"})
    clears(prometheus)

    where = "--constraint=node.labels.zone==nowhere"
    node.ctl("service", "create", "lost", "--image=tiny:1", "--replicas=20", where, "--detach")
    fires(prometheus, {"WarrenSchedulingFailures"})
    node.ctl("service", "rm", "lost")
    clears(prometheus)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to make the disk slow")
def test_a_slow_disk_fires_and_clears(node: WarrenNode, watch: Watch) -> None:
    prometheus = watch({"managers": {"node-1": _metrics_of(node)}, "workers": {}})
    eventually(lambda: prometheus.health() == {"node-1": "up"}, "it is scraped")
    slow = {"WarrenFsyncSlow", "WarrenCommitsSlow", "WarrenApiSlow"}

    def writes_until_it_fires() -> bool:
        node.ctl("service", "create", "one", "--image=tiny:1", "--replicas=0", "--detach")
        node.ctl("service", "rm", "one")
        return prometheus.firing().keys() >= slow

    with injected(node.pid, "fdatasync", "delay_enter=1200ms"):
        eventually(writes_until_it_fires, f"{slow} fire", ALERT_DEADLINE_S)
    clears(prometheus)


def test_a_full_disk_fires_and_clears(
    containerd: Containerd, small_disk: Path, tiny_image: Path, watch: Watch
) -> None:
    node = WarrenNode(containerd.address, containerd.new_namespace(), small_disk)
    node.env["WARREN_WAL_SEGMENT_BYTES"] = str(1 << 20)
    node.up()
    node.ctl("image", "load", "-i", str(tiny_image))
    try:
        prometheus = watch({"managers": {"node-1": _metrics_of(node)}, "workers": {}})
        eventually(lambda: prometheus.health() == {"node-1": "up"}, "it is scraped")
        ballast = fill(small_disk)
        with pytest.raises(grpc.RpcError, match="no space"):
            write_much(node)
        fires(prometheus, {"WarrenDiskFull"})
        ballast.unlink()
        clears(prometheus)
    finally:
        node.kill()


def test_a_slow_request_is_found_by_its_example(node: WarrenNode, watch: Watch) -> None:
    prometheus = watch({"managers": {"here": _metrics_of(node)}, "workers": {}})
    eventually(lambda: prometheus.health() == {"here": "up"}, "it is scraped")
    node.ctl("debug", "log-level", "api", "debug")
    began = time.time()
    node.ctl("service", "create", "web", "--image=tiny:1", "--detach")
    name = "warren_service_create_duration_seconds_bucket"
    [found] = eventually(
        lambda: prometheus.ask("query_exemplars", query=name, start=began, end=time.time() + 1),
        "it has an example",
    )
    [example] = found["exemplars"]
    assert 0 < float(example["value"]) < time.time() - began
    request_id = example["labels"]["request_id"]
    lines = [json.loads(line) for line in node.log_path.read_text().splitlines()]
    named = [line for line in lines if line.get("request_id") == request_id]
    assert {line["method"] for line in named if line["component"] == "api"} == {"CreateService"}


def test_whoever_asks_for_openmetrics_gets_it(node: WarrenNode) -> None:
    request = urllib.request.Request(
        f"http://{_metrics_of(node)}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"] == openmetrics.CONTENT_TYPE
        text = answer.read().decode()
    families = {it.name: it.type for it in om_parser.text_string_to_metric_families(text)}
    assert families["warren_api_requests"] == "counter"
    assert families["warren_nodes_total"] == "gauge"
    told = set(re.findall(r"^# TYPE (\w+) ", node.http("/metrics")[1], re.MULTILINE))
    assert {name.removesuffix("_total") for name in told} == {
        name.removesuffix("_total") for name in families
    }

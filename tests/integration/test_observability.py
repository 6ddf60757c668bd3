"""What dashboards, alerts and probes out there rely on, asked of the real daemon."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.support.containerd import Containerd
from tests.support.node import WarrenNode, eventually
from warren import __version__

DEFAULT_BOUNDS = "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 +Inf"
METHODS = ("CreateService", "UpdateService", "RemoveService", "ListServices", "ListContainers")
STATES = ("pending", "assigned", "preparing", "starting", "running", "complete", "failed")

# The catalogue's metrics that a one-node cluster has, with the labels that are there before
# anything happened. All these histograms have the classic buckets.
CATALOGUE = {
    "warren_nodes_total": (
        "gauge",
        ['role="hybrid",status="ready"', 'role="hybrid",status="down"'],
    ),
    "warren_services_total": ("gauge", [""]),
    "warren_volumes_total": ("gauge", [""]),
    "warren_containers_total": ("gauge", [f'state="{state}"' for state in STATES]),
    "warren_raft_is_leader": ("gauge", [""]),
    "warren_raft_peers_total": ("gauge", [""]),
    "warren_raft_log_index": ("gauge", [""]),
    "warren_raft_applied_index": ("gauge", [""]),
    "warren_raft_commit_duration_seconds": ("histogram", [""]),
    "warren_raft_apply_duration_seconds": ("histogram", [""]),
    "warren_scheduling_latency_seconds": ("histogram", [""]),
    "warren_containers_scheduled_total": ("counter", [""]),
    "warren_containers_failed_total": ("counter", [""]),
    "warren_api_requests_total": (
        "counter",
        [f'method="{m}",status="{s}"' for m in METHODS for s in ("success", "error")],
    ),
    "warren_api_request_duration_seconds": ("histogram", [f'method="{m}"' for m in METHODS]),
    "warren_service_create_duration_seconds": ("histogram", [""]),
    "warren_service_update_duration_seconds": ("histogram", [""]),
    "warren_service_delete_duration_seconds": ("histogram", [""]),
    "warren_container_create_duration_seconds": ("histogram", [""]),
    "warren_container_start_duration_seconds": ("histogram", [""]),
    "warren_container_stop_duration_seconds": ("histogram", [""]),
    "warren_reconciliation_duration_seconds": ("histogram", [""]),
    "warren_reconciliation_cycles_total": ("counter", [""]),
    "warren_reconciler_missed_total": ("counter", [""]),
    "warren_reconciler_frozen": ("gauge", [""]),
}
# Zero until somebody creates a service, and never anything else before.
ZERO_AT_FIRST = [
    "warren_services_total",
    "warren_volumes_total",
    *(f'warren_containers_total{{state="{state}"}}' for state in STATES),
    "warren_containers_scheduled_total",
    "warren_containers_failed_total",
    "warren_service_create_duration_seconds_count",
    "warren_container_start_duration_seconds_count",
    "warren_scheduling_latency_seconds_count",
    'warren_api_requests_total{method="CreateService",status="success"}',
    "warren_reconciler_missed_total",
    "warren_reconciler_frozen",
]


@pytest.fixture(scope="module")
def quiet(containerd: Containerd) -> Iterator[WarrenNode]:
    """A one-node cluster in which nothing ever happens."""
    node = WarrenNode(containerd.address, containerd.new_namespace())
    node.up()
    yield node
    node.close()


@pytest.fixture(scope="module")
def catalogue(quiet: WarrenNode) -> str:
    """The first scrape of a new one-node cluster."""
    return quiet.http("/metrics")[1]


def samples_of(node: WarrenNode) -> dict[str, float]:
    """Each sample's value by its name with labels, as it stands in the text."""
    lines = node.http("/metrics")[1].splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_is_there_from_the_first_scrape(catalogue: str, name: str) -> None:
    kind, labels = CATALOGUE[name]
    assert f"# TYPE {name} {kind}\n" in catalogue
    for label in labels:
        if kind != "histogram":
            assert f"{name}{{{label}}} " in catalogue or (not label and f"\n{name} " in catalogue)
            continue
        prefix = re.escape(f"{name}_bucket{{{label}{',' if label else ''}le=")
        bounds = re.findall(rf'^{prefix}"([^"]+)"}} ', catalogue, re.MULTILINE)
        assert " ".join(bounds) == DEFAULT_BOUNDS


def test_what_has_not_happened_is_zero_and_what_has_is_counted(node: WarrenNode) -> None:
    before = samples_of(node)
    assert {name: before[name] for name in ZERO_AT_FIRST} == dict.fromkeys(ZERO_AT_FIRST, 0.0)
    node.ctl("service", "create", "web", "--image=tiny:1", "--replicas=2", "--stop-timeout=1s",
             "--", "sleep", "1000")  # fmt: skip
    eventually(
        # A scrape is at most a second old.
        lambda: samples_of(node)["warren_container_start_duration_seconds_count"] == 2,
        "both starts are counted",
    )
    after = samples_of(node)
    assert after["warren_services_total"] == 1
    assert after['warren_containers_total{state="running"}'] == 2
    assert after["warren_containers_scheduled_total"] == 2
    assert after["warren_scheduling_latency_seconds_count"] == 2
    assert after["warren_service_create_duration_seconds_count"] == 1
    assert after['warren_api_requests_total{method="CreateService",status="success"}'] == 1
    assert after['warren_nodes_total{role="hybrid",status="ready"}'] == 1
    assert after["warren_raft_is_leader"] == 1
    assert after["warren_raft_peers_total"] == 1
    assert after["warren_raft_applied_index"] <= after["warren_raft_log_index"]
    assert after["warren_raft_commit_duration_seconds_count"] > 0
    assert after["warren_reconciler_missed_total"] == 0
    node.ctl("service", "rm", "web")
    eventually(
        lambda: samples_of(node)["warren_container_stop_duration_seconds_count"] == 2,
        "both stops are counted",
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_reads_it(catalogue: str) -> None:
    # Lint findings about names are exit code 3: the names are a contract. 1 is a broken text.
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=catalogue,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode in (0, 3), checked.stderr


@pytest.mark.parametrize(("path", "word"), [("/health", "healthy"), ("/ready", "ready")])
def test_a_probe_says_how_each_component_is(quiet: WarrenNode, path: str, word: str) -> None:
    status, body = quiet.http(path)
    answer = json.loads(body)
    assert status == 200
    assert list(answer) == ["status", "timestamp", "version", "uptime", "components"]
    assert answer["status"] == word
    assert answer["version"] == __version__
    assert re.fullmatch(r"(\d+h)?(\d+m)?\d+s", answer["uptime"])
    assert answer["timestamp"].endswith("Z")
    told = datetime.fromisoformat(answer["timestamp"])
    assert abs((datetime.now(UTC) - told).total_seconds()) < 5
    assert answer["components"] == dict.fromkeys(("raft", "containerd", "api"), word)


def test_each_component_has_a_page(quiet: WarrenNode) -> None:
    pages = {name: quiet.http(f"/health/{name}") for name in ("raft", "containerd", "api")}
    told = {name: json.loads(body) for name, (_, body) in pages.items()}
    assert {status for status, _ in pages.values()} == {200}
    assert {name: page["component"] for name, page in told.items()} == {name: name for name in told}
    assert all(page["critical"] and page["measured_ms_ago"] <= 1000 for page in told.values())
    assert told["raft"]["details"]["leader"]
    assert told["raft"]["details"]["applied_index"] > 0
    assert told["containerd"]["details"]["address"] == quiet.containerd_address
    status, why = quiet.http("/health/session")
    assert (status, why) == (404, "this daemon has no session at the moment\n")


def test_live_says_only_that_it_lives(quiet: WarrenNode) -> None:
    status, body = quiet.http("/live")
    answer = json.loads(body)
    assert status == 200
    assert list(answer) == ["status", "uptime"]
    assert answer["status"] == "alive"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/live", 200), ("/health", 200), ("/ready", 200), ("/metrics", 200), ("/nothing", 404)],
)
def test_head_is_get_without_its_body(quiet: WarrenNode, path: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", quiet.metrics_port, timeout=5)
    try:
        connection.request("HEAD", path)
        head = connection.getresponse()
        assert (head.status, head.read()) == (status, b"")
        assert int(head.headers["Content-Length"]) > 0
        connection.request("GET", path)
        got = connection.getresponse()
        assert got.status == status
        assert got.read()
        assert got.headers["Content-Type"] == head.headers["Content-Type"]
    finally:
        connection.close()


def test_a_daemon_without_a_cluster_is_healthy_and_not_ready(containerd: Containerd) -> None:
    node = WarrenNode(containerd.address, containerd.new_namespace())
    try:
        node.start()
        eventually(lambda: node.http("/health")[0] == 200, "/health answers 200")
        status, body = node.http("/ready")
        answer = json.loads(body)
        assert (status, answer["status"]) == (503, "not_ready")
        assert "warrenctl cluster init" in answer["message"]
        first = samples_of(node)
        assert not [name for name in first if name.startswith("warren_services_total")]
    finally:
        node.stop()
        shutil.rmtree(node.root, ignore_errors=True)

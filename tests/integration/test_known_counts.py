"""A script with known counts, and every metric compared with what it must be afterwards.

Counts are exact. Where one cannot be, bounds stand beside the reason. `docs/metrics.md` lists what
there is: a metric that neither of the two scripts here knows fails the test.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.containerd import CGROUPS, Containerd, runtime_tasks
from tests.support.counted import AMONG_MEMBERS, Script, load
from tests.support.metrics_page import documented
from tests.support.node import WarrenNode, eventually
from tests.support.scrape import Within, differences, family_of, samples
from warren import __version__, rpc
from warren.core import STREAMS_MAX
from warren.pb.v1 import api_pb2, objects_pb2

SLEEP = ("sleep", "100000")
NEVER = objects_pb2.RESTART_CONDITION_NONE
KILLS = 3
WAITED_S = 2.0
STOP_S = 1.0
SETTLED_S = 2.5
"""Nothing happens any more: two scrapes, each at most a second old."""

Expectation = dict[str, float | Within]


RUNNING = objects_pb2.CONTAINER_STATE_RUNNING
COMPLETE = objects_pb2.CONTAINER_STATE_COMPLETE
FAILED = objects_pb2.CONTAINER_STATE_FAILED
VOLUMES = ("orders", "maps")


@pytest.fixture
def founded(
    containerd: Containerd, small_disk: Path, tiny_image: Path
) -> Iterator[tuple[WarrenNode, Script]]:
    """A cluster of one on a disk of its own, which has the image and nothing else."""
    node = WarrenNode(containerd.address, containerd.new_namespace(), small_disk)
    node.log_path = small_disk.parent / "warrend.log"
    node.env["WARREN_WAL_SEGMENT_BYTES"] = str(1 << 20)
    node.env["WARREN_VOLUMES"] = ",".join(f"{name}={small_disk}" for name in VOLUMES)
    script = Script(node)
    node.start("--log-level=info")
    script.call("InitCluster", api_pb2.InitClusterRequest())
    node.wait_ready()
    load(node, tiny_image)
    yield node, script
    node.close()
    containerd.assert_nothing_left(node.namespace)


@pytest.mark.timeout(180)
def test_every_metric_of_one_node_is_what_happened(founded: tuple[WarrenNode, Script]) -> None:
    node, script = founded
    _run_containers(script)
    _wait_for_a_node(script)
    _preempt(script)
    _refuse(script)
    for service in (*RUNNING_NOW, *ENDED):
        script.look_at(service)
    _ask_nonsense(node)

    def all_is_right() -> bool:
        found = samples(node.http("/metrics")[1])
        expected = {**_zeros(found), **_expected(script, time.monotonic() - script.began_s)}
        assert differences(found, expected) == []
        known = {family_of(name) for name in expected}
        assert known | set(AMONG_MEMBERS) == documented()
        return True

    eventually(all_is_right, "every metric is as it must be", pause_s=0.5)
    time.sleep(SETTLED_S)  # none was on its way past what it must be
    assert all_is_right()


# -- the script ------------------------------------------------------------------------------


def _run_containers(script: Script) -> None:
    """`web`: three, stopped. `once` fails, `done` completes; `flaky` is killed again and again."""
    web = script.spec("web", 2, *SLEEP, stop_timeout_ms=int(STOP_S * 1000))
    web_id = script.create(web)
    script.wait("web", RUNNING, 2)
    web.replicas = 3
    update = api_pb2.UpdateServiceRequest(
        request=script.request_id(), service_id=web_id, expected_version=1, spec=web
    )
    script.call("UpdateService", update)
    script.wait("web", RUNNING, 3)
    stale = api_pb2.UpdateServiceRequest(
        request=script.request_id(), service_id=web_id, expected_version=1, spec=web
    )
    assert script.refused("UpdateService", stale) == "version_conflict"

    script.create(script.spec("once", 1, "false", restart=NEVER))
    script.create(script.spec("done", 1, "true", restart=NEVER))
    script.create(script.spec("flaky", 1, *SLEEP))
    script.wait("once", FAILED, 1)
    script.wait("done", COMPLETE, 1)
    for attempt in range(1, KILLS + 1):
        (one,) = script.wait("flaky", RUNNING, 1, attempt)
        tasks = runtime_tasks(script.node.containerd_address, script.node.namespace)
        os.kill(tasks[one.id.hex()], signal.SIGKILL)
    script.wait("flaky", RUNNING, 1, KILLS + 1)

    remove = api_pb2.RemoveServiceRequest(request=script.request_id(), service_id=web_id)
    script.call("RemoveService", remove)


def _wait_for_a_node(script: Script) -> None:
    """`late`: three that find a node only after WAITED_S. `never`: two that find none."""
    for name, replicas, where in (("late", 3, "there"), ("never", 2, "nowhere")):
        spec = script.spec(name, replicas, *SLEEP)
        spec.placement.constraints.append(f"node.labels.zone=={where}")
        script.create(spec)
    time.sleep(WAITED_S)
    label = api_pb2.UpdateNodeRequest(
        request=script.request_id(), ref="node-1", labels_add={"zone": "there"}
    )
    script.call("UpdateNode", label)
    script.wait("late", RUNNING, 3)


def _preempt(script: Script) -> None:
    """`low` takes most of the memory, `high` needs it: one goes and waits, the other runs."""
    node = script.call("GetNode", api_pb2.GetNodeRequest(ref="node-1")).node
    most = node.allocatable.memory_bytes * 6 // 10
    for name, priority in (("low", 10), ("high", 90)):
        spec = script.spec(name, 1, *SLEEP)
        spec.container.resources.memory_bytes = most
        spec.placement.priority = priority
        spec.placement.preempt = name == "high"
        script.create(spec)
        script.wait(name, RUNNING, 1)


def _refuse(script: Script) -> None:
    """Requests that cannot be granted: each is an error of its method."""
    again = api_pb2.CreateServiceRequest(
        request=script.request_id(), spec=script.spec("once", 1, "true")
    )
    assert script.refused("CreateService", again) == "name_taken"
    empty = api_pb2.CreateServiceRequest(request=script.request_id())
    assert script.refused("CreateService", empty) == "invalid"
    assert script.refused("GetService", api_pb2.GetServiceRequest(ref="absent")) == "not_found"
    gone = api_pb2.RemoveServiceRequest(request=script.request_id(), service_id=bytes(16))
    assert script.refused("RemoveService", gone) == "not_found"
    script.call("ListServices", api_pb2.ListServicesRequest())


def _ask_nonsense(node: WarrenNode) -> None:
    """Two requests to the metrics address that get no handler's answer."""
    for request in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 100_000 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", node.metrics_port), 5) as connection:
            connection.sendall(request)
            assert connection.recv(100).startswith(b"HTTP/1.1 4")


# -- what must be ----------------------------------------------------------------------------

CREATED = ("web", "once", "done", "flaky", "late", "never", "low", "high")
PLACED = 3 + 1 + 1 + 1 + 3 + 0 + 1 + 1
STARTED = PLACED + KILLS
STOPPED = 3 + 1  # `web`, and `low` for `high`
# Seven times the script waits for what a worker has to be told of; of each container it is told
# that it is there, is to stop, and is gone.
TOLD = (7, 3 * PLACED)
WAITING = 2 + 1  # `never`, and `low` once it made room

RUNNING_NOW = {"flaky": 1, "late": 3, "high": 1}
ENDED = ("once", "done")

ZERO = (
    "warren_histogram_rejected_total",
    "warren_metrics_left_out_total",
    "warren_log_dropped_total",
    "warren_log_suppressed_total",
    "warren_core_queue_rejections_total",
    "warren_core_session_bytes",
    "warren_core_log_lines_dropped_total",
    "warren_session_reconnects_total",
    "warren_worker_actions",
    "warren_worker_outbox_depth",
    "warren_worker_store_failing",
)
"""What went well. All samples of these are 0, whatever labels they have."""


def _expected(script: Script, ran_s: float) -> Expectation:
    """All samples of the node after the script, `ran_s` after its start."""
    node = script.node
    log = _log_on_disk(node)
    return {
        **_process(node.pid, ran_s),
        **_host_and_log(node),
        **_api(script, ran_s),
        **_containers(script, ran_s),
        **_state(),
        **_raft(log, ran_s),
        **_orchestration(ran_s),
        **_core(log, ran_s),
        **_disk(node, log, ran_s),
    }


def _zeros(found: Iterable[str]) -> Expectation:
    """The samples that have to be 0."""
    zeros: Expectation = {name: 0 for name in found if family_of(name) in {*ZERO, *AMONG_MEMBERS}}
    # Of one kind within ten seconds the first twenty are written, and all of it is quicker here.
    zeros['warren_log_suppressed_total{component="worker",reason="repeated"}'] = Within(
        0, 2 * (STARTED + STOPPED + KILLS), "as quick as the machine is"
    )
    return zeros


def _process(pid: int, ran_s: float) -> Expectation:
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    cpu_s = (int(stat[11]) + int(stat[12])) / tick
    (boot_s,) = re.findall(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    (limit,) = re.findall(r"Max open files +(\d+)", Path(f"/proc/{pid}/limits").read_text())
    started_s = int(boot_s) + int(stat[19]) / tick
    files = len(os.listdir(f"/proc/{pid}/fd"))
    resident = int(stat[21]) * page
    old = "what is scraped is up to a second old"
    return {
        "process_cpu_seconds_total": Within(max(0, cpu_s - 1), cpu_s, old),
        "process_start_time_seconds": Within(
            started_s - 1, started_s + 1, "the kernel tells its own start in whole seconds"
        ),
        "process_max_fds": float(limit),
        "process_open_fds": Within(files - 2, files + 2, "connections come and go"),
        "process_resident_memory_bytes": Within(resident * 0.8, resident * 1.2, old),
        "process_virtual_memory_bytes": Within(int(stat[20]) * 0.8, int(stat[20]) * 1.2, old),
    }


def _host_and_log(node: WarrenNode) -> Expectation:
    disk = os.statvfs(node.data_dir)
    lines = [json.loads(line) for line in node.log().splitlines()]
    release = f'python="{platform.python_version()}",version="{__version__}"'
    refused = {"400": 1.0, "431": 1.0, "500": 0, "503": 0, "connections": 0, "timeout": 0}
    return {
        f"warren_build_info{{{release}}}": 1,
        "warren_disk_size_bytes": disk.f_blocks * disk.f_frsize,
        "warren_disk_free_bytes": disk.f_bavail * disk.f_frsize,
        "warren_clock_offset_seconds": Within(-0.1, 0.1, "it leads: both ends have one clock"),
        "warren_clock_seconds": Within(time.time() - 2, time.time(), "up to a second old"),
        "warren_log_lines_total": len(lines),
        "warren_log_queue_depth": 0,
        "warren_session_connected": 1,
        "warren_worker_images_left_out": 0,
        "warren_sessions": 1,
        "warren_observe_http_connections": 1,  # the scrape's own
        **{
            f'warren_component_healthy{{component="{name}"}}': 1
            for name in ("api", "containerd", "raft")
        },
        **{
            f'warren_observe_http_refusals_total{{reason="{reason}"}}': count
            for reason, count in refused.items()
        },
    }


def _api(script: Script, ran_s: float) -> Expectation:
    """Of what was asked, how often and for how long; nothing else was asked, but for pings."""
    found: Expectation = {}
    for method in rpc.MANAGER:
        total = 0
        for status in ("success", "error"):
            many = script.calls[method, status]
            total += many
            found[_request_count(method, status)] = many
        labels = f'{{method="{method}"}}'
        found[f"warren_api_request_duration_seconds_count{labels}"] = total
        found[f"warren_api_request_duration_seconds_sum{labels}"] = _spent(
            total, script.took_s[method]
        )
    # The node asks itself, once an image is loaded.
    asked = script.calls["GetNode", "success"]
    own = Within(asked, asked + 5, "until the managers know of the image")
    found[_request_count("GetNode", "success")] = own
    found['warren_api_request_duration_seconds_count{method="GetNode"}'] = own
    found['warren_api_request_duration_seconds_sum{method="GetNode"}'] = _spent(1, ran_s)
    # The daemon's own health check, every 0.8 s while somebody asks, and every 10 s else.
    pings = Within(ran_s / 10 - 1, ran_s / 0.8 + 2, "its number is a matter of time")
    found[_request_count("Ping", "success")] = pings
    found['warren_api_request_duration_seconds_count{method="Ping"}'] = pings
    found['warren_api_request_duration_seconds_sum{method="Ping"}'] = _spent(1, ran_s)
    for verb, method in (("create", "Create"), ("update", "Update"), ("delete", "Remove")):
        name, method = f"warren_service_{verb}_duration_seconds", f"{method}Service"
        many = script.calls[method, "success"]
        found |= {f"{name}_count": many, f"{name}_sum": _spent(many, script.took_s[method])}
    return found


def _request_count(method: str, status: str) -> str:
    return f'warren_api_requests_total{{method="{method}",status="{status}"}}'


def _spent(times: int, at_most_s: float) -> float | Within:
    """A histogram's sum of so many events, which took that long at most."""
    return Within(1e-9, at_most_s, "no longer than the caller waited") if times else 0


def _containers(script: Script, ran_s: float) -> Expectation:
    """What the worker did, and what each container that runs uses, by its cgroup."""
    name = "warren_container_{}_duration_seconds_{}"
    stops_s = 3 * STOP_S
    found: Expectation = {
        name.format("create", "count"): STARTED,
        name.format("create", "sum"): _spent(STARTED, STARTED * ran_s),
        name.format("start", "count"): STARTED,
        name.format("start", "sum"): _spent(STARTED, STARTED * ran_s),
        name.format("stop", "count"): STOPPED,
        name.format("stop", "sum"): Within(
            stops_s, stops_s + STOPPED * 5, "`web` does not heed SIGTERM; what is left is slow"
        ),
    }
    cached = "the image is small, and the kernel may have it in memory"
    old = "measured every five seconds, and the kernel takes back what is cached"
    for service, many in RUNNING_NOW.items():
        running = script.running[service]
        assert len(running) == many
        for slot, container in running.items():
            labels = f'{{container="{container}",service="{service}",slot="{slot}"}}'
            memory = _cgroup(container, "memory", "memory.usage_in_bytes", "memory.current")
            found |= {
                f"warren_container_cpu_seconds_total{labels}": _cpu_s(container),
                f"warren_container_memory_bytes{labels}": Within(memory / 4, 4 * memory, old),
                f"warren_container_working_set_bytes{labels}": Within(1, 4 * memory, old),
                f"warren_container_pids{labels}": 1,
                f"warren_container_restarts_total{labels}": KILLS if service == "flaky" else 0,
                f"warren_container_oom_kills_total{labels}": 0,
                f"warren_container_disk_read_bytes_total{labels}": Within(0, 1 << 24, cached),
                f"warren_container_disk_written_bytes_total{labels}": Within(0, 1 << 24, cached),
            }
    for service in ENDED:
        # What ended uses nothing, and is counted for as long as it is assigned.
        for slot, container in script.running[service].items():
            labels = f'{{container="{container}",service="{service}",slot="{slot}"}}'
            found[f"warren_container_restarts_total{labels}"] = 0
            found[f"warren_container_oom_kills_total{labels}"] = 0
    return found


def _cpu_s(container: str) -> float:
    usage = CGROUPS / "cpuacct/warren" / container / "cpuacct.usage"
    if usage.exists():
        return int(usage.read_text()) / 1e9
    stat = (CGROUPS / "warren" / container / "cpu.stat").read_text()
    return int(stat.split()[1]) * 1000 / 1e9


def _cgroup(container: str, controller: str, v1: str, v2: str) -> float:
    path = CGROUPS / controller / "warren" / container / v1
    return float((path if path.exists() else CGROUPS / "warren" / container / v2).read_text())


def _state() -> Expectation:
    """What the cluster is made of."""
    states = {"running": sum(RUNNING_NOW.values()), "complete": 1, "failed": 1}
    others = ["pending", "assigned", "preparing", "starting", "shutdown", "rejected", "lost"]
    nodes = {(role, s): 0 for role in ("hybrid", "manager", "worker") for s in ("ready", "down")}
    nodes["hybrid", "ready"] = 1
    return {
        **{
            f'warren_nodes_total{{role="{role}",status="{status}"}}': many
            for (role, status), many in nodes.items()
        },
        "warren_services_total": len(CREATED) - 1,
        "warren_volumes_total": len(VOLUMES),
        **{
            f'warren_containers_total{{state="{state}"}}': many
            for state, many in {**states, **dict.fromkeys(others, 0)}.items()
        },
    }


def _orchestration(ran_s: float) -> Expectation:
    late_s = 3 * WAITED_S
    return {
        "warren_scheduling_latency_seconds_count": PLACED,
        "warren_scheduling_latency_seconds_sum": Within(
            late_s, late_s + PLACED, "`late` waited; placing all of them takes a while"
        ),
        "warren_containers_scheduled_total": PLACED,
        # Each found no node once: `late`, `never`, and `low` after it had to go.
        "warren_containers_failed_total": 3 + 2 + 1,
        "warren_containers_preempted_total": 1,
        "warren_containers_pending": WAITING,
        "warren_containers_crash_looping": 1,
        "warren_reconciliation_cycles_total": Within(
            len(CREATED) + 2, 1000, "one pass may take up what several changes have made dirty"
        ),
        "warren_reconciliation_duration_seconds_count": Within(
            len(CREATED) + 2, 1000, "as many as cycles"
        ),
        "warren_reconciliation_duration_seconds_sum": _spent(1, ran_s),
        "warren_reconciler_missed_total": 0,
        "warren_reconciler_frozen": 0,
    }


# -- what must be, by the log on the disk ----------------------------------------------------


SEGMENT_HEADER_BYTES = 4096
"""As in docs/wal-format.md, and so is the length of a frame's head, and of what fills it up."""
FRAME_HEAD_BYTES = 32


@dataclass(frozen=True)
class Log:
    """What `warrenctl debug wal dump` finds in a log that was begun by this process.

    `batches`: without the one that a log is made with. `bytes`: without its segment's header.
    """

    entries: int
    batches: int
    bytes: int
    last_index: int
    term: int


def _log_on_disk(node: WarrenNode) -> Log:
    lines = node.ctl("debug", "wal", "dump", str(node.data_dir), "--format=json").splitlines()
    frames = [json.loads(line) for line in lines]
    entries = [frame for frame in frames if frame["kind"] == "entry"]
    kinds = Counter(frame["kind"] for frame in frames)
    payload = -(-frames[-1]["payload_bytes"] // 8) * 8
    size = frames[-1]["offset"] + FRAME_HEAD_BYTES + payload
    last = entries[-1]
    return Log(
        entries=len(entries),
        batches=kinds["commit"] - 1,
        bytes=size - SEGMENT_HEADER_BYTES,
        last_index=last["index"],
        term=last["term"],
    )


def _raft(log: Log, ran_s: float) -> Expectation:
    return {
        "warren_raft_is_leader": 1,
        "warren_cluster_feature_level": Within(5, 100, "the newest that this release knows"),
        "warren_raft_peers_total": 1,
        "warren_raft_log_index": log.last_index,
        "warren_raft_applied_index": log.last_index,
        "warren_raft_term": log.term,
        "warren_raft_elections_total": 1,
        "warren_raft_leader_changes_total": 1,
        # Nobody waits for the first entry of a leader, nor for the first two of a cluster.
        "warren_raft_commit_duration_seconds_count": log.entries - 3,
        "warren_raft_commit_duration_seconds_sum": _spent(1, ran_s),
        "warren_raft_apply_duration_seconds_count": log.entries,
        "warren_raft_apply_duration_seconds_sum": _spent(1, ran_s),
    }


def _core(log: Log, ran_s: float) -> Expectation:
    depths = {"streams": 1, "sessions": 1}  # this host's own worker
    others = ("calls", "completions", "proposals", "watches")
    limits = {"calls": 1024, "proposals": 4096, "watches": 1024, "log": 4096}
    limits |= {"streams": STREAMS_MAX, "sessions": STREAMS_MAX}
    limits["completions"] = limits["calls"] + 2 * STREAMS_MAX
    some_time = Within(1e-9, ran_s, "how long it took is the host's matter")
    return {
        **{
            f'warren_core_queue_depth{{queue="{queue}"}}': depth
            for queue, depth in {**depths, **dict.fromkeys(others, 0)}.items()
        },
        'warren_core_queue_depth{queue="log"}': 0,
        **{f'warren_core_queue_limit{{queue="{queue}"}}': limit for queue, limit in limits.items()},
        "warren_core_session_bytes_limit": 128 << 20,
        "warren_assignment_lag_seconds_count": Within(
            *TOLD, "what changes while the worker takes a message goes with the next one"
        ),
        "warren_assignment_lag_seconds_sum": _spent(1, ran_s),
        "warren_core_step_duration_seconds_count": Within(
            log.entries, 1000 * ran_s, "a step takes up whatever has come until then"
        ),
        "warren_core_step_duration_seconds_sum": _spent(1, ran_s),
        "warren_event_loop_lag_seconds_count": Within(
            ran_s / 2, 2 * ran_s, "every half second, and later if the loop is"
        ),
        "warren_event_loop_lag_seconds_sum": Within(0, ran_s, "a part of the time"),
        **{
            f'warren_core_latency_seconds{{of="{of}",quantile="{q}"}}': some_time
            for of in ("commit", "fsync", "apply")
            for q in ("0.5", "0.9", "0.99", "0.999", "1.0")
        },
    }


def _disk(node: WarrenNode, log: Log, ran_s: float) -> Expectation:
    folder = node.data_dir / "raft" / "wal"
    (founding,) = (node.data_dir / "raft" / "snap").glob("*.snap")
    found: Expectation = {
        "warren_snapshot_bytes": founding.stat().st_size,
        "warren_wal_batches_total": log.batches,
        "warren_wal_entries_total": log.entries,
        "warren_wal_written_bytes_total": log.bytes,
        "warren_wal_allocated_bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "warren_wal_segments": len(list(folder.glob("*.wal"))),
        "warren_wal_out_of_space": 0,
    }
    for what in ("append", "fsync"):
        found[f"warren_wal_{what}_duration_seconds_count"] = log.batches
        found[f"warren_wal_{what}_duration_seconds_sum"] = _spent(1, ran_s)
    return found

"""What bad readings lead to, which no host at hand has."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from warren import config
from warren.doctor import clock, containerd, daemon, disk, kernel, machine, network
from warren.doctor.verdict import FAILED, OK, SKIPPED, WARNING, Verdict, worst

GIB = 1 << 30
OVERLAY, BRIDGE = kernel.FEATURES[0], kernel.FEATURES[1]


def holds(verdict: Verdict, status: str, *words: str) -> None:
    """It has this status, its sentence these words, and advice exactly if something is wrong."""
    assert verdict.status == status, verdict
    for word in words:
        assert word in verdict.found + verdict.advice, verdict
    if status != SKIPPED:
        assert bool(verdict.advice) == (status in (WARNING, FAILED)), verdict


@pytest.mark.parametrize(
    ("release", "status"),
    [("6.1.0-13-amd64", OK), ("5.10.0", OK), ("5.4.0-150-generic", WARNING), ("odd", SKIPPED)],
)
def test_the_kernels_version(release: str, status: str) -> None:
    holds(kernel.version(release), status, release)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (kernel.Presence(True, None, None), OK),
        (kernel.Presence(False, False, "y"), OK),
        (kernel.Presence(False, True, None), OK),
        (kernel.Presence(False, None, None), WARNING),
        (kernel.Presence(False, False, None), FAILED),
        # A module that was built, and whose package is not installed.
        (kernel.Presence(False, False, "m"), FAILED),
        (kernel.Presence(False, None, "n"), FAILED),
    ],
)
def test_a_driver_that_is_needed(found: kernel.Presence, status: str) -> None:
    holds(kernel.feature(OVERLAY, found), status)


def test_a_driver_that_nothing_needs_yet_is_no_failure() -> None:
    holds(kernel.feature(BRIDGE, kernel.Presence(False, False, "n")), WARNING, "CONFIG_BRIDGE")


def test_where_a_driver_is_told_to_be() -> None:
    found = kernel.presence(
        "nf_tables",
        "CONFIG_NF_TABLES",
        loaded=False,
        modules="kernel/net/netfilter/nf_tables.ko.xz: kernel/net/netfilter/nfnetlink.ko.xz\n",
        config="CONFIG_NF_TABLES_INET=y\nCONFIG_NF_TABLES=m\n",
    )
    assert found == kernel.Presence(False, True, "m")
    # The name must be the whole one, and its dependencies are others' lines.
    other = kernel.presence(
        "bridge",
        "CONFIG_BRIDGE",
        loaded=False,
        modules="kernel/net/br_netfilter.ko: kernel/net/bridge/bridge.ko\nkernel/my-bridge.ko:\n",
        config="# CONFIG_BRIDGE is not set\nCONFIG_BRIDGE_NETFILTER=y\n",
    )
    assert other == kernel.Presence(False, False, "n")


@pytest.mark.parametrize(
    ("error", "disabled", "words"),
    [
        (errno.EFAULT, 0, "can be used"),
        (errno.ENOSYS, None, "has none"),
        (errno.EPERM, 2, "io_uring_disabled = 2"),
        (errno.EPERM, None, "forbidden"),
    ],
)
def test_io_uring_is_told_and_needed_by_nothing(
    error: int, disabled: int | None, words: str
) -> None:
    holds(kernel.io_uring(kernel.IoUring(error, disabled)), OK, words)


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (machine.Cgroups(2, ("cpu", "cpuset", "io", "memory", "pids")), OK, "v2"),
        (machine.Cgroups(2, ("cpu", "memory", "pids")), WARNING, "without cpuset, io"),
        (machine.Cgroups(2, ("cpu", "cpuset", "io", "pids")), FAILED, "without memory"),
        (machine.Cgroups(1, ("cpu", "cpuset", "io", "memory", "pids")), WARNING, "version 1"),
        (machine.Cgroups(1, ("cpu", "pids")), FAILED, "without memory"),
        (machine.Cgroups(0, ()), FAILED, "no cgroup hierarchy"),
    ],
)
def test_cgroups(found: machine.Cgroups, status: str, words: str) -> None:
    holds(machine.cgroups(found), status, words)


ROOMY = machine.Memory(16 * GIB, 8 * GIB, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (ROOMY, OK),
        (replace(ROOMY, available_bytes=GIB), WARNING),
        (replace(ROOMY, available_bytes=100 << 20), FAILED),
        (replace(ROOMY, stalled_percent=35.0), WARNING),
        (replace(ROOMY, stalled_percent=None), OK),
        (replace(ROOMY, total_bytes=512 << 20, available_bytes=300 << 20), WARNING),
    ],
)
def test_memory(found: machine.Memory, status: str) -> None:
    holds(machine.memory(found), status, "MiB")


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (machine.OpenFiles(1_048_576, 1_048_576, 60, True), OK),
        (machine.OpenFiles(None, None, None, True), OK),
        (machine.OpenFiles(8_192, 8_192, 60, True), WARNING),
        (machine.OpenFiles(1_024, 1_048_576, 60, True), FAILED),
        (machine.OpenFiles(100_000, 100_000, 80_001, True), FAILED),
        (machine.OpenFiles(1_024, 1_024, None, False), SKIPPED),
    ],
)
def test_open_files(found: machine.OpenFiles, status: str) -> None:
    holds(machine.open_files(found), status)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (clock.Clock(True, -0.2, 12.0), OK),
        (clock.Clock(True, 3.0, 1_500.0), WARNING),
        (clock.Clock(False, 0.0, 16_000.0), WARNING),
    ],
)
def test_the_clock(found: clock.Clock, status: str) -> None:
    holds(clock.clock(found), status)


FINE = disk.Disk("/d", "", 100 * GIB, 50 * GIB, 1000, 900, (0.2, 0.3), "")
SEGMENT = 64 << 20


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        (FINE, OK, "50%"),
        (replace(FINE, missing="/d/e"), OK, "/d/e is not there yet"),
        (replace(FINE, free_bytes=9 * GIB), WARNING, "9%"),
        (replace(FINE, free_bytes=1 * GIB), FAILED, "1%"),
        # Enough by share, and not for what a manager writes.
        (replace(FINE, total_bytes=GIB, free_bytes=150 << 20), FAILED, "150 of 1,024 MiB"),
        (replace(FINE, inodes_free=10), FAILED, "inodes"),
        (replace(FINE, inodes_total=0, inodes_free=0), OK, "free"),
    ],
)
def test_disk_space(found: disk.Disk, status: str, words: str) -> None:
    holds(disk.space(found, SEGMENT), status, words)


@pytest.mark.parametrize(
    ("writes_ms", "status"),
    [
        ((0.2,) * 200, OK),
        # One in a hundred is what p99 leaves out.
        ((*(0.2,) * 199, 300.0), OK),
        ((*(0.2,) * 95, *(40.0,) * 5), WARNING),
        ((900.0, 1_100.0), FAILED),
    ],
)
def test_disk_latency(writes_ms: tuple[float, ...], status: str) -> None:
    holds(disk.latency(replace(FINE, writes_ms=writes_ms)), status, "p99")


def test_a_disk_that_could_not_be_written_is_no_fast_one() -> None:
    found = replace(FINE, writes_ms=(), not_written="cannot write into /d: Permission denied")
    holds(disk.latency(found), SKIPPED, "Permission denied")


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [disk.percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert disk.percentile([7.0], 0.01) == 7.0
    with pytest.raises(ValueError, match="no values"):
        disk.percentile([], 0.5)


ETH = network.Interface("eth0", 1500, True, True)
DOCKER = network.Interface("docker0", 1000, False, False)


@pytest.mark.parametrize(
    ("found", "status", "words"),
    [
        ([ETH], OK, "1450 are left"),
        ([ETH, DOCKER], OK, "docker0 1000"),
        ([replace(ETH, mtu_bytes=1300)], WARNING, "1250 are left of eth0's"),
        ([replace(ETH, mtu_bytes=1200)], FAILED, "1150 are left of eth0's"),
        ([replace(ETH, default_route=False, mtu_bytes=1200), DOCKER], FAILED, "eth0's"),
        ([], WARNING, "no interface"),
    ],
)
def test_mtu(found: list[network.Interface], status: str, words: str) -> None:
    holds(network.mtu(found), status, words)


WANTED = network.Wanted("metrics_addr", 9090, "10.0.0.1")
OTHER = network.Holder(77, "prometheus", "10.0.0.1")
OURS = network.Holder(5, "warrend", "10.0.0.1")
ELSEWHERE = network.Holder(77, "prometheus", "127.0.0.1")


@pytest.mark.parametrize(
    ("wanted", "holders", "daemon_pid", "status", "words"),
    [
        (WANTED, [], None, OK, "9090 is free"),
        (WANTED, [OURS], 5, OK, "the daemon's (pid 5)"),
        (WANTED, [OTHER], 5, FAILED, "taken by prometheus (pid 77)"),
        (WANTED, [OTHER], None, FAILED, "set metrics_addr to another port"),
        (WANTED, [], 5, FAILED, "nobody listens"),
        (WANTED, [replace(OTHER, pid=None)], None, SKIPPED, "as root"),
        (replace(WANTED, unserved="no certificates"), [OTHER], None, SKIPPED, "no certificates"),
        # One port, two addresses: each may have its own.
        (WANTED, [ELSEWHERE, OURS], 5, OK, "the daemon's (pid 5)"),
        (WANTED, [ELSEWHERE], None, OK, "9090 is free"),
        (WANTED, [ELSEWHERE], 5, FAILED, "nobody listens"),
        # All addresses are also this one, and the other way round.
        (WANTED, [replace(ELSEWHERE, address="0.0.0.0")], None, FAILED, "taken by prometheus"),
        (WANTED, [replace(ELSEWHERE, address="::")], None, FAILED, "taken by prometheus"),
        (WANTED, [replace(ELSEWHERE, address="::ffff:10.0.0.1")], None, FAILED, "taken by"),
        (replace(WANTED, host="0.0.0.0"), [ELSEWHERE], None, FAILED, "taken by prometheus"),
        (replace(WANTED, host="::"), [ELSEWHERE], None, FAILED, "taken by prometheus"),
        (replace(WANTED, host="::1"), [replace(OTHER, address="::1")], None, FAILED, "taken by"),
        (WANTED, [replace(OTHER, pid=None), OTHER], None, FAILED, "taken by prometheus"),
        # A name may be any address.
        (replace(WANTED, host="localhost"), [ELSEWHERE], None, FAILED, "taken by prometheus"),
    ],
)
def test_a_port(
    wanted: network.Wanted,
    holders: list[network.Holder],
    daemon_pid: int | None,
    status: str,
    words: str,
) -> None:
    holds(network.port(wanted, holders, daemon_pid), status, words)


THERE = containerd.Containerd("/c.sock", version="1.7.22")


@pytest.mark.parametrize(
    ("found", "status", "of_snapshotter"),
    [
        (THERE, OK, OK),
        (replace(THERE, version="1.5.9"), WARNING, OK),
        (replace(THERE, snapshotter_trouble="not loaded"), OK, FAILED),
        (containerd.Containerd("/c.sock", trouble="Connection refused"), FAILED, SKIPPED),
        (containerd.Containerd("/c.sock", denied=True), SKIPPED, SKIPPED),
    ],
)
def test_containerd(found: containerd.Containerd, status: str, of_snapshotter: str) -> None:
    holds(containerd.answers(found), status, "/c.sock")
    holds(containerd.snapshotter(found), of_snapshotter)


UP = daemon.Daemon("/w.sock", True, pid=5, version="1.0", in_cluster=True, manages=True)
GONE = daemon.Daemon("/w.sock", True, trouble="Connection refused")


def test_a_daemon_that_is_meant_to_run_and_does_not_is_a_failure() -> None:
    holds(daemon.presence(GONE), FAILED, "Connection refused", "systemctl start warrend")
    holds(daemon.presence(replace(GONE, expected=False)), SKIPPED, "Connection refused")
    holds(daemon.presence(daemon.Daemon("/w.sock", True, denied=True)), SKIPPED, "group warren")


def test_a_daemon_that_is_stuck_is_named() -> None:
    holds(daemon.presence(replace(GONE, expected=False, pid=7)), FAILED, "pid 7", "py-spy")


def test_a_daemon_of_another_release_is_told() -> None:
    holds(daemon.presence(UP, "1.0"), OK, "pid 5")
    holds(daemon.presence(UP, "1.1"), WARNING, "1.0", "1.1")


def test_each_component_is_a_check() -> None:
    body = {"components": {"api": "healthy", "raft": "unhealthy: no leader"}}
    api, raft = daemon.health(daemon.Probe("a:1", body), UP)
    holds(api, OK)
    holds(raft, FAILED, "no leader", "warrenctl cluster members")
    assert (api.name, raft.name) == ("health.api", "health.raft")


def test_a_daemon_that_answers_on_its_socket_only_is_stuck() -> None:
    silent = daemon.Probe("127.0.0.1:9090", trouble="timed out")
    holds(daemon.health(silent, UP)[0], FAILED, "timed out", "metrics_addr")
    holds(daemon.health(silent, GONE)[0], SKIPPED)


def test_readiness_is_taken_from_where_there_is_an_answer() -> None:
    silent = daemon.Probe("a:1", trouble="timed out")
    waiting = {"components": {}, "message": "waiting for raft (no leader)"}
    holds(daemon.readiness(daemon.Probe("a:1", {"components": {}}), UP), OK)
    holds(daemon.readiness(daemon.Probe("a:1", waiting), UP), FAILED, "no leader")
    holds(daemon.readiness(silent, replace(UP, ready_message="starting")), FAILED, "starting")
    holds(daemon.readiness(silent, GONE), SKIPPED)
    # Before `cluster init` there is something to do, and nothing broken.
    outside = replace(UP, in_cluster=False, manages=False, ready_message="belongs to no cluster")
    holds(daemon.readiness(silent, outside), WARNING, "no cluster")


def test_a_daemons_command_line() -> None:
    words = ["/usr/bin/python3", "/usr/bin/warrend", "--config=/etc/w.toml", "--data-dir", "/d"]
    flags, file = daemon.flags_of([*words, "--metrics-addr=127.0.0.1:1", "--check-config", ""])
    assert flags == {"data_dir": "/d", "metrics_addr": "127.0.0.1:1"}
    assert file == Path("/etc/w.toml")


def test_a_configuration_that_no_daemon_would_take_fails() -> None:
    setup = daemon.Setup(config.Config(), {"data_dir": "default", "socket": "file /f"}, None)
    holds(daemon.configuration(setup), OK, "1 of 2 keys set")
    holds(daemon.configuration(replace(setup, trouble="unknown key")), FAILED, "unknown key")


def test_the_worst_counts() -> None:
    verdicts = [Verdict("a", status, "") for status in (OK, SKIPPED, WARNING, FAILED)]
    assert [worst(verdicts[:end]) for end in range(5)] == [OK, OK, OK, WARNING, FAILED]


@pytest.mark.parametrize(
    ("ahead_s", "error_s", "status", "word"),
    [
        (0.004, 0.001, OK, "ahead of"),
        (-1.9, 0.001, OK, "behind"),
        (2.5, 0.001, WARNING, "2.500 s ahead of"),
        (-86_400.0, 0.2, WARNING, "behind"),
        (2.5, 0.6, OK, "give or take 0.600 s"),
    ],
)
def test_the_leaders_clock(ahead_s: float, error_s: float, status: str, word: str) -> None:
    holds(clock.managers(ahead_s, error_s), status, word)


def test_a_leaders_clock_that_nobody_knows() -> None:
    holds(clock.managers(None, 0.0), SKIPPED)

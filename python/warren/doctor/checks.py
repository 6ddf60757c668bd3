"""All checks, side by side, each with an end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warren import tls_files
from warren.config import tls_files as certificates
from warren.doctor import clock, containerd, daemon, disk, kernel, machine, network
from warren.doctor.verdict import FAILED, SKIPPED, Verdict
from warren.errors import StartupError

__all__ = ["TIMEOUT_S", "Check", "examine", "run_all"]

TIMEOUT_S: Final = 6.0
"""How long one check may take; they run side by side."""


@dataclass(frozen=True, slots=True)
class Check:
    """`name`: of the verdict where `run` gives none, because it failed or takes too long."""

    name: str
    run: Callable[[], Sequence[Verdict]]


def examine(setup: daemon.Setup, path: Path, timeout_s: float = TIMEOUT_S) -> list[Verdict]:
    """Every check of this host. `path`: the socket at which a daemon is looked for."""
    settings = setup.config
    told: list[daemon.Daemon] = []

    def ask() -> Sequence[Verdict]:
        told.append(daemon.read_daemon(path, settings.data_dir))
        return [daemon.presence(told[0])]

    verdicts = [daemon.configuration(setup), *run_all([Check("daemon", ask)], timeout_s)]
    of_daemon = told[0] if told else daemon.Daemon(str(path), True, "it does not answer")
    return verdicts + run_all(_checks(setup, of_daemon), timeout_s)


def run_all(checks: Sequence[Check], timeout_s: float) -> list[Verdict]:
    """Their verdicts, in the order of the checks. One that hangs is left behind."""
    results: dict[int, Sequence[Verdict]] = {}

    def run(number: int, check: Check) -> None:
        results[number] = _guarded(check)

    threads = [
        threading.Thread(target=run, args=pair, name=f"check {pair[1].name}", daemon=True)
        for pair in enumerate(checks)
    ]
    for thread in threads:
        thread.start()
    ends_s = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, ends_s - time.monotonic()))
    verdicts: list[Verdict] = []
    for number, check in enumerate(checks):
        late = Verdict(
            check.name,
            FAILED,
            f"no answer within {timeout_s:g} s",
            "something hangs; look at the kernel's log: dmesg --level=err,warn | tail",
        )
        verdicts += results.get(number, (late,))
    return verdicts

    return time.monotonic()


def _guarded(check: Check) -> Sequence[Verdict]:
    try:
        return check.run()
    except PermissionError as error:
        return [Verdict(check.name, SKIPPED, f"may not look: {error}", "run it as root")]
    except TimeoutError as error:
        return [Verdict(check.name, FAILED, str(error), "see the kernel's log: dmesg | tail")]
    except OSError as error:
        return [Verdict(check.name, SKIPPED, f"cannot be read here: {error}")]
    except Exception as error:  # noqa: BLE001 - one check must not cost the others
        words = f"the check itself failed: {type(error).__name__}: {error}"
        return [Verdict(check.name, FAILED, words, "report it, with this command's output")]


def _checks(setup: daemon.Setup, of_daemon: daemon.Daemon) -> list[Check]:
    settings = setup.config

    def probes() -> Sequence[Verdict]:
        health = daemon.read_probe(settings.metrics_addr, "/health")
        ready = health
        if health.body is not None:
            # Else it would wait as long once more: together that is this check's own limit.
            ready = daemon.read_probe(settings.metrics_addr, "/ready")
        return [*daemon.health(health, of_daemon), daemon.readiness(ready, of_daemon)]

    def kernels() -> Sequence[Verdict]:
        return [
            kernel.version(os.uname().release),
            *(kernel.feature(what, kernel.read_presence(what)) for what in kernel.FEATURES),
            kernel.io_uring(kernel.read_io_uring()),
        ]

    def disks() -> Sequence[Verdict]:
        found = disk.read_disk(settings.data_dir)
        return [disk.space(found, settings.wal_segment_bytes), disk.latency(found)]

    def runtime() -> Sequence[Verdict]:
        found = containerd.read_containerd(
            settings.containerd_address, settings.containerd_namespace
        )
        return [containerd.answers(found), containerd.snapshotter(found)]

    def clocks() -> Sequence[Verdict]:
        ahead = clock.managers(of_daemon.clock_ahead_s, of_daemon.clock_error_s)
        return [clock.clock(clock.read_clock()), ahead]

    def ports() -> Sequence[Verdict]:
        wanted = _wanted(setup, of_daemon)
        holders = network.read_holders([each.port for each in wanted])
        return [network.port(each, holders.get(each.port, ()), of_daemon.pid) for each in wanted]

    return [
        Check("health", probes),
        Check("kernel", kernels),
        Check("cgroups", lambda: [machine.cgroups(machine.read_cgroups())]),
        Check("containerd", runtime),
        Check("disk", disks),
        Check("ports", ports),
        Check("mtu", lambda: [network.mtu(network.read_interfaces())]),
        Check("clock", clocks),
        Check("memory", lambda: [machine.memory(machine.read_memory())]),
        Check(
            "open_files",
            lambda: [machine.open_files(machine.read_open_files(of_daemon.pid))],
        ),
    ]


def _wanted(setup: daemon.Setup, of_daemon: daemon.Daemon) -> list[network.Wanted]:
    settings = setup.config
    unserved = ""
    try:
        files: tls_files.Files | None = certificates(settings)
    except StartupError as error:
        files, unserved = None, str(error)
    if files is None and not unserved:
        unserved = "no certificates are configured (tls_ca, tls_cert, tls_key)"
    elif of_daemon.version and of_daemon.in_cluster and not of_daemon.manages:
        unserved = "this host is a worker only"
    # Members of a cluster only hear each other.
    alone = "this host belongs to no cluster yet" if _outside(of_daemon) else ""
    return [
        _wanted_at("listen_addr", settings.listen_addr, unserved),
        _wanted_at("peer_addr", settings.peer_addr, unserved or alone),
        _wanted_at("metrics_addr", settings.metrics_addr),
    ]


def _outside(of_daemon: daemon.Daemon) -> bool:
    return bool(of_daemon.version) and not of_daemon.in_cluster


def _wanted_at(key: str, address: str, unserved: str = "") -> network.Wanted:
    host, _, port = address.rpartition(":")
    return network.Wanted(key, int(port), host, unserved)

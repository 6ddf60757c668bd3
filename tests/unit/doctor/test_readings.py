"""The readings, taken of this host, and compared with what it says elsewhere."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.support.node import eventually
from warren.doctor import checks, clock, containerd, daemon, disk, kernel, machine, network
from warren.doctor.verdict import FAILED, OK, SKIPPED, Verdict


def test_memory_is_what_the_kernel_says() -> None:
    found = machine.read_memory()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.total_bytes == pages
    assert 0 < found.available_bytes < found.total_bytes


def test_the_limit_of_open_files_is_this_processs() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    mine = machine.read_open_files(os.getpid())
    assert (mine.soft, mine.of_daemon) == (soft, True)
    assert mine.used is not None
    with socket.socket():
        more = machine.read_open_files(os.getpid())
    assert more.used is not None
    assert more.used > 3
    assert not machine.read_open_files(None).of_daemon


def test_the_clients_certificates_are_not_the_daemons(tmp_path: Path) -> None:
    file = tmp_path / "warrend.toml"
    file.write_text(f'data_dir = "{tmp_path}"\nsocket = "{tmp_path}/s"\n')
    env = {
        "WARREN_CONFIG": str(file),
        "WARREN_TLS_CA": "ca.pem",
        "WARREN_TLS_CERT": "/ann.pem",
        "WARREN_LOG_LEVEL": "debug",
    }
    found = daemon.read_setup(None, None, env)
    assert found.trouble == ""
    assert found.config.data_dir == tmp_path
    assert (found.config.tls_ca, found.config.tls_cert) == ("", "")
    assert found.config.log_level == "debug"


def test_a_port_and_who_holds_it() -> None:
    with socket.socket() as server, socket.socket() as bound:
        server.bind(("127.0.0.1", 0))
        server.listen()
        bound.bind(("127.0.0.1", 0))  # not listening: nobody could reach it
        port, other = server.getsockname()[1], bound.getsockname()[1]
        found = network.read_holders([port, other])
    command = Path("/proc/self/comm").read_text().strip()
    assert found[port] == [network.Holder(os.getpid(), command, "127.0.0.1")]
    assert other not in found
    assert network.read_holders([port]) == {}


def test_a_port_over_ipv6() -> None:
    with socket.socket(socket.AF_INET6) as server:
        try:
            server.bind(("::1", 0))
        except OSError:
            pytest.skip("this host has no IPv6")
        server.listen()
        port = server.getsockname()[1]
        (holder,) = network.read_holders([port])[port]
        assert (holder.pid, holder.address) == (os.getpid(), "::1")


def test_a_port_at_several_addresses() -> None:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        two.bind(("127.0.0.2", port))
        two.listen()
        found = network.read_holders([port])[port]
    assert {each.address for each in found} == {"127.0.0.1", "127.0.0.2"}


def test_interfaces_are_those_of_the_kernel() -> None:
    found = {each.name: each for each in network.read_interfaces()}
    assert "lo" not in found
    for name, each in found.items():
        assert each.mtu_bytes == int(Path(f"/sys/class/net/{name}/mtu").read_text())
    assert sum(each.default_route for each in found.values()) <= len(found)


def test_the_clock_is_read_and_left_alone() -> None:
    before = time.time()
    found = clock.read_clock()
    assert 0 <= found.error_ms <= 16_000.1
    assert abs(time.time() - before) < 5


def test_features_of_the_kernel_are_found_here(tmp_path: Path) -> None:
    overlay = kernel.FEATURES[0]
    systems = Path("/proc/filesystems").read_text()
    if "\toverlay\n" in systems:
        assert kernel.read_presence(overlay).loaded
    assert kernel.read_presence(overlay, tmp_path) == kernel.Presence(False, None, None)
    assert kernel.io_uring(kernel.read_io_uring()).status == OK


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["cgroup.controllers"], machine.Cgroups(2, ("cpu", "memory"))),
        (["cpu,cpuacct/cgroup.procs", "blkio/cgroup.procs", "systemd/cgroup.procs"],
         machine.Cgroups(1, ("cpu", "cpuacct", "io"))),
        ([], machine.Cgroups(0, ())),
    ],
)  # fmt: skip
def test_cgroups_of_either_version(
    tmp_path: Path, files: list[str], found: machine.Cgroups
) -> None:
    for name in files:
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("memory cpu\n")
    assert machine.read_cgroups(tmp_path) == found


def test_a_disk_is_measured_and_nothing_stays(tmp_path: Path) -> None:
    found = disk.read_disk(tmp_path, timeout_s=30)
    assert found.not_written == ""
    assert 0 < len(found.writes_ms) <= 200
    assert all(each > 0 for each in found.writes_ms)
    assert found.free_bytes <= found.total_bytes == _total_bytes(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _total_bytes(path: Path) -> int:
    told = os.statvfs(path)
    return told.f_blocks * told.f_frsize


def test_of_a_directory_that_is_not_there_the_one_above_it_is_measured(tmp_path: Path) -> None:
    found = disk.read_disk(tmp_path / "a" / "b", timeout_s=30)
    assert (found.directory, found.missing) == (str(tmp_path), str(tmp_path / "a" / "b"))


def test_a_directory_that_nobody_can_write_is_told() -> None:
    found = disk.read_disk(Path("/proc"), timeout_s=30)
    assert found.writes_ms == ()
    assert "cannot write into /proc" in found.not_written


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    # No process starts as quickly as that.
    with pytest.raises(TimeoutError, match="hangs"):
        disk.read_disk(tmp_path, timeout_s=0.001)


def test_containerd_that_is_not_there(tmp_path: Path) -> None:
    found = containerd.read_containerd(tmp_path / "c.sock", "warren")
    assert containerd.answers(found).status == FAILED
    assert "No such file" in found.trouble


def test_what_listens_and_is_no_containerd(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        taken = threading.Thread(target=_hang_up, args=(server,), daemon=True)
        taken.start()
        found = containerd.read_containerd(path, "warren")
    assert found.trouble
    assert found.version == ""


def _hang_up(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


def test_who_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "w.sock"
    assert daemon.listener(path) is None
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert daemon.listener(path) == os.getpid()


def test_a_probe_that_is_answered_by_somebody_else() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        thread = threading.Thread(target=_answer, args=(server,), daemon=True)
        thread.start()
        found = daemon.read_probe(address, "/health")
        thread.join(10)
    assert found.body is None
    assert "somebody else" in found.trouble
    assert daemon.read_probe(address, "/health").trouble == "Connection refused"


def _answer(server: socket.socket) -> None:
    with server.accept()[0] as connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def test_a_check_that_hangs_or_breaks_costs_no_other() -> None:
    let_go = threading.Event()

    def hang() -> list[Verdict]:
        let_go.wait()
        return []

    def break_() -> list[Verdict]:
        raise KeyError("oops")

    def forbidden() -> list[Verdict]:
        raise PermissionError(13, "Permission denied", "/secret")

    fine = Verdict("fine", OK, "found")
    found = checks.run_all(
        [
            checks.Check("hanging", hang),
            checks.Check("broken", break_),
            checks.Check("forbidden", forbidden),
            checks.Check("fine", lambda: [fine]),
        ],
        timeout_s=0.5,
    )
    let_go.set()
    assert [(each.name, each.status) for each in found] == [
        ("hanging", FAILED),
        ("broken", FAILED),
        ("forbidden", SKIPPED),
        ("fine", OK),
    ]
    assert "0.5 s" in found[0].found
    assert "oops" in found[1].found
    eventually(lambda: not [t for t in threading.enumerate() if "hanging" in t.name], "it ends")

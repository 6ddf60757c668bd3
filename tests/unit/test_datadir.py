"""The data directory's lock and identity, the socket's place, and the words to systemd."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from warren import endpoint
from warren.agent import killmode
from warren.datadir import DataDir
from warren.errors import StartupError
from warren.notify import Notifier, watchdog_interval_s

HOLD = """
import sys
from pathlib import Path
from warren.datadir import DataDir
held = DataDir.open(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def refused(path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        DataDir.open(path)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_the_node_keeps_its_id(tmp_path: Path) -> None:
    first = DataDir.open(tmp_path / "a" / "b")
    first.close()
    again = DataDir.open(tmp_path / "a" / "b")
    assert first.node_id == again.node_id
    assert len(bytes.fromhex(first.node_id)) == 16
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert again.raft_dir.is_dir()
    assert again.logs_dir.is_dir()
    again.close()
    again.close()


def test_what_was_half_uploaded_goes(tmp_path: Path) -> None:
    first = DataDir.open(tmp_path)
    (first.tmp_dir / "archive").write_bytes(b"x")
    (first.logs_dir / "kept").write_bytes(b"x")
    first.close()
    again = DataDir.open(tmp_path)
    assert list(again.tmp_dir.iterdir()) == []
    assert (again.logs_dir / "kept").exists()
    again.close()


def test_a_second_daemon_is_told_the_pid(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD,
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        sentence = refused(tmp_path)
        assert f"pid {holder.pid}" in sentence
        assert "data_dir" in sentence
        holder.kill()
    DataDir.open(tmp_path).close()


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert "it is a file" in refused(file)
    assert "a part of the path is a file" in refused(file / "below")
    if Path("/proc/sys").is_dir():
        assert "cannot use data directory" in refused(Path("/proc/sys/warren"))


def test_an_unwritable_directory_says_who_may(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code = (
        "import os, sys; from pathlib import Path; from warren.datadir import DataDir\n"
        "from warren.errors import StartupError\n"
        "os.getuid() or os.setuid(65534)\n"
        "try: DataDir.open(Path(sys.argv[1]))\n"
        "except StartupError as error: print(error)\n"
    )
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    shown = subprocess.run(
        [sys.executable, "-c", code, str(locked)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ).stdout
    assert "Permission denied" in shown
    assert "run warrend as root" in shown


@pytest.mark.parametrize("content", ["", "xyz", "A" * 32, "0" * 33])
def test_a_damaged_identity_is_not_replaced(tmp_path: Path, content: str) -> None:
    DataDir.open(tmp_path).close()
    (tmp_path / "node_id").write_text(content)
    assert "is damaged" in refused(tmp_path)
    assert (tmp_path / "node_id").read_text() == content


def test_an_identity_that_is_missing_beside_a_log(tmp_path: Path) -> None:
    DataDir.open(tmp_path).close()
    (tmp_path / "node_id").unlink()
    (tmp_path / "raft" / "wal").mkdir()
    assert "is missing although" in refused(tmp_path)


# The socket's place


def in_the_way(path: Path) -> str:
    with pytest.raises(StartupError) as caught:
        endpoint.prepare(path)
    return str(caught.value)


def bound(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    with endpoint.bind_mode():
        server.bind(os.fspath(path))
    return server


def test_a_live_socket_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bound(path) as server:
        server.listen()
        assert "another process serves" in in_the_way(path)
    endpoint.prepare(path)  # its owner is gone
    assert not path.exists()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    assert "is no socket" in in_the_way(path)
    assert path.read_text() == "precious"


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    assert "more than 107 bytes" in in_the_way(tmp_path / ("x" * 108))
    (tmp_path / "file").write_text("")
    assert "cannot use socket" in in_the_way(tmp_path / "file" / "s")
    endpoint.prepare(tmp_path / "new" / "s")
    assert (tmp_path / "new").is_dir()


def test_it_is_bound_for_owner_and_group_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    os.umask(before)
    with bound(tmp_path / "s"):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660
    assert os.umask(before) == before


def test_groups(tmp_path: Path) -> None:
    with bound(tmp_path / "s"):
        complaint = endpoint.give_to_group(tmp_path / "s", "no-such-group")
        assert complaint is not None
        assert "groupadd no-such-group" in complaint
        if os.getuid() == 0:
            assert endpoint.give_to_group(tmp_path / "s", "daemon") is None
            assert (tmp_path / "s").stat().st_gid != 0


# The service manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        listening.bind(f"{tmp_path}/notify")
        yield listening


def test_states_reach_the_notify_socket(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(manager.getsockname())})
    notifier.ready("all\nwell")
    notifier.watchdog()
    notifier.status("busy")
    notifier.stopping()
    received = [manager.recv(4096).decode() for _ in range(4)]
    assert received[:3] == ["READY=1\nSTATUS=all well", "WATCHDOG=1", "STATUS=busy"]
    assert received[3].startswith("STOPPING=1\n")
    notifier.close()
    notifier.status("after the end")


def test_an_abstract_socket_and_none() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        listening.bind(f"\0warren-test-{os.getpid()}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@warren-test-{os.getpid()}"})
        notifier.watchdog()
        assert listening.recv(100) == b"WATCHDOG=1"
        notifier.close()
    Notifier({}).ready("nobody listens")
    gone = Notifier({"NOTIFY_SOCKET": "/nonexistent/notify"})
    gone.ready("nobody listens")
    gone.close()


def test_the_watchdog_is_fed_twice_as_often_as_asked() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}, 7) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, 7) is None
    for usec in ("", "0", "soon"):
        assert watchdog_interval_s({"WATCHDOG_USEC": usec}, 7) is None
    assert watchdog_interval_s({}, 7) is None


def test_containerds_kill_mode() -> None:
    assert killmode.problem("LoadState=loaded\nKillMode=process\n") is None
    assert killmode.problem("LoadState=not-found\nKillMode=control-group\n") is None
    assert killmode.problem("") is None
    complaint = killmode.problem("LoadState=loaded\nKillMode=control-group\n")
    assert complaint is not None
    assert killmode.DROP_IN in complaint

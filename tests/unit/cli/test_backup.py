"""`warrenctl cluster backup` and `recover`: files that are whole or not there, and what is said."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections import deque
from pathlib import Path

import pytest

from tests.support.backups import backup_of, founded
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import CLUSTER_ID, NODE_ID, FakeManager, RefusalError
from warren.cli import backup, client
from warren.cli.backup_file import Received
from warren.cli.common import Settings
from warren.errors import WarrenError
from warren.pb.v1 import node_pb2


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A backup of a real cluster."""
    directory = tmp_path_factory.mktemp("cluster")

    async def save() -> bytes:
        core = await founded(directory / "raft")
        await backup_of(core, directory / "backup")
        await core.close()
        return (directory / "backup").read_bytes()

    return asyncio.run(save())


def test_a_backup_is_saved_and_looked_into(
    manager: FakeManager, ctl: Run, saved: bytes, tmp_path: Path
) -> None:
    manager.backup = saved
    file = tmp_path / "cluster.backup"
    done = ctl("cluster", "backup", "save", str(file), "--format", "json")
    assert (done.code, done.err) == (0, "")
    assert file.read_bytes() == saved
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    told = json.loads(done.out)
    assert told["size_bytes"] == len(saved)
    assert (told["epoch"], told["services"], told["nodes"], told["stale"]) == (1, 0, 1, False)
    looked = ctl("cluster", "backup", "inspect", str(file), "--format", "json")
    assert json.loads(looked.out) == told
    text = ctl("cluster", "backup", "inspect", str(file)).out
    assert f"state_hash: {told['state_hash']}" in text


def test_a_stale_one_is_asked_for(
    manager: FakeManager, ctl: Run, saved: bytes, tmp_path: Path
) -> None:
    manager.backup = saved
    done = ctl("cluster", "backup", "save", str(tmp_path / "b"), "--stale")
    assert done.code == 0
    assert manager.requests("BackupCluster")[0].stale


def test_what_is_there_is_not_overwritten(manager: FakeManager, ctl: Run, tmp_path: Path) -> None:
    file = tmp_path / "b"
    file.write_text("precious")
    done = ctl("cluster", "backup", "save", str(file))
    assert done.code == 1
    assert "exists" in done.err
    assert file.read_text() == "precious"


def test_two_at_once_do_not_mix(saved: bytes, tmp_path: Path) -> None:
    file = tmp_path / "b"
    with Received(file) as first:
        first.add(saved[:1000])
        with pytest.raises(WarrenError, match="another backup is being saved"):
            Received(file)
        first.add(saved[1000:])
        first.finish(len(saved))
    assert file.read_bytes() == saved
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("links", [True, False])
def test_what_came_meanwhile_is_not_overwritten(
    saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    file = tmp_path / "b"
    with Received(file) as received:
        received.add(saved)
        file.write_text("precious")
        with pytest.raises(WarrenError, match="exists by now"):
            received.finish(len(saved))
    assert file.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_system_without_links_will_do(
    saved: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _no_links)
    file = tmp_path / "b"
    with Received(file) as received:
        received.add(saved)
        received.finish(len(saved))
    assert file.read_bytes() == saved
    assert list(tmp_path.iterdir()) == [file]


def test_what_one_that_was_killed_has_left_is_taken_over(saved: bytes, tmp_path: Path) -> None:
    part = tmp_path / "b.part"
    part.write_bytes(b"left" * len(saved))
    part.chmod(0o644)
    with Received(tmp_path / "b") as received:
        assert part.stat().st_mode & 0o777 == 0o600
        received.add(saved)
        received.finish(len(saved))
    assert (tmp_path / "b").read_bytes() == saved


def test_the_way_into_the_file_is_no_link(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / "b.part").symlink_to(other)
    with pytest.raises(WarrenError, match="cannot write"):
        Received(tmp_path / "b")
    assert other.read_text() == "precious"


def _no_links(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("fault", ["short", "changed", "refused", "nothing"])
def test_what_does_not_arrive_whole_leaves_nothing(
    manager: FakeManager, ctl: Run, saved: bytes, tmp_path: Path, fault: str
) -> None:
    manager.backup = saved
    if fault == "short":
        manager.backup, manager.backup_total = saved[:-100], len(saved)
    elif fault == "changed":
        manager.backup = saved[:200] + bytes([saved[200] ^ 1]) + saved[201:]
    elif fault == "refused":
        manager.refuse["BackupCluster"] = deque([RefusalError("no_space", "no space left")])
    else:
        manager.backup = b""
    done = ctl("cluster", "backup", "save", str(tmp_path / "b"))
    assert done.code == 1
    assert ("no space" if fault == "refused" else "did not arrive whole") in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["cut", "flipped", "stranger", "missing"])
def test_what_cannot_be_restored_is_told_with_its_name(
    ctl: Run, saved: bytes, tmp_path: Path, fault: str
) -> None:
    file = tmp_path / "b"
    content = {
        "cut": saved[:-1],
        "flipped": saved[:300] + bytes([saved[300] ^ 1]) + saved[301:],
        "stranger": b"PK" + saved[2:],
    }.get(fault)
    if content is not None:
        file.write_bytes(content)
    done = ctl("cluster", "backup", "inspect", str(file))
    assert done.code == 1
    assert str(file) in done.err
    words = {
        "cut": "not copied whole",
        "flipped": "checksum",
        "stranger": "does not begin as a backup",
        "missing": "No such file",
    }
    assert words[fault] in done.err


def test_a_restore_uploads_the_file_and_says_what_is_left_to_do(
    manager: FakeManager, ctl: Run, saved: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "b"
    file.write_bytes(saved)
    done = ctl("cluster", "backup", "restore", str(file), "--epoch", "9")
    assert done.code == 0
    (pieces,) = manager.requests("RestoreCluster")
    assert b"".join(piece.data for piece in pieces) == saved
    assert [piece.epoch_min for piece in pieces] == [9]
    assert "epoch 9" in done.out
    assert "warrenctl cluster join" in done.out
    told = json.loads(ctl("cluster", "backup", "restore", str(file), "--format", "json").out)
    assert (told["id"], told["epoch"], told["member_id"]) == (CLUSTER_ID.hex(), 2, "7")
    assert told["node_id"] == NODE_ID.hex()
    assert told["backup"]["file"] == str(file)


def test_a_recovery_shows_what_it_goes_on_from(manager: FakeManager, ctl: Run) -> None:
    done = ctl("cluster", "recover", "--from-quorum-loss", "--yes")
    assert done.code == 0
    assert [request.dry_run for request in manager.requests("RecoverQuorum")] == [True, False]
    assert "term 3, index 40" in done.err
    assert "debug wal verify" in done.err
    assert "member 8 at 10.0.0.1:2378" in done.err
    assert "in epoch 2" in done.out


def test_a_recovery_is_not_done_by_accident(manager: FakeManager, ctl: Run) -> None:
    done = ctl("cluster", "recover", "--yes")
    assert done.code == 2
    assert manager.requests("RecoverQuorum") == []
    # Without a terminal nobody can be asked.
    done = ctl("cluster", "recover", "--from-quorum-loss")
    assert done.code == 2
    assert "--yes" in done.err
    assert [request.dry_run for request in manager.requests("RecoverQuorum")] == [True]


def test_a_plan_may_be_read_for_longer_than_the_timeout(
    manager: FakeManager, ctl: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_confirm", lambda: time.sleep(2.5))
    done = ctl("cluster", "recover", "--from-quorum-loss", "--timeout=2s")
    assert done.code == 0, done.err
    assert [request.dry_run for request in manager.requests("RecoverQuorum")] == [True, False]


def test_no_time_left_is_not_all_the_time(manager: FakeManager) -> None:
    settings = Settings()
    settings.host, settings.timeout_ms = manager.host, 2000
    manager.hangs = {"GetDaemon"}
    with client.Client(settings) as asked:
        started_s = time.monotonic()
        with pytest.raises(WarrenError):
            asked.call("GetDaemon", node_pb2.GetDaemonRequest(), retry=False, attempt_timeout_s=0.0)
    assert time.monotonic() - started_s < 1


def test_a_recovery_that_the_daemon_advises_against(manager: FakeManager, ctl: Run) -> None:
    refusal = RefusalError("invalid", "invalid recovery: member 8 leads, so nothing is lost")
    manager.refuse["RecoverQuorum"] = deque([refusal])
    done = ctl("cluster", "recover", "--from-quorum-loss", "--yes", "--format", "json")
    assert done.code == 2
    assert "nothing is lost" in json.loads(done.err)["error"]["message"]
    told = json.loads(
        ctl("cluster", "recover", "--from-quorum-loss", "--yes", "--force", "--format=json").out
    )
    assert manager.requests("RecoverQuorum")[-1].force
    assert told["removed"] == [{"id": "8", "node_id": "b0" * 16, "address": "10.0.0.1:2378"}]

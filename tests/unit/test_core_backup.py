"""Backups, restores and new epochs of a real core, as the daemon asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.backups import backup_of, founded, opened
from warren.core import inspect_backup
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2, node_pb2, snapshot_pb2


async def info(core: object) -> api_pb2.GetClusterResponse:
    request = api_pb2.GetClusterRequest().SerializeToString()
    answer = await core.call("local", "GetCluster", request, 10.0)  # type: ignore[attr-defined]
    return api_pb2.GetClusterResponse.FromString(answer)


async def test_a_backup_is_restored_inside_the_same_object(tmp_path: Path) -> None:
    core = await founded(tmp_path / "one")
    file = tmp_path / "backup"
    header = await backup_of(core, file)
    assert header == snapshot_pb2.BackupHeader.FromString(inspect_backup(file))
    with pytest.raises(WarrenError, match="already belongs") as refused:
        await core.restore(file)
    assert refused.value.code == "already_in_cluster"
    assert (await info(core)).cluster.epoch == 1, "nothing happened to it"
    await core.close()

    (tmp_path / "two").mkdir()
    other = await opened(tmp_path / "two")
    answer = node_pb2.RestoreClusterResponse.FromString(await other.restore(file, 5))
    assert (answer.epoch, answer.backup) == (5, header)
    found = await info(other)
    assert (found.cluster.id, found.cluster.epoch) == (header.cluster_id, 5)
    assert other.status()["leader"]
    await other.close()


async def test_what_is_no_backup_leaves_the_core_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "raft").mkdir()
    core = await opened(tmp_path / "raft")
    file = tmp_path / "backup"
    file.write_bytes(b"WARRNBAK and then nothing that anybody could use, for a hundred bytes" * 2)
    with pytest.raises(WarrenError) as refused:
        await core.restore(file)
    assert refused.value.code == "backup_unusable"
    assert not core.status()["in_cluster"]
    request = api_pb2.InitClusterRequest().SerializeToString()
    await core.call("local", "InitCluster", request, 10.0)
    await core.close()


async def test_a_new_epoch_is_begun_inside_the_same_object(tmp_path: Path) -> None:
    core = await founded(tmp_path / "one")
    with pytest.raises(WarrenError, match="leads"):
        await core.call("local", "JudgeRecovery", b"", 10.0)
    report = node_pb2.RecoverQuorumResponse.FromString(await core.recover_quorum())
    assert report.epoch == 2
    assert (await info(core)).cluster.epoch == 2
    # The directory says so from now on.
    await core.close()
    again = await opened(tmp_path / "one")
    assert (await info(again)).cluster.epoch == 2
    await again.close()

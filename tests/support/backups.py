"""Backups of a real core, for tests of those who handle them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from warren.core import Core
from warren.pb.v1 import api_pb2, snapshot_pb2

__all__ = ["NODE_ID", "backup_of", "founded", "opened"]

NODE_ID = "1f" * 16
_TIMEOUT_S = 10.0


async def opened(raft_dir: Path) -> Core:
    """A core on `raft_dir`, which exists."""

    def log(*_: Any) -> None:
        """Nobody reads it."""

    return await Core.open(
        raft_dir=raft_dir,
        node_id=NODE_ID,
        node_name="one",
        advertise_addr="127.0.0.1:2377",
        segment_bytes=1 << 20,
        log=log,
    )


async def founded(raft_dir: Path) -> Core:
    """A core that has founded a cluster in `raft_dir`, which is made."""
    os.mkdir(raft_dir)
    core = await opened(raft_dir)
    request = api_pb2.InitClusterRequest().SerializeToString()
    await core.call("local", "InitCluster", request, _TIMEOUT_S)
    return core


async def backup_of(core: Core, file: Path) -> snapshot_pb2.BackupHeader:
    """Writes a backup to `file`; its header."""
    header = await core.backup("local", file, _TIMEOUT_S)
    return snapshot_pb2.BackupHeader.FromString(header)

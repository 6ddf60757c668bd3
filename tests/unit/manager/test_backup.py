"""Backups as managers stream them, from a real core and from one that is slow."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.support.backups import founded
from warren.core import inspect_backup
from warren.errors import WarrenError
from warren.manager.backup import CHUNK_BYTES, METHOD, Backups
from warren.manager.identity import Caller
from warren.pb.v1 import api_pb2

DEADLINE_S = 10.0
HERE = Caller("local")


class SlowCore:
    """Writes a file when it is told to."""

    def __init__(self, content: bytes = b"x" * (3 * CHUNK_BYTES + 1)) -> None:
        self.content = content
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.files: list[Path] = []

    async def backup(
        self, identity: str, file: Path, timeout_s: float, *, stale: bool = False
    ) -> bytes:
        self.files.append(file)
        self.asked.set()
        await self.go.wait()
        await asyncio.to_thread(file.write_bytes, self.content)
        return b""


def left_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def drained(backups: Backups) -> tuple[bytes, list[int]]:
    data, totals = b"", []
    async with aclosing(backups.stream(HERE, METHOD, b"")) as chunks:
        async for chunk in chunks:
            message = api_pb2.BackupClusterChunk.FromString(chunk)
            assert 0 < len(message.data) <= CHUNK_BYTES
            data += message.data
            totals.append(message.total_bytes)
    return data, totals


async def test_a_real_backup_comes_whole_and_leaves_nothing(tmp_path: Path) -> None:
    core = await founded(tmp_path / "raft")
    directory = tmp_path / "tmp"
    os.mkdir(directory)
    data, totals = await drained(Backups(core, directory))
    assert totals[0] == len(data)
    kept = tmp_path / "kept"
    kept.write_bytes(data)
    inspect_backup(kept)
    assert left_in(directory) == []
    await core.close()


async def test_a_refusal_is_passed_on_and_the_next_one_is_served(tmp_path: Path) -> None:
    core = await founded(tmp_path / "raft")
    backups = Backups(core, tmp_path)
    for _ in range(2):
        with pytest.raises(WarrenError) as refused:
            await anext(backups.stream(Caller("stranger"), METHOD, b""))
        assert refused.value.code == "denied"
    await core.close()


async def test_one_at_a_time(tmp_path: Path) -> None:
    core = SlowCore()
    core.go.set()
    backups = Backups(core, tmp_path)
    first = backups.stream(HERE, METHOD, b"")
    await anext(first)
    with pytest.raises(WarrenError) as refused:
        await anext(backups.stream(HERE, METHOD, b""))
    assert refused.value.code == "overloaded"
    await first.aclose()
    data, totals = await drained(backups)
    assert data == core.content
    assert totals == [len(data), 0, 0, 0]
    assert left_in(tmp_path) == []


async def test_what_nobody_waits_for_any_more_is_removed_when_it_is_there(tmp_path: Path) -> None:
    core = SlowCore()
    backups = Backups(core, tmp_path)
    reader = asyncio.create_task(drained(backups))
    await core.asked.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    with pytest.raises(WarrenError):
        await drained(backups)
    core.go.set()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                data, _ = await drained(backups)
                break
            except WarrenError:
                await asyncio.sleep(0)
    assert data == core.content
    assert left_in(tmp_path) == []

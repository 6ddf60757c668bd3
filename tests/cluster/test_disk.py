"""A small disk is full when it was filled, and has room when that was taken back."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.cluster.disk import SmallDisk, mounts_below, unmount_below


def test_a_disk_fills_and_empties(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk.img", tmp_path / "data", size_mib=16)
    try:
        disk.create()
        disk.fill()
        with pytest.raises(OSError, match="No space") as full:
            (disk.mount / "file").write_bytes(b"x" * 8192)
        assert full.value.errno == errno.ENOSPC
        disk.free()
        (disk.mount / "file").write_bytes(b"x" * 8192)
    finally:
        unmount_below(tmp_path)
    assert mounts_below(tmp_path) == []

"""A small file system, to be filled."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def small_file_system() -> Iterator[Path]:
    """One of 48 MiB, in memory; where it is mounted."""
    root = Path(tempfile.mkdtemp(prefix="wd"))
    mount = root / "disk"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
        shutil.rmtree(root)


def fill(disk: Path) -> Path:
    """Takes all the space that is left; the file to remove in order to give it back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        # Others write at the same time, so that what statvfs says is past.
        for piece in (bytes(1 << 20), bytes(4096)):
            with suppress(OSError):
                while file.write(piece) == len(piece):
                    pass
    assert os.statvfs(disk).f_bavail == 0
    return ballast

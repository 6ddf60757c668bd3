"""A small file system, to be filled."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.node import WarrenNode
from warren.pb.v1 import api_pb2

LARGE_BYTES = 60_000
LARGE_MAX = 200


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


def leave_free(disk: Path, free_bytes: int) -> Path:
    """Takes all the space but that; the file to remove in order to give it back."""
    of = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, of.f_bavail * of.f_frsize - free_bytes)
    return ballast


def write_much(node: WarrenNode) -> None:
    """Creates more than a log takes that cannot grow: services without containers.

    Raises grpc.RpcError where one is refused.
    """
    request = api_pb2.CreateServiceRequest()
    request.spec.container.image = "tiny:1"
    request.spec.container.env.append("A=" + "x" * LARGE_BYTES)
    with node.api() as api:
        for number in range(LARGE_MAX):
            request.spec.name = f"large-{number}"
            api.CreateService(request, timeout=10)

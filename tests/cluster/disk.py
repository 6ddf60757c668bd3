"""A small file system for a host's data, so that it can be full without anyone else noticing."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

COMMAND_TIMEOUT_S: Final = 30
BALLAST: Final = "ballast"
_STEPS_BYTES: Final = (1 << 20, 1 << 16, 1 << 12)


class SmallDisk:
    """An ext4 in a file, mounted at `mount`: fsync and ENOSPC are real ones."""

    def __init__(self, image: Path, mount: Path, size_mib: int) -> None:
        self.image, self.mount = image, mount
        self._size_mib = size_mib

    def create(self) -> None:
        """Makes and mounts it."""
        with self.image.open("wb") as file:
            file.truncate(self._size_mib << 20)
        # Without what belongs to root alone: full is full.
        _run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "nodiscard", str(self.image))
        self.mount.mkdir(parents=True, exist_ok=True)
        _run("mount", "-o", "loop", str(self.image), str(self.mount))

    def fill(self) -> None:
        """Takes all the room that is left, down to the last block."""
        with (self.mount / BALLAST).open("ab") as file:
            for step in _STEPS_BYTES:
                self._take(file.fileno(), step)

    @staticmethod
    def _take(fd: int, step_bytes: int) -> None:
        while True:
            at = os.fstat(fd).st_size
            try:
                os.posix_fallocate(fd, at, step_bytes)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                # What was allocated before it failed goes back, to be taken in smaller steps.
                os.ftruncate(fd, at)
                return

    def free(self) -> None:
        """Gives the room back."""
        with suppress(FileNotFoundError):
            (self.mount / BALLAST).unlink()


def mounts_below(folder: Path) -> list[str]:
    """Mount points under a directory, innermost first."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    return sorted((point for point in points if Path(point).is_relative_to(folder)), reverse=True)


def unmount_below(folder: Path) -> None:
    """Unmounts everything under a directory; loop devices go with their last mount."""
    for point in mounts_below(folder):
        _run("umount", "--lazy", point)


def _run(*command: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(
        command,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
        env={**os.environ, "PATH": path},
    )
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")

"""A backup on its way into a file: complete under its name, or not there."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Final

from google.protobuf.message import DecodeError

from warren.cli.shapes import BackupView
from warren.cli.views import time_text
from warren.errors import WarrenError
from warren.pb.v1 import snapshot_pb2

__all__ = ["Received", "view"]

# What the file begins and ends with: docs/backup.md.
_MAGIC: Final = b"WARRNBAK"
_HEAD: Final = struct.Struct("<8sII")
_HEADER_BYTES_MAX: Final = 4096
_DIGEST_BYTES: Final = 32
_MODE: Final = 0o600  # it holds what services have in their environment


def view(header: snapshot_pb2.BackupHeader, file: str, size_bytes: int) -> BackupView:
    """What a backup says of itself, as it is printed."""
    return BackupView(
        file=file,
        size_bytes=size_bytes,
        format=header.format,
        cluster_id=header.cluster_id.hex(),
        epoch=header.epoch,
        index=header.index,
        term=header.term,
        created_at=time_text(header.time_ms),
        release=header.release,
        feature_level=header.feature_level,
        state_hash=header.state_hash.hex(),
        services=header.services,
        nodes=header.nodes,
        containers=header.containers,
        stale=header.stale,
    )


class Received:
    """Takes a backup piece by piece into `FILE.part`; `finish` gives it its name.

    Left without that, nothing stays. Whoever has `FILE.part` locked is alone with it: a second
    backup into the same file is refused, and one that was killed leaves what the next takes over.
    Raises WarrenError `failed` where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise WarrenError("failed", f"{path} exists; remove it, or name another file")
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._hash = hashlib.sha256()
        self._start = b""
        self._end = b""
        self.size_bytes = 0
        try:
            fd = _locked(self._part)
        except BlockingIOError:
            raise WarrenError(
                "failed",
                f"another backup is being saved to {path}; wait for it, or name another file",
            ) from None
        except OSError as error:
            raise _failed(self._part, error) from None
        self._file = open(fd, "wb")  # noqa: SIM115 - closed on leaving

    def __enter__(self) -> Received:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # While it is locked: afterwards it may be another's.
        self._part.unlink(missing_ok=True)
        self._file.close()

    def add(self, data: bytes) -> None:
        """The next bytes."""
        try:
            self._file.write(data)
        except OSError as error:
            raise _failed(self._part, error) from None
        self.size_bytes += len(data)
        if len(self._start) < _HEAD.size + _HEADER_BYTES_MAX:
            self._start += data[: _HEAD.size + _HEADER_BYTES_MAX]
        # The last bytes are the checksum of those before.
        held = self._end + data
        self._hash.update(held[:-_DIGEST_BYTES])
        self._end = held[-_DIGEST_BYTES:]

    def finish(self, expected_bytes: int) -> BackupView:
        """Make it durable under its name; what it says of itself."""
        if self.size_bytes != expected_bytes or self._hash.digest() != self._end:
            raise WarrenError(
                "failed", "the backup did not arrive whole; nothing was kept, save it again"
            )
        header = _header(self._start)
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            _name(self._part, self._path)
            _sync_names(self._path.parent)
        except FileExistsError:
            raise WarrenError(
                "failed", f"{self._path} exists by now; nothing was kept, name another file"
            ) from None
        except OSError as error:
            raise _failed(self._path, error) from None
        return view(header, str(self._path), self.size_bytes)


def _locked(part: Path) -> int:
    """`part`, empty, open and locked. Raises BlockingIOError where another has it."""
    # Not through a link that somebody has put there, and never readable for others.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        fd = os.open(part, flags, _MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, part):
                os.fchmod(fd, _MODE)
                os.ftruncate(fd, 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        # Whoever had it was done with it between the two calls: what is locked has no name.
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _name(part: Path, path: Path) -> None:
    """Give it its name. Raises FileExistsError where something has that already."""
    try:
        os.link(part, path)  # unlike a rename, it replaces nothing
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # A file system without second names, as on many a stick or share.
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        part.rename(path)


def _header(start: bytes) -> snapshot_pb2.BackupHeader:
    try:
        magic, length, _checksum = _HEAD.unpack_from(start)
        header = snapshot_pb2.BackupHeader.FromString(start[_HEAD.size : _HEAD.size + length])
    except (struct.error, DecodeError):
        magic = b""
    if magic != _MAGIC:
        raise WarrenError("failed", "what the daemon sent is no backup; is it newer than this?")
    return header


def _sync_names(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(path: Path, error: OSError) -> WarrenError:
    return WarrenError("failed", f"cannot write {path}: {error.strerror}")

"""The daemon's data directory: one daemon at a time, and the node's identity.

lock        flock(2)ed while a daemon runs; holds its pid
node_id     32 hex digits: this node, for as long as the directory lives
cluster.json  which cluster it belongs to, and where that is managed
member.json what its membership, as a manager, is bound to
raft/       the log and snapshots of a manager
raft.old/   those of a membership that has ended
worker.db   what the worker has to do, for when no manager answers
logs/       one directory per container
tmp/        archives on their way in; emptied at start
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import Final

from warren.errors import StartupError

__all__ = ["DataDir"]

_NODE_ID: Final = re.compile(r"[0-9a-f]{32}\n?")


class DataDir:
    """A locked data directory. Made by `open`; `close` releases the lock."""

    def __init__(self, path: Path, lock_fd: int, node_id: str) -> None:
        self.path = path
        self.node_id = node_id
        self.raft_dir = path / "raft"
        self.old_raft_dir = path / "raft.old"
        self.cluster_file = path / "cluster.json"
        self.member_file = path / "member.json"
        self.store_file = path / "worker.db"
        self.logs_dir = path / "logs"
        self.tmp_dir = path / "tmp"
        self._lock_fd: int | None = lock_fd

    @classmethod
    def open(cls, path: Path, node_id: str | None = None) -> DataDir:
        """Make, lock and read it. Raises StartupError where that cannot be done.

        `node_id`: the one that the node's certificate has; a new directory takes it over, and one
        that is another node's is refused.
        """
        try:
            _make_durably(path, mode=0o700)
            lock_fd = _lock(path)
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            directory = cls(path, lock_fd, _node_id(path, node_id))
            shutil.rmtree(directory.tmp_dir, ignore_errors=True)
            for child in (directory.raft_dir, directory.logs_dir, directory.tmp_dir):
                child.mkdir(mode=0o700, exist_ok=True)
            _sync_names(path)
        except OSError as error:
            os.close(lock_fd)
            raise _unusable(path, error) from None
        except StartupError:
            os.close(lock_fd)
            raise
        return directory

    def set_raft_aside(self) -> None:
        """The log of a membership that has ended makes room for another; only the last is kept."""
        shutil.rmtree(self.old_raft_dir, ignore_errors=True)
        self.raft_dir.rename(self.old_raft_dir)
        self.raft_dir.mkdir(mode=0o700)
        _sync_names(self.path)

    def has_log(self) -> bool:
        """Something is where a manager's log would be."""
        return any(self.raft_dir.glob("*"))

    def close(self) -> None:
        """Let another daemon have it. Idempotent."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None


def _unusable(path: Path, error: OSError) -> StartupError:
    advice = {
        errno.EACCES: "run warrend as root, or give it a directory that it may write to",
        errno.EPERM: "run warrend as root, or give it a directory that it may write to",
        errno.EROFS: "name one on a file system that can be written (data_dir)",
        errno.ENOSPC: "free some space there",
        errno.ENOTDIR: "a part of the path is a file; name another directory (data_dir)",
        errno.EEXIST: "it is a file; name a directory (data_dir)",
    }.get(error.errno or 0, "see data_dir in the configuration")
    return StartupError(f"cannot use data directory {path}: {error.strerror}; {advice}")


def _lock(path: Path) -> int:
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StartupError(
            f"data directory {path} is in use by another warrend (pid {holder}); "
            "stop that one first, or give this one a directory of its own (data_dir)"
        ) from None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        os.close(fd)
        raise
    return fd


def _node_id(path: Path, certified: str | None) -> str:
    file = path / "node_id"
    try:
        text = file.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        if any((path / "raft").glob("*")):
            raise StartupError(
                f"{file} is missing although {path / 'raft'} holds a cluster's log; restore it "
                "from a backup, or move the data directory away to begin with an empty node"
            ) from None
        return _new_node_id(file, certified or secrets.token_hex(16))
    if not _NODE_ID.fullmatch(text):
        raise StartupError(
            f"{file} is damaged: it has to hold 32 hex digits; restore it from a backup, or move "
            "the data directory away to begin with an empty node"
        )
    node_id = text.strip()
    if certified is not None and certified != node_id:
        raise StartupError(
            f"data directory {path} belongs to node {node_id}, and the certificate to node "
            f"{certified}; have a certificate issued for {node_id}, or name another directory "
            "(data_dir)"
        )
    return node_id


def _new_node_id(file: Path, node_id: str) -> str:
    part = file.with_suffix(".part")
    with part.open("w", encoding="ascii") as out:
        out.write(node_id + "\n")
        out.flush()
        os.fsync(out.fileno())
    part.rename(file)
    return node_id


def _make_durably(path: Path, mode: int = 0o777) -> None:
    """Make a directory, and those that lead to it, so that a power loss leaves their names.

    The name of one that exists is synced all the same: whoever made it may have died before.
    """
    if path.parent.exists():
        _sync_names(path.parent.parent)
    else:
        _make_durably(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    _sync_names(path.parent)


def _sync_names(directory: Path) -> None:
    """Make the names in it survive a power loss."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

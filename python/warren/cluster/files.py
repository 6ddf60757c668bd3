"""What a host remembers of its cluster: two small files in the data directory.

cluster.json   which cluster, and where its managers are; there as long as this host belongs to one
member.json    the UUID that a membership of this data directory is bound to, and whether a log was
               ever opened under it: one that was and is gone must not begin anew, because it may
               have promised what it does not know any more

Each is replaced as a whole. Whether this host manages is said by neither: it does if it has a log.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from warren.errors import StartupError

__all__ = ["ClusterFile", "MemberFile", "forget", "new_member", "read", "write"]

_FORMAT: Final = 1
_BYTES_MAX: Final = 1 << 20


class ClusterFile(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster that this host belongs to. Addresses are `host:port` of managers' APIs."""

    cluster_id: str  # hex; empty where it has not been told yet
    trust_domain: str  # empty where there are no certificates
    managers: tuple[str, ...]
    role: Literal["manager", "worker"]  # as it was asked to be
    format: int = _FORMAT


class MemberFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a membership is bound to; `opened`: a log was begun under it."""

    data_dir: str  # 32 hex digits
    opened: bool = False
    format: int = _FORMAT


Kind = TypeVar("Kind", ClusterFile, MemberFile)


def new_member() -> MemberFile:
    """One that nobody has had."""
    return MemberFile(data_dir=secrets.token_hex(16))


def read(path: Path, kind: type[Kind]) -> Kind | None:
    """What the file holds; None where there is none. StartupError where it cannot be read."""
    try:
        with path.open("rb") as file:
            value = msgspec.json.decode(file.read(_BYTES_MAX), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise StartupError(
            f"{path} is damaged ({error}); restore it from a backup, or remove it and let this "
            "host join the cluster again: warrenctl cluster join"
        ) from None
    if value.format > _FORMAT:
        raise StartupError(f"{path} was written by a newer release; upgrade this one")
    return value


def write(path: Path, value: ClusterFile | MemberFile) -> None:
    """Replace it, durably. OSError where that cannot be done."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(value)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    _sync_names(path.parent)


def forget(*paths: Path) -> None:
    """Remove them, durably; nothing where there is nothing."""
    for path in paths:
        path.unlink(missing_ok=True)
    for directory in {path.parent for path in paths}:
        _sync_names(directory)


def _sync_names(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

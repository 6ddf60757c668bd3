"""Directories of this host that containers mount by name. Managers know the names only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from warren import amounts
from warren.agent.runtime.base import RuntimeRefused
from warren.pb.v1 import objects_pb2

__all__ = ["Found", "VolumeMap"]

_BIND: Final = objects_pb2.MOUNT_TYPE_BIND
_VOLUME: Final = objects_pb2.MOUNT_TYPE_VOLUME


class Found(NamedTuple):
    """Volumes whose directories exist, by name, and the others as `NAME (PATH)`."""

    there: list[objects_pb2.NodeVolume]
    missing: list[str]


class VolumeMap:
    """The volumes of this host, as its configuration lists them; of a name the last one counts."""

    def __init__(self, rows: Iterable[amounts.Volume] = ()) -> None:
        self._rows = {row.name: row for row in sorted(rows, key=lambda row: row.name)}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def look(self) -> Found:
        """What is there now. Blocks for as long as the file systems take, which may be for ever."""
        found = Found([], [])
        for row in self._rows.values():
            if Path(row.path).is_dir():
                volume = objects_pb2.NodeVolume(name=row.name, read_only=row.read_only)
                found.there.append(volume)
            else:
                found.missing.append(f"{row.name} ({row.path})")
        return found

    def resolved(self, spec: objects_pb2.ContainerSpec) -> objects_pb2.ContainerSpec:
        """The spec with directories where it names volumes; itself where it names none.

        Raises:
            RuntimeRefused: permanently, where this host has no such volume, or none to write to.
        """
        if all(mount.type != _VOLUME for mount in spec.mounts):
            return spec
        found = objects_pb2.ContainerSpec()
        found.CopyFrom(spec)
        for mount in found.mounts:
            if mount.type == _VOLUME:
                mount.type, mount.source = _BIND, self._path(mount)
        return found

    def _path(self, mount: objects_pb2.Mount) -> str:
        row = self._rows.get(mount.source)
        if row is None or (row.read_only and not mount.read_only):
            lacks = "only lets be read" if row else "has no more"
            raise RuntimeRefused(
                f"the volume {mount.source}, which this host's configuration {lacks}; change "
                "`volumes` there, or let the service be placed elsewhere",
                permanent=True,
            )
        return row.path

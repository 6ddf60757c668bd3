"""What this host says of itself to managers: capacity, images, versions."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from warren import __version__
from warren.agent.runtime.base import Runtime, RuntimeUnavailable
from warren.pb.v1 import objects_pb2

__all__ = ["Describer", "ManagerAddresses", "architecture", "memory_total_bytes", "os_name"]

_log = logging.getLogger("warren.session")

# Linux' names, where OCI image specs have others.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


class ManagerAddresses(NamedTuple):
    """What makes a manager of a host: where it would be reached, and its data directory's UUID."""

    peer: str
    api: str
    data_dir: bytes


class Describer:
    """Describes this node. What containerd said last is kept while it does not answer.

    `as_manager`: None where this host's certificate does not allow it to manage.
    """

    def __init__(
        self,
        *,
        name: str,
        labels: Mapping[str, str],
        runtime: Runtime,
        images: Callable[[], Awaitable[Iterable[objects_pb2.NodeImage]]],
        as_manager: Callable[[], ManagerAddresses | None] = lambda: None,
    ) -> None:
        self._runtime = runtime
        self._images = images
        self._as_manager = as_manager
        self._described = objects_pb2.NodeDescription(
            name=name,
            labels=dict(labels),
            capacity=objects_pb2.Resources(
                cpu_milli=len(os.sched_getaffinity(0)) * 1000,
                memory_bytes=memory_total_bytes(Path("/proc/meminfo").read_text()),
            ),
            architecture=architecture(platform.machine()),
            os_name=os_name(_text_of(Path("/etc/os-release"))),
            kernel=platform.release(),
            warren_version=__version__,
        )

    async def describe(self) -> objects_pb2.NodeDescription:
        """The present description; `containerd_version` is empty while containerd is away."""
        described = objects_pb2.NodeDescription()
        described.CopyFrom(self._described)
        if (manager := self._as_manager()) is not None:
            described.peer_address = manager.peer
            described.api_address = manager.api
            described.data_dir = manager.data_dir
        try:
            described.containerd_version = await self._runtime.version()
            images = sorted(await self._images(), key=lambda image: image.reference)
        except RuntimeUnavailable:
            described.containerd_version = ""
            return described
        except Exception as error:  # noqa: BLE001 - the session goes on without a new description
            _log.warning("cannot ask containerd for its images, keeping the last list: %s", error)
            return described
        described.ClearField("images")
        described.images.extend(images)
        self._described.CopyFrom(described)
        return described


def architecture(machine: str) -> str:
    """Of `uname -m`, in the words of OCI image specs."""
    return _ARCHITECTURES.get(machine, machine)


def memory_total_bytes(meminfo: str) -> int:
    """MemTotal of /proc/meminfo. ValueError where it is missing."""
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    raise ValueError("/proc/meminfo has no MemTotal")


def os_name(os_release: str) -> str:
    """PRETTY_NAME of /etc/os-release; "Linux" where there is none."""
    for line in os_release.splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip().strip("\"'")
    return "Linux"


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""What this host says of itself to managers: capacity, images, versions."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from warren import __version__, amounts, node_limits
from warren.agent.runtime.base import Runtime, RuntimeUnavailable
from warren.agent.volumes import Found, VolumeMap
from warren.node_limits import DESCRIPTION_BYTES_MAX
from warren.pb.v1 import objects_pb2

__all__ = [
    "Declared",
    "Describer",
    "ManagerAddresses",
    "architecture",
    "disk_folder",
    "disk_free",
    "memory_total_bytes",
    "os_name",
]

_log = logging.getLogger("warren.session")

# Linux' names, where OCI image specs have others.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}


# Where containerd keeps what containers write, unless it was told otherwise.
_CONTAINER_DATA: Final = Path("/var/lib/containerd")
# What Warren's managers take as a number of processes.
_PIDS_MAX: Final = 1 << 22
_GIB: Final = 1 << 30
# Around an image in a description: a tag, and a length of two bytes.
_IMAGE_FRAME_BYTES: Final = 3
# What else of a description may grow while containerd does not answer: volumes come back.
_SPARE_BYTES: Final = 20 << 10

_EFFECTS: Final = {
    "no-schedule": objects_pb2.TAINT_EFFECT_NO_SCHEDULE,
    "prefer-no-schedule": objects_pb2.TAINT_EFFECT_PREFER_NO_SCHEDULE,
}


class Settings(Protocol):
    """The keys of the configuration that are about what a host has."""

    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def taints(self) -> Iterable[str]: ...
    @property
    def devices(self) -> Iterable[str]: ...
    @property
    def volumes(self) -> Iterable[str]: ...
    @property
    def reserved_cpus(self) -> str: ...
    @property
    def reserved_memory(self) -> str: ...
    @property
    def reserved_disk(self) -> str: ...
    @property
    def capacity_cpus(self) -> str: ...
    @property
    def capacity_memory(self) -> str: ...
    @property
    def capacity_disk(self) -> str: ...


class Declared(NamedTuple):
    """What the configuration says of this host. `capacity`: 0 where the host itself is asked."""

    labels: Mapping[str, str]
    taints: tuple[amounts.Taint, ...] = ()
    devices: tuple[amounts.Devices, ...] = ()
    volumes: tuple[amounts.Volume, ...] = ()
    reserved: objects_pb2.Resources = objects_pb2.Resources()
    capacity: objects_pb2.Resources = objects_pb2.Resources()

    @classmethod
    def of(cls, settings: Settings) -> Declared:
        def amount(cpus: str, memory: str, disk: str) -> objects_pb2.Resources:
            return objects_pb2.Resources(
                cpu_milli=amounts.cpu_milli(cpus or "0"),
                memory_bytes=amounts.memory_bytes(memory or "0"),
                disk_bytes=amounts.memory_bytes(disk or "0"),
            )

        # Of a key and effect the last one counts, as with managers.
        taints = {(it.key, it.effect): it for it in map(amounts.taint, settings.taints)}
        return cls(
            labels=settings.labels,
            taints=tuple(sorted(taints.values(), key=lambda it: (it.key, _EFFECTS[it.effect]))),
            devices=tuple(map(amounts.devices, settings.devices)),
            volumes=tuple(map(amounts.volume, settings.volumes)),
            reserved=amount(
                settings.reserved_cpus, settings.reserved_memory, settings.reserved_disk
            ),
            capacity=amount(
                settings.capacity_cpus, settings.capacity_memory, settings.capacity_disk
            ),
        )

    def describe(self, described: objects_pb2.NodeDescription) -> None:
        """Add it to what the host says of itself."""
        described.labels.update(self.labels)
        for taint in self.taints:
            described.taints.add(key=taint.key, value=taint.value, effect=_EFFECTS[taint.effect])
        for (kind, model), count in node_limits.counted(self.devices).items():
            described.devices.add(kind=kind, model=model, count=count)
        if self.reserved != objects_pb2.Resources():
            described.reserved.CopyFrom(self.reserved)
        described.capacity.MergeFrom(self.capacity)


class ManagerAddresses(NamedTuple):
    """What makes a manager of a host: where it would be reached, and its data directory's UUID."""

    peer: str
    api: str
    data_dir: bytes


class Describer:
    """Describes this node. What containerd said last is kept while it does not answer.

    `disk` is asked where containerd's own directory is not there. `images` gives those first that
    matter most: managers take descriptions of a limited size, and `images_left_out` is how many
    did not fit.
    `as_manager`: None where this host's certificate does not allow it to manage.
    """

    def __init__(
        self,
        *,
        name: str,
        declared: Declared,
        disk: Path,
        runtime: Runtime,
        images: Callable[[], Awaitable[Iterable[objects_pb2.NodeImage]]],
        volumes: VolumeMap = VolumeMap(),  # noqa: B008 - nothing changes it
        volumes_wait_s: float = 2.0,
        as_manager: Callable[[], ManagerAddresses | None] = lambda: None,
    ) -> None:
        self.images_left_out = 0
        self._runtime = runtime
        self._images = images
        self._volumes = volumes
        self._volumes_wait_s = volumes_wait_s
        self._looking: asyncio.Future[Found] | None = None
        self._told_hanging = False
        self._found = Found([], [])
        self._as_manager = as_manager
        self._disk = disk_folder(disk)
        self._described = objects_pb2.NodeDescription(
            name=name,
            capacity=objects_pb2.Resources(
                cpu_milli=len(os.sched_getaffinity(0)) * 1000,
                memory_bytes=memory_total_bytes(Path("/proc/meminfo").read_text()),
                disk_bytes=_disk_bytes(self._disk)[0],
                pids=_pids(),
            ),
            architecture=architecture(platform.machine()),
            os_name=os_name(_text_of(Path("/etc/os-release"))),
            kernel=platform.release(),
            warren_version=__version__,
        )
        declared.describe(self._described)

    async def describe(self) -> objects_pb2.NodeDescription:
        """The present description; `containerd_version` is empty while containerd is away."""
        described = objects_pb2.NodeDescription()
        total, free = _disk_bytes(self._disk)
        self._described.disk_free_bytes = disk_free(free, total, self._described.disk_free_bytes)
        described.CopyFrom(self._described)
        described.ClearField("volumes")
        if self._volumes:
            described.volumes.extend(await self._volumes_there())
        if (manager := self._as_manager()) is not None:
            described.peer_address = manager.peer
            described.api_address = manager.api
            described.data_dir = manager.data_dir
        try:
            described.containerd_version = await self._runtime.version()
            images = list(await self._images())
        except RuntimeUnavailable:
            described.containerd_version = ""
            return described
        except Exception as error:  # noqa: BLE001 - the session goes on without a new description
            _log.warning("cannot ask containerd for its images, keeping the last list: %s", error)
            return described
        described.ClearField("images")
        fitting = _fitting(images, DESCRIPTION_BYTES_MAX - _SPARE_BYTES - described.ByteSize())
        described.images.extend(sorted(fitting, key=lambda image: image.reference))
        self._tell_left_out(len(images) - len(fitting), len(images))
        self._described.CopyFrom(described)
        return described

    def _tell_left_out(self, count: int, of: int) -> None:
        if count > self.images_left_out:
            _log.warning(
                "%s of %s images are not told to managers, which take no more of a node: no "
                "service finds those here; remove images that nobody needs: warrenctl image rm",
                f"{count:,}",
                f"{of:,}",
            )
        self.images_left_out = count

    async def _volumes_there(self) -> list[objects_pb2.NodeVolume]:
        """As they are now; as they were, while a file system does not answer."""
        # One look at a time, or those that hang would use up the threads of all others.
        if self._looking is None:
            self._looking = asyncio.ensure_future(asyncio.to_thread(self._volumes.look))
            self._told_hanging = False
        done, _ = await asyncio.wait({self._looking}, timeout=self._volumes_wait_s)
        if not done:
            if not self._told_hanging:
                _log.warning(
                    "the directory of a volume does not answer; volumes are told as they were "
                    "until it does: look at the network file systems under `volumes`"
                )
            self._told_hanging = True
            return self._found.there
        before, self._found = self._found, self._looking.result()
        self._looking = None
        if self._found.missing and self._found.missing != before.missing:
            _log.warning(
                "volumes without a directory, which no container gets until there is one: %s",
                ", ".join(self._found.missing),
            )
        return self._found.there


def _fitting(
    images: Sequence[objects_pb2.NodeImage], limit_bytes: int
) -> list[objects_pb2.NodeImage]:
    """As many of the first as have room together."""
    fitting = []
    for image in images:
        limit_bytes -= image.ByteSize() + _IMAGE_FRAME_BYTES
        if limit_bytes < 0:
            break
        fitting.append(image)
    return fitting


def disk_folder(otherwise: Path) -> Path:
    """A folder of the file system that counts as this node's disk."""
    return _CONTAINER_DATA if _CONTAINER_DATA.is_dir() else otherwise


def disk_free(free: int, total: int, told: int) -> int:
    """Free bytes in coarse steps: what was `told` last, until it is off by more than one.

    Managers write every change down, and a disk that is in use changes all the time.
    """
    step = max(total // 64, _GIB)
    if told and -step < free - told < 2 * step:
        return told
    return free - free % step


def _disk_bytes(path: Path) -> tuple[int, int]:
    """Size and free bytes of the file system; zeros where it cannot be asked."""
    try:
        of = os.statvfs(path)
    except OSError:
        return 0, 0
    return of.f_blocks * of.f_frsize, of.f_bavail * of.f_frsize


def _pids() -> int:
    limits = [_PIDS_MAX]
    for name in ("pid_max", "threads-max"):
        text = _text_of(Path("/proc/sys/kernel") / name).strip()
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


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

"""The OCI runtime spec of a container. Pure: image, request and host in, a document out.

Defaults are Docker's: its capabilities, masked and read-only paths, devices. Two differences:
there is no seccomp profile, and the memory limit counts swap in (a container does not swap).

Source: OCI runtime-spec 1.0.2, config.md and config-linux.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from warren.agent.runtime.base import ContainerRequest, RuntimeRefused
from warren.agent.runtime.containerd.users import Identity
from warren.pb.v1 import objects_pb2

CGROUP_PARENT: Final = "/warren"
"""Every container's cgroup is ``/warren/<id>``, in each hierarchy."""

CPU_PERIOD_US: Final = 100_000
# The kernel's least quota is 1 ms.
_CPU_QUOTA_US_MIN: Final = 1_000

_PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CAPABILITIES: Final = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

READ_ONLY_PATHS: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What the spec depends on of this host.

    ``swap_limit``: the kernel accounts swap. ``name_files``: those of /etc/hosts and
    /etc/resolv.conf that the host has.
    """

    cgroup_v2: bool
    swap_limit: bool
    name_files: tuple[str, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """What an image says of its process (OCI image-spec, config.md)."""

    user: str = ""
    env: Sequence[str] | None = None
    entrypoint: Sequence[str] | None = None
    cmd: Sequence[str] | None = None
    working_dir: str = ""


class DeviceNode(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the container gets. ``kind``: ``c`` or ``b``; ``mode``: permission bits."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


def build(
    request: ContainerRequest,
    image: ImageConfig,
    identity: Identity,
    host: Host,
    devices: Sequence[DeviceNode] = (),
) -> dict[str, Any]:
    """The document for runc. Raises ``RuntimeRefused`` (permanent) where there is no command."""
    spec = request.spec
    on_host_network = spec.network == objects_pb2.NETWORK_MODE_HOST
    hostname = request.node_name if on_host_network else request.id[:12]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {
                "uid": identity.uid,
                "gid": identity.gid,
                "additionalGids": list(identity.additional_gids),
            },
            "args": arguments(spec, image),
            "env": environment(spec, image, hostname, identity.home, request.device_env),
            "cwd": spec.workdir or image.working_dir or "/",
            "capabilities": {
                kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")
            },
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": hostname,
        "mounts": _mounts(spec, host, on_host_network),
        "linux": {
            "cgroupsPath": f"{CGROUP_PARENT}/{request.id}",
            "namespaces": _namespaces(host, on_host_network),
            "devices": [
                {
                    "path": device.path,
                    "type": device.kind,
                    "major": device.major,
                    "minor": device.minor,
                    "fileMode": device.mode,
                    "uid": device.uid,
                    "gid": device.gid,
                }
                for device in devices
            ],
            "resources": _resources(spec, host, devices),
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READ_ONLY_PATHS),
        },
    }


def arguments(spec: objects_pb2.ContainerSpec, image: ImageConfig) -> list[str]:
    """The image's entry point, then the given command or else the image's own."""
    combined = [*(image.entrypoint or ()), *(spec.command or image.cmd or ())]
    if not combined:
        raise RuntimeRefused(
            f"the image {spec.image} has no command of its own; give one after --", permanent=True
        )
    return combined


def environment(
    spec: objects_pb2.ContainerSpec,
    image: ImageConfig,
    hostname: str,
    home: str,
    of_devices: Sequence[str] = (),
) -> list[str]:
    """Later ones win: defaults, the image's, the service's, that of devices. The order is kept.

    Nobody but the manager says which devices a container has, so what tells of them comes last.
    """
    merged: dict[str, str] = {}
    defaults = (_PATH, f"HOSTNAME={hostname}", f"HOME={home}")
    for item in (*defaults, *(image.env or ()), *spec.env, *of_devices):
        merged[item.partition("=")[0]] = item
    return list(merged.values())


def _namespaces(host: Host, on_host_network: bool) -> list[dict[str, str]]:
    kinds = ["pid", "ipc", "uts", "mount"]
    if not on_host_network:
        kinds.append("network")
    if host.cgroup_v2:
        kinds.append("cgroup")
    return [{"type": kind} for kind in kinds]


def _mounts(
    spec: objects_pb2.ContainerSpec, host: Host, on_host_network: bool
) -> list[dict[str, Any]]:
    mounts = [
        _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            *("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        ),
        _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
        _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),  # noqa: S108
    ]
    asked = {mount.target for mount in spec.mounts}
    if on_host_network:
        mounts += [
            _mount(file, "bind", file, "rbind", "rprivate", "ro")
            for file in host.name_files
            if file not in asked
        ]
    # Parents before children, so that none is hidden by one that comes later.
    for mount in sorted(spec.mounts, key=lambda mount: mount.target.count("/")):
        mounts.append(_user_mount(mount))
    return mounts


def _user_mount(mount: objects_pb2.Mount) -> dict[str, Any]:
    access = "ro" if mount.read_only else "rw"
    if mount.type == objects_pb2.MOUNT_TYPE_TMPFS:
        size = (f"size={mount.tmpfs_size_bytes}",) if mount.tmpfs_size_bytes else ()
        options = ("nosuid", "nodev", "noexec", "mode=1777", *size, access)
        return _mount(mount.target, "tmpfs", "tmpfs", *options)
    return _mount(mount.target, "bind", mount.source, "rbind", "rprivate", access)


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _resources(
    spec: objects_pb2.ContainerSpec, host: Host, devices: Sequence[DeviceNode]
) -> Mapping[str, Any]:
    reserved = spec.resources
    # Where nothing is said of limits, what is reserved is all that there is.
    limits = spec.limits if spec.HasField("limits") else reserved
    # runc adds the default devices (null, zero, random, tty, …) to the exceptions.
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    rules += [
        {
            "allow": True,
            "type": device.kind,
            "major": device.major,
            "minor": device.minor,
            "access": "rw",
        }
        for device in devices
    ]
    resources: dict[str, Any] = {"devices": rules}
    if limits.memory_bytes:
        memory = {"limit": limits.memory_bytes}
        if host.swap_limit:
            memory["swap"] = limits.memory_bytes
        resources["memory"] = memory
    cpu: dict[str, int] = {}
    if reserved.cpu_milli:
        cpu["shares"] = max(2, reserved.cpu_milli * 1024 // 1000)
    if limits.cpu_milli:
        cpu["quota"] = max(_CPU_QUOTA_US_MIN, limits.cpu_milli * CPU_PERIOD_US // 1000)
        cpu["period"] = CPU_PERIOD_US
    if cpu:
        resources["cpu"] = cpu
    if limits.pids:
        resources["pids"] = {"limit": limits.pids}
    return resources

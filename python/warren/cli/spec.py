"""From flags to a service's spec: made anew, or an existing one changed where something is said."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path

import click
from msgspec import Struct

from warren.cli import asks, parse, placement
from warren.pb.v1 import objects_pb2

__all__ = ["SpecFlags", "apply", "variables"]

_MODES = {
    "replicated": objects_pb2.SERVICE_MODE_REPLICATED,
    "global": objects_pb2.SERVICE_MODE_GLOBAL,
}
_RESTARTS = {
    "none": objects_pb2.RESTART_CONDITION_NONE,
    "on-failure": objects_pb2.RESTART_CONDITION_ON_FAILURE,
    "any": objects_pb2.RESTART_CONDITION_ANY,
}
_NETWORKS = {
    "none": objects_pb2.NETWORK_MODE_NONE,
    "host": objects_pb2.NETWORK_MODE_HOST,
}
_PARTITIONS = {
    "keep": objects_pb2.PARTITION_POLICY_KEEP,
    "stop_after": objects_pb2.PARTITION_POLICY_STOP_AFTER,
    "singleton": objects_pb2.PARTITION_POLICY_SINGLETON,
}
_MOUNTS = {
    "bind": objects_pb2.MOUNT_TYPE_BIND,
    "tmpfs": objects_pb2.MOUNT_TYPE_TMPFS,
    "volume": objects_pb2.MOUNT_TYPE_VOLUME,
}


class SpecFlags(Struct, frozen=True, kw_only=True):
    """What the flags say; None or empty: nothing was said."""

    image: str | None = None
    replicas: int | None = None
    mode: str | None = None
    env: Sequence[str] = ()
    env_file: Sequence[str] = ()
    env_rm: Sequence[str] = ()
    mount: Sequence[parse.MountFlag] = ()
    mount_rm: Sequence[str] = ()
    cpus: int | None = None
    memory: int | None = None
    restart: str | None = None
    restart_max_attempts: int | None = None
    network: str | None = None
    user: str | None = None
    workdir: str | None = None
    stop_timeout: int | None = None
    partition: parse.Partition | None = None
    label: Sequence[tuple[str, str]] = ()
    label_rm: Sequence[str] = ()
    container_label: Sequence[tuple[str, str]] = ()
    container_label_rm: Sequence[str] = ()
    command: Sequence[str] = ()
    constraint: Sequence[str] = ()
    constraint_rm: Sequence[str] = ()
    affinity: Sequence[asks.AffinityFlag] = ()
    affinity_rm: Sequence[str] = ()
    spread: Sequence[asks.SpreadFlag] = ()
    spread_rm: Sequence[str] = ()
    distinct: Sequence[str] = ()
    distinct_rm: Sequence[str] = ()
    anti_affinity: Sequence[asks.AntiAffinityFlag] = ()
    anti_affinity_rm: Sequence[str] = ()
    platform: Sequence[tuple[str, str]] = ()
    platform_rm: Sequence[str] = ()
    tolerate: Sequence[asks.TolerationFlag] = ()
    tolerate_rm: Sequence[str] = ()
    host_port: Sequence[asks.HostPortFlag] = ()
    host_port_rm: Sequence[str] = ()
    device: Sequence[asks.DeviceFlag] = ()
    device_rm: Sequence[str] = ()
    max_replicas_per_node: int | None = None
    priority: int | None = None
    preempt: bool | None = None
    strategy: str | None = None
    reserve_cpu: int | None = None
    reserve_memory: int | None = None
    reserve_disk: int | None = None
    reserve_pids: int | None = None
    limit_cpu: int | None = None
    limit_memory: int | None = None
    limit_pids: int | None = None


def variables(files: Sequence[str], given: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The environment from files, then from flags; the last word on a name wins.

    Raises ValueError with a sentence for what cannot be read.
    """
    words: list[str] = []
    for name in files:
        words += parse.env_file(_lines_of(name), name, environ)
    words += [parse.env_variable(text, environ) for text in given]
    return list({word.partition("=")[0]: word for word in words}.values())


def _lines_of(name: str) -> list[str]:
    try:
        return (sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")).splitlines()
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not UTF-8 text") from None


def apply(spec: objects_pb2.ServiceSpec, flags: SpecFlags) -> None:
    """Change `spec` where `flags` say something. Raises click.UsageError on a contradiction."""
    if flags.mode is not None:
        spec.mode = _MODES[flags.mode]
    if flags.replicas is not None:
        if spec.mode == objects_pb2.SERVICE_MODE_GLOBAL:
            raise click.UsageError(
                "a global service runs once on every node; --replicas goes with --mode replicated"
            )
        spec.replicas = flags.replicas
    _change_map(spec.labels, flags.label, flags.label_rm)
    _apply_container(spec.container, flags)
    _apply_lists(spec.container, flags)
    placement.apply_asks(spec.container, flags)
    placement.apply_placement(spec, flags)


def _apply_container(container: objects_pb2.ContainerSpec, flags: SpecFlags) -> None:
    if flags.image is not None:
        container.image = flags.image
        # The digest is of the former image; the manager finds the new one's.
        container.image_digest = ""
    if flags.restart is not None:
        container.restart = _RESTARTS[flags.restart]
    if flags.restart_max_attempts is not None:
        container.restart_max_attempts = flags.restart_max_attempts
    if flags.network is not None:
        container.network = _NETWORKS[flags.network]
    if flags.user is not None:
        container.user = flags.user
    if flags.workdir is not None:
        container.workdir = flags.workdir
    if flags.stop_timeout is not None:
        container.stop_timeout_ms = flags.stop_timeout
    if flags.partition is not None:
        container.partition = _PARTITIONS[flags.partition.kind]
        container.partition_stop_after_ms = flags.partition.stop_after_ms


def _apply_lists(container: objects_pb2.ContainerSpec, flags: SpecFlags) -> None:
    if flags.command:
        container.command[:] = flags.command
    _change_map(container.labels, flags.container_label, flags.container_label_rm)
    try:
        added = variables(flags.env_file, flags.env, os.environ)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    env = {word.partition("=")[0]: word for word in container.env}
    for name in flags.env_rm:
        env.pop(name, None)
    env.update({word.partition("=")[0]: word for word in added})
    container.env[:] = env.values()
    replaced = {mount.target for mount in flags.mount} | set(flags.mount_rm)
    kept = [mount for mount in container.mounts if mount.target not in replaced]
    del container.mounts[:]
    container.mounts.extend([*kept, *(_mount(mount) for mount in flags.mount)])


def _change_map(
    labels: MutableMapping[str, str], added: Sequence[tuple[str, str]], removed: Sequence[str]
) -> None:
    for name in removed:
        labels.pop(name, None)
    labels.update(dict(added))


def _mount(flag: parse.MountFlag) -> objects_pb2.Mount:
    return objects_pb2.Mount(
        type=_MOUNTS[flag.kind],
        source=flag.source,
        target=flag.target,
        read_only=flag.read_only,
        tmpfs_size_bytes=flag.tmpfs_size_bytes,
        exclusive=flag.exclusive,
    )

"""From what services ask, and what nodes have, to the shapes that are printed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warren.cli.shapes import (
    AffinityView,
    AntiAffinityView,
    DeviceAskView,
    DeviceShareView,
    DevicesView,
    PlacementView,
    ResourcesView,
    SpreadView,
    TaintView,
    TolerationView,
)
from warren.pb.v1.objects_pb2 import PORT_PROTOCOL_UDP, Strategy, TaintEffect

if TYPE_CHECKING:
    from collections.abc import Iterable

    from warren.pb.v1 import objects_pb2

__all__ = [
    "PRIORITY_DEFAULT",
    "device_asks",
    "device_shares",
    "devices",
    "host_ports",
    "limits",
    "placement",
    "resources",
    "taints",
]

# What managers take where nothing is said.
PRIORITY_DEFAULT = 50


def resources(message: objects_pb2.Resources) -> ResourcesView:
    return ResourcesView(
        cpu_milli=message.cpu_milli,
        memory_bytes=message.memory_bytes,
        disk_bytes=message.disk_bytes,
        pids=message.pids,
    )


def limits(spec: objects_pb2.ContainerSpec) -> ResourcesView:
    """What is enforced: what is reserved, unless something else is said. Disk never is."""
    of = spec.limits if spec.HasField("limits") else spec.resources
    return ResourcesView(
        cpu_milli=of.cpu_milli, memory_bytes=of.memory_bytes, disk_bytes=0, pids=of.pids
    )


def host_ports(spec: objects_pb2.ContainerSpec) -> list[str]:
    def text(port: objects_pb2.HostPort) -> str:
        return f"{port.port}/{'udp' if port.protocol == PORT_PROTOCOL_UDP else 'tcp'}"

    return [text(port) for port in spec.host_ports]


def device_asks(spec: objects_pb2.ContainerSpec) -> list[DeviceAskView]:
    return [DeviceAskView(each.kind, each.milli, list(each.models)) for each in spec.devices]


def device_shares(shares: Iterable[objects_pb2.DeviceShare]) -> list[DeviceShareView]:
    return [DeviceShareView(each.kind, each.number, each.milli) for each in shares]


def devices(rows: Iterable[objects_pb2.Device]) -> list[DevicesView]:
    return [DevicesView(row.kind, row.model or None, row.count) for row in rows]


def _effect(effect: int) -> str | None:
    if effect == TaintEffect.TAINT_EFFECT_UNSPECIFIED:
        return None
    name: str = TaintEffect.Name(effect)
    return name.removeprefix("TAINT_EFFECT_").lower().replace("_", "-")


def taints(of: Iterable[objects_pb2.Taint]) -> list[TaintView]:
    return [TaintView(it.key, it.value, _effect(it.effect)) for it in of]


def placement(spec: objects_pb2.ServiceSpec) -> PlacementView:
    """With what holds where nothing is said."""
    of = spec.placement
    spread = Strategy.STRATEGY_SPREAD
    strategy: str = Strategy.Name(of.strategy or spread)
    return PlacementView(
        constraints=list(of.constraints),
        affinities=[AffinityView(it.expression, it.weight) for it in of.affinities],
        spreads=[
            SpreadView(
                it.attribute,
                {target.value: target.percent for target in it.targets},
                it.max_skew or None,
            )
            for it in of.spreads
        ],
        max_replicas_per_node=of.max_replicas_per_node or None,
        distinct=list(of.distinct),
        anti_affinities=[
            AntiAffinityView(it.service, it.attribute or "node.id") for it in of.anti_affinities
        ],
        priority=of.priority if of.HasField("priority") else PRIORITY_DEFAULT,
        preempt=of.preempt,
        strategy=strategy.removeprefix("STRATEGY_").lower(),
        platforms=[f"{it.os or '*'}/{it.architecture or '*'}" for it in of.platforms],
        tolerations=[
            TolerationView(
                it.key or "*", it.value if it.HasField("value") else None, _effect(it.effect)
            )
            for it in of.tolerations
        ],
    )

"""From flags to a service's placement, and to what its containers take of a node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from warren.cli import asks
from warren.pb.v1 import objects_pb2

if TYPE_CHECKING:
    from warren.cli.spec import SpecFlags

__all__ = ["EFFECTS", "apply_asks", "apply_placement", "normal"]

T = TypeVar("T")

EFFECTS: Final = {
    "": objects_pb2.TAINT_EFFECT_UNSPECIFIED,
    "no-schedule": objects_pb2.TAINT_EFFECT_NO_SCHEDULE,
    "prefer-no-schedule": objects_pb2.TAINT_EFFECT_PREFER_NO_SCHEDULE,
}
_STRATEGIES: Final = {
    "spread": objects_pb2.STRATEGY_SPREAD,
    "pack": objects_pb2.STRATEGY_PACK,
    "consolidate": objects_pb2.STRATEGY_CONSOLIDATE,
}
_PROTOCOLS: Final = {
    # As managers store it.
    "tcp": objects_pb2.PORT_PROTOCOL_UNSPECIFIED,
    "udp": objects_pb2.PORT_PROTOCOL_UDP,
}


def normal(expression: str) -> str:
    """Without what tells no expressions apart: managers write blanks and quotes their own way."""
    return "".join(expression.split()).replace('"', "")


def _change(
    known: MutableSequence[T], added: Iterable[T], removed: Sequence[str], key: Callable[[T], str]
) -> None:
    """Take out what is removed or replaced, and add the rest at the end."""
    new = list(added)
    gone = {key(each) for each in new} | {normal(text) for text in removed}
    kept = [each for each in known if key(each) not in gone]
    del known[:]
    known.extend(kept + new)


def apply_placement(spec: objects_pb2.ServiceSpec, flags: SpecFlags) -> None:
    """Change `spec.placement` where `flags` say something."""
    placement = objects_pb2.Placement()
    placement.CopyFrom(spec.placement)
    _apply_lists(placement, flags)
    if flags.max_replicas_per_node is not None:
        placement.max_replicas_per_node = flags.max_replicas_per_node
    if flags.priority is not None:
        placement.priority = flags.priority
    if flags.preempt is not None:
        placement.preempt = flags.preempt
    if flags.strategy is not None:
        placement.strategy = _STRATEGIES[flags.strategy]
    if placement == objects_pb2.Placement():
        spec.ClearField("placement")
    else:
        spec.placement.CopyFrom(placement)


def _apply_lists(placement: objects_pb2.Placement, flags: SpecFlags) -> None:
    # Managers drop what is in it twice.
    _change(placement.constraints, flags.constraint, flags.constraint_rm, normal)
    _change(
        placement.affinities,
        [objects_pb2.Affinity(expression=e, weight=w) for e, w in flags.affinity],
        flags.affinity_rm,
        lambda each: normal(each.expression),
    )
    _change(
        placement.spreads,
        [_spread(flag) for flag in flags.spread],
        flags.spread_rm,
        lambda each: each.attribute,
    )
    _change(placement.distinct, flags.distinct, flags.distinct_rm, normal)
    _change(
        placement.anti_affinities,
        [objects_pb2.AntiAffinity(service=s, attribute=a) for s, a in flags.anti_affinity],
        flags.anti_affinity_rm,
        lambda each: each.service,
    )
    _change(
        placement.platforms,
        [objects_pb2.Platform(os=o, architecture=a) for o, a in flags.platform],
        flags.platform_rm,
        lambda each: f"{each.os}/{each.architecture}" if each.architecture else each.os,
    )
    _change(
        placement.tolerations,
        [_toleration(flag) for flag in flags.tolerate],
        flags.tolerate_rm,
        lambda each: each.key or "*",
    )


def _spread(flag: asks.SpreadFlag) -> objects_pb2.Spread:
    targets = [objects_pb2.SpreadTarget(value=v, percent=p) for v, p in flag.targets]
    return objects_pb2.Spread(attribute=flag.attribute, targets=targets, max_skew=flag.max_skew)


def _toleration(flag: asks.TolerationFlag) -> objects_pb2.Toleration:
    return objects_pb2.Toleration(key=flag.key, value=flag.value, effect=EFFECTS[flag.effect])


def apply_asks(container: objects_pb2.ContainerSpec, flags: SpecFlags) -> None:
    """Change what is reserved, limited and claimed where `flags` say something."""
    _apply_amounts(container, flags)
    _change(
        container.host_ports,
        [
            objects_pb2.HostPort(port=flag.port, protocol=_PROTOCOLS[flag.protocol])
            for flag in flags.host_port
        ],
        [text.removesuffix("/tcp") for text in flags.host_port_rm],
        lambda each: f"{each.port}/udp" if each.protocol == _PROTOCOLS["udp"] else str(each.port),
    )
    _change(
        container.devices,
        [
            objects_pb2.DeviceAsk(kind=flag.kind, milli=flag.milli, models=flag.models)
            for flag in flags.device
        ],
        flags.device_rm,
        lambda each: each.kind,
    )


def _apply_amounts(container: objects_pb2.ContainerSpec, flags: SpecFlags) -> None:
    reserved: dict[str, Any] = {
        "cpu_milli": flags.reserve_cpu,
        "memory_bytes": flags.reserve_memory,
        "pids": flags.reserve_pids,
    }
    limited: dict[str, Any] = {
        "cpu_milli": flags.limit_cpu,
        "memory_bytes": flags.limit_memory,
        "pids": flags.limit_pids,
    }
    both: dict[str, Any] = {"cpu_milli": flags.cpus, "memory_bytes": flags.memory}
    apart = any(v is not None for v in (*reserved.values(), *limited.values()))
    if apart and not container.HasField("limits"):
        # Until now what is reserved was the limit, and of what is not changed it stays that.
        container.limits.CopyFrom(container.resources)
        container.limits.disk_bytes = 0
    _set(container.resources, both)
    if container.HasField("limits"):
        _set(container.limits, both)
    _set(container.resources, reserved)
    _set(container.limits, limited)
    if flags.reserve_disk is not None:
        container.resources.disk_bytes = flags.reserve_disk


def _set(amounts: objects_pb2.Resources, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if value is not None:
            setattr(amounts, name, value)

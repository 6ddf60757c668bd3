"""Of `warren.cli.shapes`, those about what nodes have, and where containers may go."""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "AffinityView",
    "AntiAffinityView",
    "DeviceAskView",
    "DeviceShareView",
    "DevicesView",
    "PlacementView",
    "ResourcesView",
    "SpreadView",
    "TaintView",
    "TolerationView",
    "VolumeView",
]


class ResourcesView(Struct, frozen=True):
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    pids: int


class DevicesView(Struct, frozen=True):
    kind: str
    model: str | None
    count: int


class VolumeView(Struct, frozen=True):
    name: str
    read_only: bool


class DeviceAskView(Struct, frozen=True):
    kind: str
    milli: int
    models: list[str]


class DeviceShareView(Struct, frozen=True):
    kind: str
    number: int
    milli: int


class TaintView(Struct, frozen=True):
    key: str
    value: str
    effect: str | None


class TolerationView(Struct, frozen=True):
    key: str
    value: str | None
    effect: str | None


class AffinityView(Struct, frozen=True):
    expression: str
    weight: int


class SpreadView(Struct, frozen=True):
    attribute: str
    targets: dict[str, int]
    max_skew: int | None


class AntiAffinityView(Struct, frozen=True):
    service: str
    attribute: str


class PlacementView(Struct, frozen=True):
    constraints: list[str]
    affinities: list[AffinityView]
    spreads: list[SpreadView]
    max_replicas_per_node: int | None
    distinct: list[str]
    anti_affinities: list[AntiAffinityView]
    priority: int
    preempt: bool
    strategy: str
    platforms: list[str]
    tolerations: list[TolerationView]

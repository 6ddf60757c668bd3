"""What managers take of what a host says of itself, as far as its configuration says it. Pure.

The limits are the core's (`fsm/description.rs`). A description that is refused there is told in a
manager's log only; a configuration that is refused here, to whoever wrote it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, Final

from warren import amounts

__all__ = ["DESCRIPTION_BYTES_MAX", "complaint", "counted"]

DESCRIPTION_BYTES_MAX: Final = 256 << 10
"""Of a whole description, its images among it."""

_LABELS_BYTES_MAX: Final = 128 << 10  # ours: the rest of a description has to fit beside them
_TAINTS_MAX: Final = 64
_TAINT_KEY_BYTES_MAX: Final = 128
_TAINT_VALUE_BYTES_MAX: Final = 256
_DEVICE_ROWS_MAX: Final = 64
_DEVICES_PER_KIND_MAX: Final = 1024
_VOLUMES_MAX: Final = 256
_CPUS_MAX: Final = 1_000_000
_MEMORY_BYTES_MAX: Final = 1 << 50
_DISK_BYTES_MAX: Final = 1 << 60


def complaint(key: str, value: Any) -> str:
    """Why managers would refuse a key's value that can be read; empty where they would not."""
    check = _CHECKS.get(key)
    return "" if check is None or not value else check(value)


def counted(rows: Iterable[amounts.Devices]) -> dict[tuple[str, str], int]:
    """How many devices of each kind and model, in the order in which they are numbered."""
    found: dict[tuple[str, str], int] = {}
    for row in rows:
        found[row.kind, row.model] = found.get((row.kind, row.model), 0) + row.number
    return found


def _labels(labels: Mapping[str, str]) -> str:
    size = sum(len(name.encode()) + len(text.encode()) for name, text in labels.items())
    return "labels have at most 128 KiB together" if size > _LABELS_BYTES_MAX else ""


def _taints(words: Iterable[str]) -> str:
    taints = [amounts.taint(word) for word in words]
    if len({(taint.key, taint.effect) for taint in taints}) > _TAINTS_MAX:
        return f"a node has at most {_TAINTS_MAX} taints"
    for taint in taints:
        key, value = taint.key.encode(), taint.value.encode()
        if len(key) > _TAINT_KEY_BYTES_MAX or len(value) > _TAINT_VALUE_BYTES_MAX:
            return "a taint's key has at most 128 bytes, its value 256"
        if any(unicodedata.category(char) == "Cc" for char in taint.key + taint.value):
            return "a taint has no control characters in it"
    return ""


def _devices(words: Iterable[str]) -> str:
    rows = [amounts.devices(word) for word in words]
    of_rows = counted(rows)
    if len(of_rows) > _DEVICE_ROWS_MAX:
        return f"a node has at most {_DEVICE_ROWS_MAX} kinds and models of devices"
    for kind in {row.kind for row in rows}:
        if sum(row.number for row in rows if row.kind == kind) > _DEVICES_PER_KIND_MAX:
            return f"a node has at most {_DEVICES_PER_KIND_MAX:,} devices of a kind"
        # Managers number the devices of a kind model by model.
        models = [model for model, _ in groupby(row.model for row in rows if row.kind == kind)]
        if len(models) > len(set(models)):
            return f"write the rows of {kind} of one model behind one another"
    return ""


def _volumes(words: Iterable[str]) -> str:
    names = {amounts.volume(word).name for word in words}
    return f"a node has at most {_VOLUMES_MAX} volumes" if len(names) > _VOLUMES_MAX else ""


def _cpus(text: str) -> str:
    return "at most 1,000,000 CPUs" if amounts.cpu_milli(text) > 1000 * _CPUS_MAX else ""


def _memory(text: str) -> str:
    return "at most 1 PiB of memory" if amounts.memory_bytes(text) > _MEMORY_BYTES_MAX else ""


def _disk(text: str) -> str:
    return "at most 1 EiB of disk" if amounts.memory_bytes(text) > _DISK_BYTES_MAX else ""


_CHECKS: Final[dict[str, Callable[[Any], str]]] = {
    "labels": _labels,
    "taints": _taints,
    "devices": _devices,
    "volumes": _volumes,
    "reserved_cpus": _cpus,
    "reserved_memory": _memory,
    "reserved_disk": _disk,
    "capacity_cpus": _cpus,
    "capacity_memory": _memory,
    "capacity_disk": _disk,
}

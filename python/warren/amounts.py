"""Amounts, taints and devices as people write them, in flags and in configuration. Pure.

What cannot be read raises ValueError with a sentence that says what would do.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = [
    "EFFECTS",
    "Devices",
    "Taint",
    "cpu_milli",
    "device_list",
    "devices",
    "memory_bytes",
    "taint",
]

_UINT64_MAX: Final = 2**64 - 1
_DEVICES_MAX: Final = 1024

_MEMORY: Final = re.compile(r"(\d+)(?:\.(\d+))?\s*([kmgtp]?)(i?b)?", re.IGNORECASE | re.ASCII)
_MEMORY_SHIFT: Final = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_CPUS: Final = re.compile(r"(\d*)(?:\.(\d*))?", re.ASCII)
_WORD: Final = re.compile(r"[^\s=:,]{1,128}")
_DEVICES: Final = re.compile(r"([A-Za-z0-9._-]{1,64})=(\d+)(?::([A-Za-z0-9._-]{1,64}))?", re.ASCII)
_VOLUME: Final = re.compile(r"([A-Za-z0-9._-]{1,64})=(/[^\0]*?)(:ro)?")
_DEVICE_OPTION: Final = re.compile(r"path=(/[^,]+)|env=([A-Za-z_][A-Za-z0-9_]{0,127})", re.ASCII)
_DEVICE_PATH: Final = re.compile(r"(/[^:\s]+)(?::(/[^:\s]+))?")
_DEVICE_OPTIONS_MAX: Final = 16

EFFECTS: Final = ("no-schedule", "prefer-no-schedule")


def memory_bytes(text: str) -> int:
    """Bytes of `64m`, `1.5GiB`, `4096`; units are powers of 1,024 as in Docker."""
    match = _MEMORY.fullmatch(text.strip())
    if not match or (match[4] and not match[3] and match[4].lower() != "b"):
        raise ValueError(f"'{text}' is no size; write a number and a unit, as in 64m or 1.5g")
    shift = _MEMORY_SHIFT[match[3].lower()]
    fraction = match[2] or ""
    total: int = (int(match[1] + fraction) << shift) // 10 ** len(fraction)
    if total > _UINT64_MAX:
        raise ValueError(f"'{text}' is more memory than can be counted")
    return total


def cpu_milli(text: str) -> int:
    """Thousandths of a CPU of `0.5`, `2`, `.25`."""
    match = _CPUS.fullmatch(text.strip())
    if not match or not (match[1] or match[2]):
        raise ValueError(f"'{text}' is no number of CPUs; write it as in 0.5 or 2")
    fraction = (match[2] or "").rstrip("0")
    if len(fraction) > 3:
        raise ValueError(f"'{text}' is too fine; the smallest step is 0.001 of a CPU")
    total = int(match[1] or "0") * 1000 + int(fraction.ljust(3, "0"))
    if total > _UINT64_MAX:
        raise ValueError(f"'{text}' is more CPUs than can be counted")
    return total


class Taint(NamedTuple):
    """What keeps containers off a node. `effect` is one of `EFFECTS`, or empty: every one."""

    key: str
    value: str
    effect: str


def taint(text: str) -> Taint:
    """Of `key=value:no-schedule`, `key:prefer-no-schedule`."""
    word, colon, effect = text.strip().rpartition(":")
    key, _, value = word.partition("=")
    if not colon or effect not in EFFECTS or not _WORD.fullmatch(key):
        raise ValueError(
            f"'{text}' is no taint; write KEY=VALUE:no-schedule or KEY=VALUE:prefer-no-schedule"
        )
    if value and not _WORD.fullmatch(value):
        raise ValueError(f"'{text}': a value has no blanks, =, : or commas in it")
    return Taint(key, value, effect)


class Devices(NamedTuple):
    """So many devices of a kind on a node; `model` is empty where that does not matter.

    `paths`: device nodes that containers get, as HOST or HOST:CONTAINER; `{n}` stands for the
    device's number. `env`: variables that hold the numbers.
    """

    kind: str
    number: int
    model: str
    paths: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


def devices(text: str) -> Devices:
    """Of `gpu=4`, `gpu=2:A100`, `gpu=2,path=/dev/nvidia{n},env=NVIDIA_VISIBLE_DEVICES`."""
    first, *options = text.strip().split(",")
    match = _DEVICES.fullmatch(first)
    if not match or not 0 < int(match[2]) <= _DEVICES_MAX:
        raise ValueError(
            f"'{text}' names no devices; write KIND=COUNT or KIND=COUNT:MODEL, as in gpu=2:A100"
        )
    paths, env = [], []
    for option in options:
        given = _DEVICE_OPTION.fullmatch(option)
        path = _DEVICE_PATH.fullmatch(given[1]) if given and given[1] else None
        if not given or (given[1] and not path) or len(options) > _DEVICE_OPTIONS_MAX:
            raise ValueError(
                f"'{option}' says nothing of devices; write path=/dev/NAME{{n}}, "
                f"path=/dev/NAME{{n}}:/dev/OTHER or env=NAME, at most {_DEVICE_OPTIONS_MAX}"
            )
        if path:
            paths.append(given[1])
        else:
            env.append(given[2])
    return Devices(match[1], int(match[2]), match[3] or "", tuple(paths), tuple(env))


class Volume(NamedTuple):
    """A directory of a node that containers can mount by its name."""

    name: str
    path: str
    read_only: bool


def volume(text: str) -> Volume:
    """Of `data=/srv/data`, `logs=/srv/logs:ro`. ValueError says how it is written."""
    match = _VOLUME.fullmatch(text.strip())
    if not match:
        raise ValueError(f"'{text}' names no volume; write NAME=/PATH or NAME=/PATH:ro")
    return Volume(match[1], match[2].rstrip("/") or "/", bool(match[3]))


def device_list(text: str) -> list[str]:
    """The texts of several, with commas between them: an option stays with what it follows."""
    found: list[str] = []
    for word in (word.strip() for word in text.split(",")):
        if found and _DEVICE_OPTION.fullmatch(word):
            found[-1] += f",{word}"
        elif word:
            found.append(word)
    return found

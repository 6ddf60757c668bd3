"""Reading what people ask of nodes: preferences, ports, devices. Pure, like `warren.cli.parse`.

Expressions (`node.labels.zone==eu`) are the managers' to read: here they only pass through.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from warren.amounts import EFFECTS
from warren.cli.parse import count

__all__ = [
    "AffinityFlag",
    "AntiAffinityFlag",
    "DeviceFlag",
    "HostPortFlag",
    "SpreadFlag",
    "TolerationFlag",
    "affinity",
    "anti_affinity",
    "device",
    "host_port",
    "overcommit",
    "platform",
    "priority",
    "spread",
    "toleration",
]

_WEIGHT_DEFAULT: Final = 50
_WEIGHT: Final = re.compile(r"(.*\S)\s*,\s*weight=(-?\d{1,9})", re.ASCII | re.DOTALL)
_AMOUNT: Final = re.compile(r"(\d{0,7})(?:\.(\d{1,3}))?", re.ASCII)
_UINT32_MAX: Final = 2**32 - 1
_PERCENT: Final = re.compile(r"(\d{1,6})%?", re.ASCII)


class AffinityFlag(NamedTuple):
    expression: str
    weight: int


def affinity(text: str) -> AffinityFlag:
    """Of `node.labels.disk==ssd`, `node.labels.disk==ssd,weight=-20`; else the weight is 50."""
    match = _WEIGHT.fullmatch(text.strip())
    if match is None:
        return AffinityFlag(text.strip(), _WEIGHT_DEFAULT)
    weight = int(match[2])
    if weight == 0 or not -100 <= weight <= 100:
        raise ValueError(f"'{text}': a weight is -100 to 100, and not 0")
    return AffinityFlag(match[1], weight)


class SpreadFlag(NamedTuple):
    attribute: str
    targets: tuple[tuple[str, int], ...]
    max_skew: int


def spread(text: str) -> SpreadFlag:
    """Of `node.labels.zone`, `node.labels.zone,eu=60,us=40`, `node.labels.zone,max-skew=1`."""
    attribute, *words = (word.strip() for word in text.split(","))
    targets, max_skew = [], 0
    for word in words:
        value, equals, number = word.rpartition("=")
        percent = _PERCENT.fullmatch(number)
        if not value or not equals or percent is None:
            raise ValueError(f"'{text}': after the attribute write VALUE=PERCENT or max-skew=N")
        if value == "max-skew":
            max_skew = int(percent[1])
            if max_skew == 0:
                raise ValueError(f"'{text}': a max-skew is 1 or more; leave it out for none")
        else:
            targets.append((value, int(percent[1])))
    if not attribute or "=" in attribute:
        raise ValueError(f"'{text}' names no attribute; write it as in node.labels.zone")
    return SpreadFlag(attribute, tuple(targets), max_skew)


class AntiAffinityFlag(NamedTuple):
    service: str
    attribute: str


def anti_affinity(text: str) -> AntiAffinityFlag:
    """Of `db` (not on the same node), `db,node.labels.zone` (not in the same zone)."""
    service, _, attribute = (word.strip() for word in text.partition(","))
    if not service:
        raise ValueError(f"'{text}' names no service; write SERVICE or SERVICE,ATTRIBUTE")
    return AntiAffinityFlag(service, attribute)


def platform(text: str) -> tuple[str, str]:
    """System and architecture of `linux/arm64`, `linux`."""
    os, _, architecture = text.strip().partition("/")
    if (not os and not architecture) or "/" in architecture:
        raise ValueError(f"'{text}' is no platform; write OS/ARCH, as in linux/arm64")
    return os, architecture


class TolerationFlag(NamedTuple):
    """`key` empty: every key; `value` None: every value; `effect` empty: every effect."""

    key: str
    value: str | None
    effect: str


def toleration(text: str) -> TolerationFlag:
    """Of `gpu`, `gpu=yes`, `gpu=yes:no-schedule`; `*` tolerates everything."""
    word, colon, effect = text.strip().partition(":")
    key, equals, value = word.partition("=")
    if (colon and effect not in EFFECTS) or not key or (key == "*" and equals):
        raise ValueError(
            f"'{text}' is no toleration; write KEY, KEY=VALUE or KEY=VALUE:EFFECT with an effect "
            f"of {' or '.join(EFFECTS)}, or * for every key"
        )
    return TolerationFlag("" if key == "*" else key, value if equals else None, effect)


class HostPortFlag(NamedTuple):
    port: int
    protocol: str


def host_port(text: str) -> HostPortFlag:
    """Of `8080`, `8080/tcp`, `53/udp`."""
    port, slash, protocol = text.strip().lower().partition("/")
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise ValueError(f"'{text}' is no port; write PORT, PORT/tcp or PORT/udp, PORT up to 65535")
    if slash and protocol not in ("tcp", "udp"):
        raise ValueError(f"'{text}': the protocol is tcp or udp")
    return HostPortFlag(int(port), protocol or "tcp")


class DeviceFlag(NamedTuple):
    """`milli`: thousandths of a device."""

    kind: str
    milli: int
    models: tuple[str, ...]


def device(text: str) -> DeviceFlag:
    """Of `gpu`, `gpu=2`, `gpu=0.5,model=A100|V100`."""
    ask, comma, rest = text.strip().partition(",")
    kind, equals, amount = ask.partition("=")
    match = _AMOUNT.fullmatch(amount) if equals else None
    if not kind or (equals and (match is None or not amount.strip("."))):
        raise ValueError(f"'{text}' asks for no devices; write KIND=AMOUNT, as in gpu=2 or gpu=0.5")
    milli = int(match[1] or "0") * 1000 + int((match[2] or "").ljust(3, "0")) if match else 1000
    if milli == 0 or (milli > 1000 and milli % 1000):
        raise ValueError(f"'{text}': ask for whole devices, or for a share of one between 0 and 1")
    if milli > _UINT32_MAX:
        raise ValueError(f"'{text}' asks for more devices than can be counted: 4294967 at most")
    key, _, models = rest.partition("=")
    if comma and (key.strip() != "model" or not models.strip()):
        raise ValueError(f"'{text}': after the amount write model=MODEL, or model=ONE|OTHER")
    return DeviceFlag(
        kind, milli, tuple(word.strip() for word in models.split("|") if word.strip())
    )


def priority(text: str) -> int:
    """0 to 100."""
    number = count(text)
    if number > 100:
        raise ValueError(f"'{text}' is no priority; write 0 to 100, more being more urgent")
    return number


def overcommit(text: str) -> int:
    """Percent of `150%` or `150`: 10 to 1,000."""
    match = _PERCENT.fullmatch(text.strip())
    if match is None or not 10 <= int(match[1]) <= 1000:
        raise ValueError(f"'{text}' is no share; write 10% to 1000%, 100% for what there is")
    return int(match[1])

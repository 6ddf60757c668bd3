"""How a container gets the devices it holds: which nodes of /dev, which environment. Pure.

Managers know devices by kind and number; what is behind a number is this host's own business, and
only its configuration says so. A kind without `path` or `env` there is a count and nothing more:
its containers are told their numbers and given nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from warren import amounts
from warren.agent.runtime.base import DevicePath, RuntimeRefused
from warren.pb.v1 import objects_pb2

__all__ = ["DeviceMap", "Given"]

_WHOLE_MILLI: Final = 1000
_NUMBER: Final = "{n}"


class Given(NamedTuple):
    """What a container gets: `paths` each once, `env` as NAME=value."""

    paths: tuple[DevicePath, ...] = ()
    env: tuple[str, ...] = ()


class _Device(NamedTuple):
    """One device: where it is on the host and in containers, and variables that name it."""

    paths: tuple[DevicePath, ...]
    env: tuple[str, ...]


class DeviceMap:
    """The devices of this host, as its configuration lists them."""

    def __init__(self, rows: Iterable[amounts.Devices] = ()) -> None:
        self._kinds: dict[str, list[_Device]] = {}
        for row in rows:
            of_kind = self._kinds.setdefault(row.kind, [])
            for number in range(len(of_kind), len(of_kind) + row.number):
                paths = (_path(text, number) for text in row.paths)
                of_kind.append(_Device(tuple(paths), row.env))

    def given(self, shares: Sequence[objects_pb2.DeviceShare]) -> Given:
        """What a container with these shares gets.

        Raises RuntimeRefused (permanent) where the host no longer has such a device.
        """
        paths: dict[DevicePath, None] = {}
        env: dict[str, str] = {}
        for kind in sorted({share.kind for share in shares}):
            held = sorted((it.number, it.milli) for it in shares if it.kind == kind)
            numbers = ",".join(str(number) for number, _ in held)
            name = "WARREN_DEVICE_" + "".join(c if c.isalnum() else "_" for c in kind.upper())
            env[name] = numbers
            if held[0][1] < _WHOLE_MILLI:
                env[name + "_MILLI"] = str(held[0][1])
            for number, _ in held:
                device = self._device(kind, number)
                paths.update(dict.fromkeys(device.paths))
                env.update(dict.fromkeys(device.env, numbers))
        return Given(tuple(paths), tuple(f"{name}={value}" for name, value in env.items()))

    def _device(self, kind: str, number: int) -> _Device:
        of_kind = self._kinds.get(kind, [])
        if number >= len(of_kind):
            raise RuntimeRefused(
                f"this host's configuration has no {kind} number {number} any more; "
                "list it under `devices` again, or let the service be placed elsewhere",
                permanent=True,
            )
        return of_kind[number]


def _path(text: str, number: int) -> DevicePath:
    host, _, target = text.replace(_NUMBER, str(number)).partition(":")
    return DevicePath(host, target or host)

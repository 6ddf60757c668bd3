"""Ports that the daemon listens on, who holds them, and what interfaces carry."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from warren.doctor.verdict import FAILED, OK, SKIPPED, WARNING, Readings, Verdict

__all__ = [
    "Holder",
    "Interface",
    "Wanted",
    "listeners",
    "mtu",
    "port",
    "read_holders",
    "read_interfaces",
]

_LISTEN: Final = "0A"
_VXLAN_OVERHEAD_BYTES: Final = 50
_MTU_IPV6_MIN: Final = 1280
_PROCESSES_MAX: Final = 50_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A port of the configuration, at `host`. `unserved`: why nobody would listen there."""

    key: str
    port: int
    host: str
    unserved: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who listens on a port at `address`. `pid` is None where other users' processes cannot be
    seen.
    """

    pid: int | None
    command: str
    address: str


def port(wanted: Wanted, holders: Sequence[Holder], daemon_pid: int | None) -> Verdict:
    """Whether the daemon has the port, or could have it. `holders`: of that port, anywhere."""
    in_the_way = [each for each in holders if _meet(wanted.host, each.address)]
    # The daemon itself says most, one that cannot be seen least.
    in_the_way.sort(key=lambda each: (each.pid is None, each.pid != daemon_pid))
    holder = in_the_way[0] if in_the_way else None
    name = f"port.{wanted.key}"
    readings: Readings = {
        "port": wanted.port,
        "holder_pid": holder.pid if holder else None,
        "holder": holder.command if holder else None,
        "served": not wanted.unserved,
    }
    if wanted.unserved:
        words = f"{wanted.port} is not served: {wanted.unserved}"
        return Verdict(name, SKIPPED, words, "", readings)
    if holder is None and daemon_pid is not None:
        return Verdict(
            name,
            FAILED,
            f"the daemon (pid {daemon_pid}) runs, and nobody listens on {wanted.port}",
            "read the daemon's log: journalctl -u warrend",
            readings,
        )
    if holder is None:
        return Verdict(name, OK, f"{wanted.port} is free", "", readings)
    if holder.pid is None:
        words = f"{wanted.port} is in use; whose it is cannot be seen"
        return Verdict(name, SKIPPED, words, "run this command as root", readings)
    if holder.pid == daemon_pid:
        words = f"{wanted.port} is the daemon's (pid {holder.pid})"
        return Verdict(name, OK, words, "", readings)
    return Verdict(
        name,
        FAILED,
        f"{wanted.port} is taken by {holder.command} (pid {holder.pid})",
        f"stop it, or set {wanted.key} to another port",
        readings,
    )


def _meet(one: str, other: str) -> bool:
    """Whether who listens at the one address keeps others from the other."""
    try:
        addresses = _address(one), _address(other)
    except ValueError:  # a name, which may be any
        return True
    return addresses[0] == addresses[1] or any(each.is_unspecified for each in addresses)


def _address(text: str) -> IPv4Address | IPv6Address:
    found = ip_address(text.strip("[]"))
    return getattr(found, "ipv4_mapped", None) or found


def listeners(table: str) -> dict[int, list[tuple[str, int]]]:
    """Addresses and inodes of listening sockets by port, of the text of /proc/net/tcp or tcp6."""
    found: dict[int, list[tuple[str, int]]] = {}
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == _LISTEN:
            address, _, number = words[1].rpartition(":")
            found.setdefault(int(number, 16), []).append((_unpacked(address), int(words[9])))
    return found


def _unpacked(address: str) -> str:
    """As people write it: the kernel prints words of 32 bits, each as the host keeps it."""
    words = [int(address[at : at + 8], 16) for at in range(0, len(address), 8)]
    return str(ip_address(struct.pack(f"={len(words)}I", *words)))


def read_holders(ports: Iterable[int], root: Path = Path("/")) -> dict[int, list[Holder]]:
    """All who listen on which of the ports; one that is free is not in it. Raises OSError."""
    open_ports: dict[int, list[tuple[str, int]]] = {}
    for name in ("tcp", "tcp6"):
        try:
            table = (root / "proc/net" / name).read_text(encoding="ascii")
        except FileNotFoundError:  # no IPv6 here
            continue
        for number, sockets in listeners(table).items():
            open_ports.setdefault(number, []).extend(sockets)
    asked = {number: open_ports[number] for number in ports if number in open_ports}
    unseen: tuple[int | None, str] = None, ""
    owners = _owners({inode for sockets in asked.values() for _, inode in sockets}, root)
    return {
        number: [Holder(*owners.get(inode, unseen), address) for address, inode in sockets]
        for number, sockets in asked.items()
    }


def _owners(inodes: set[int], root: Path) -> dict[int, tuple[int | None, str]]:
    """The process id and command of who has which socket."""
    if not inodes:
        return {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, tuple[int | None, str]] = {}
    processes = [name for name in os.listdir(root / "proc") if name.isdigit()]
    for name in sorted(processes, key=int)[:_PROCESSES_MAX]:
        folder = root / "proc" / name
        try:
            held = [wanted[link] for link in _links(folder / "fd") if link in wanted]
            if held:
                command = (folder / "comm").read_text(encoding="utf-8", errors="replace").strip()
                # The oldest process that has it made it; others may have inherited it.
                found = {inode: (int(name), command) for inode in held} | found
        except OSError:  # it ended, or is another user's
            continue
    return found


def _links(folder: Path) -> Iterator[str]:
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            yield os.readlink(folder / name)


@dataclass(frozen=True, slots=True)
class Interface:
    """One that is up. `physical`: a device stands behind it."""

    name: str
    mtu_bytes: int
    physical: bool
    default_route: bool


def mtu(found: Iterable[Interface]) -> Verdict:
    """Whether what hosts send each other fits, and what a network across them would leave."""
    up = sorted(found, key=lambda each: (not each.default_route, each.name))
    readings: Readings = {f"{each.name}_bytes": each.mtu_bytes for each in up}
    if not up:
        return Verdict(
            "mtu",
            WARNING,
            "no interface but the loopback is up",
            "bring one up, or other hosts cannot be reached: ip link set NAME up",
            readings,
        )
    words = ", ".join(
        f"{each.name} {each.mtu_bytes}{' (default route)' if each.default_route else ''}"
        for each in up
    )
    # Bridges and tunnels follow what they are made of.
    outer = [each for each in up if each.default_route] or [each for each in up if each.physical]
    least = min(outer or up, key=lambda each: each.mtu_bytes)
    left = least.mtu_bytes - _VXLAN_OVERHEAD_BYTES
    words += f"; over VXLAN {left} are left of {least.name}'s"
    if left >= _MTU_IPV6_MIN:
        return Verdict("mtu", OK, words, "", readings)
    return Verdict(
        "mtu",
        FAILED if least.mtu_bytes < _MTU_IPV6_MIN else WARNING,
        f"{words}: fewer than the {_MTU_IPV6_MIN} that IPv6 needs",
        f"raise it on every host, if the network carries it: ip link set {least.name} mtu 1500",
        readings,
    )


def read_interfaces(root: Path = Path("/")) -> list[Interface]:
    """Those that are up, without the loopback. Raises OSError."""
    table = (root / "proc/net/route").read_text(encoding="ascii")
    defaults = {
        row[0]
        for row in (line.split() for line in table.splitlines()[1:])
        if len(row) > 7 and row[1] == row[7] == "00000000"
    }
    found = []
    for folder in sorted((root / "sys/class/net").iterdir()):
        attributes = _attributes(folder, ("flags", "mtu"))
        up = int(attributes.get("flags", "0"), 16) & 1
        if folder.name == "lo" or not up or not re.fullmatch(r"\d+", attributes.get("mtu", "")):
            continue
        found.append(
            Interface(
                folder.name,
                int(attributes["mtu"]),
                (folder / "device").exists(),
                folder.name in defaults,
            )
        )
    return found


def _attributes(folder: Path, names: Iterable[str]) -> Mapping[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = (folder / name).read_text(encoding="ascii").strip()
        except OSError:  # the interface went
            continue
    return found

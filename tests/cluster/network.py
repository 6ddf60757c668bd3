"""Hosts' networks on one machine: a namespace each, joined by a bridge in one more, and cuts.

    10.77.0.254  the switch: bridge `lan`; tests and people stand here
    10.77.0.N    a host: `eth0`, a veth whose other end is a port of the bridge

Nothing touches the machine's own interfaces. A cut drops packets where they arrive, without a word
to either side, as a broken cable would; connections that stood keep standing and time out.
"""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

PREFIX: Final = "10.77.0"
SWITCH_ADDRESS: Final = f"{PREFIX}.254"
HOSTS_MAX: Final = 200
RUN: Final = Path("/run/netns")
COMMAND_TIMEOUT_S: Final = 20
_CLONE_NEWNET: Final = 0x40000000

_FILTER: Final = """
table inet cut {
  set sources { type ipv4_addr; }
  chain input {
    type filter hook input priority 0;
    ip saddr @sources drop
  }
}
"""


class Network:
    """A switch and the hosts on it. `tag` keeps apart those of several clusters."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.switch = f"{tag}-switch"
        self.addresses: dict[str, str] = {}
        self._relays: dict[str, subprocess.Popen[bytes]] = {}

    def namespace(self, host: str) -> str:
        """The name of a host's network namespace."""
        return f"{self.tag}-{host}"

    def create(self, hosts: Iterable[str]) -> None:
        """Makes the switch and a namespace for each host, all connected."""
        names = list(hosts)
        assert len(names) <= HOSTS_MAX, f"at most {HOSTS_MAX} hosts"
        for name in [self.switch, *map(self.namespace, names)]:
            _run("ip", "netns", "add", name)
        _ip(
            self.switch,
            "link set dev lo up",
            "link add name lan type bridge",
            f"address add {SWITCH_ADDRESS}/24 dev lan",
            "link set dev lan up",
        )
        for name in names:
            self.connect(name)

    def connect(self, host: str) -> None:
        """Gives a host its address and a port of the switch."""
        address = self.addresses[host] = f"{PREFIX}.{len(self.addresses) + 1}"
        namespace = self.namespace(host)
        _ip(
            self.switch,
            f"link add name {host} type veth peer name eth0 netns {namespace}",
            f"link set dev {host} master lan up",
        )
        _ip(
            namespace,
            "link set dev lo up",
            f"address add {address}/24 dev eth0",
            "link set dev eth0 up",
        )
        _run(*inside(namespace), "nft", "-f", "-", data=_FILTER)

    def add(self, host: str) -> None:
        """One more host, later."""
        _run("ip", "netns", "add", self.namespace(host))
        self.connect(host)

    def cut_one_way(self, sender: str, receiver: str) -> None:
        """What `sender` sends never arrives at `receiver`; the other way it does."""
        address = self.addresses[sender]
        _nft(self.namespace(receiver), f"add element inet cut sources {{ {address} }}")

    def cut(self, one: str, other: str) -> None:
        """Nothing passes between two hosts."""
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def mend(self, one: str, other: str) -> None:
        """Everything passes between two hosts again."""
        for sender, receiver in ((one, other), (other, one)):
            address = self.addresses[sender]
            # Adding first: taking out what is not there would be refused.
            self.cut_one_way(sender, receiver)
            _nft(self.namespace(receiver), f"delete element inet cut sources {{ {address} }}")

    def heal(self) -> None:
        """No cut and no delay anywhere."""
        for host in self.addresses:
            _nft(self.namespace(host), "flush set inet cut sources")
            if self._has_link(f"{host}-tap"):
                self.delay(host, 0)

    def delay(self, host: str, ms: int) -> None:
        """Every packet from and to a host takes so much longer, one way; 0: not any more.

        The kernel of many test machines has no netem. A relay between the host's port and the
        bridge holds frames back, checksums and segments as the kernel left them.
        """
        if self._end_relay(host):
            # The kernel removes a tap without a holder in its own time.
            _until(lambda: not self._has_link(f"{host}-tap"), f"{host}'s tap to go")
            _ip(self.switch, f"link set dev {host} master lan")
        if ms <= 0:
            return
        _ip(self.switch, f"link set dev {host} nomaster")
        program = Path(__file__).with_name("relay.py")
        relay = subprocess.Popen(
            [*inside(self.switch), sys.executable, str(program), host, f"{host}-tap", str(ms)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._relays[host] = relay
        _until(lambda: self._has_link(f"{host}-tap"), f"{host}'s relay to start")
        _ip(self.switch, f"link set dev {host}-tap master lan up")

    def _end_relay(self, host: str) -> bool:
        """Whether there was one: of this process, or of another that attached to this network."""
        if (ours := self._relays.pop(host, None)) is not None:
            ours.kill()
            ours.wait(COMMAND_TIMEOUT_S)
            return True
        for pid in pids_in(self.switch):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if f"{host}-tap".encode() in words:
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def _has_link(self, name: str) -> bool:
        done = subprocess.run(
            ["ip", "-n", self.switch, "link", "show", name],
            capture_output=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return done.returncode == 0

    def end_relays(self) -> None:
        """Ends every relay that this process started, and waits for it."""
        for host in list(self._relays):
            self._end_relay(host)

    def remove(self) -> None:
        """Ends relays and removes every namespace, and with them links, bridge and filters."""
        self.end_relays()
        remove_namespaces(self.tag)


def namespaces(tag: str) -> list[str]:
    """The network namespaces of a cluster that are there."""
    names = (path.name for path in RUN.iterdir()) if RUN.is_dir() else iter(())
    return sorted(name for name in names if name.startswith(f"{tag}-"))


def pids_in(namespace: str) -> list[int]:
    """The processes in a network namespace: all of them ours, since it is."""
    done = subprocess.run(
        ["ip", "netns", "pids", namespace],
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return [int(word) for word in done.stdout.split()]


def remove_namespaces(tag: str) -> None:
    """Removes a cluster's namespaces; what is in none of them is left alone."""
    for name in namespaces(tag):
        _run("ip", "netns", "delete", name)


def inside(namespace: str) -> list[str]:
    """What comes before a command that is to run in a network namespace.

    Not `ip netns exec`: that mounts a new /sys, and the daemon needs the cgroups in it.
    """
    return ["nsenter", f"--net={RUN / namespace}"]


def in_namespace(namespace: str, make: Callable[[], T]) -> T:
    """What `make` returns, called in a network namespace: sockets stay where they were made.

    By a thread of its own: a process that has entered a namespace has all its threads there.
    """
    answers: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(1)

    def work() -> None:
        try:
            fd = os.open(RUN / namespace, os.O_RDONLY | os.O_CLOEXEC)
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(fd, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"cannot enter {namespace}; are you root?")
            finally:
                os.close(fd)
            answers.put((make(), None))
        except BaseException as error:
            answers.put((None, error))

    thread = threading.Thread(target=work, name=f"in {namespace}", daemon=True)
    thread.start()
    answer, error = answers.get(timeout=COMMAND_TIMEOUT_S)
    thread.join(COMMAND_TIMEOUT_S)
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]


def tcp_socket(namespace: str) -> socket.socket:
    """An unconnected TCP socket of a network namespace."""
    return in_namespace(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))


def _ip(namespace: str, *commands: str) -> None:
    _run("ip", "-n", namespace, "-batch", "-", data="\n".join(commands) + "\n")


def _nft(namespace: str, command: str) -> None:
    _run(*inside(namespace), "nft", command)


def _run(*command: str, data: str = "") -> None:
    done = subprocess.run(
        command,
        input=data.encode(),
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        raise OSError(f"{' '.join(command)}: {words or f'exit {done.returncode}'}")


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {COMMAND_TIMEOUT_S} s for {what}")
        time.sleep(0.01)

"""Three managers of a Docker swarm, each in a network namespace, and creates through them.

They stand where Warren's own do in the same run: hosts on a bridge of the same kind, files on the
same disk, a client on each manager's Unix socket whose one connection stays. Services have no
replicas, and an image that nobody asks a registry for, so that what is measured is the way into the
replicated state and nothing else.
"""

from __future__ import annotations

import secrets
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benches._dockerd import Dockerd, nothing_outside
from tests.cluster import network, remains
from tests.support.containerd import Containerd
from tests.support.node import eventually
from warren._histogram import Histogram

NAMES: Final = ("d1", "d2", "d3")
PORT: Final = 2377
FORM_TIMEOUT_S: Final = 60


class Swarm:
    """Formed by `form`; ended by `close`, or as a test cluster is if this process cannot."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=remains.PREFIX))
        self.tag = f"w{secrets.token_hex(2)}"
        #: Times of creates, in seconds.
        self.times = {"leader": Histogram(), "follower": Histogram()}
        #: Calls to `create` whose times do not count, because leadership moved meanwhile.
        self.left_out = 0
        self.version = ""
        self._network = network.Network(self.tag)
        self._containerd: Containerd | None = None
        self._managers: dict[str, Dockerd] = {}

    def form(self) -> None:
        """Starts three daemons, founds a swarm on the first, has the others join as managers."""
        remains.note(self.root, self.tag)
        self._network.create(NAMES)
        self._start(self._start_containerd())
        first, *others = (self._managers[name] for name in NAMES)
        first.call("POST", "/swarm/init", self._address_of(NAMES[0]))
        joining = {
            "RemoteAddrs": [f"{self._network.addresses[NAMES[0]]}:{PORT}"],
            "JoinToken": first.call("GET", "/swarm")["JoinTokens"]["Manager"],
        }
        for name, manager in zip(NAMES[1:], others, strict=True):
            manager.call("POST", "/swarm/join", self._address_of(name) | joining)
        eventually(self._formed, "every manager reaches all the others", FORM_TIMEOUT_S)
        self.version = first.call("GET", "/version")["Version"]

    def _start_containerd(self) -> Containerd:
        # No container will run, but dockerd insists on one, and would take the machine's own.
        folder = self.root / "containerd"
        folder.mkdir()
        self._containerd = Containerd(folder)
        self._containerd.start()
        return self._containerd

    def _start(self, runtime: Containerd) -> None:
        for name in NAMES:
            folder = self.root / name
            folder.mkdir()
            namespace = runtime.new_namespace(self._network.namespace(name))
            manager = self._managers[name] = Dockerd(
                folder, "--iptables=false", "--bridge=none", "--containerd", runtime.address,
                "--containerd-namespace", namespace,
                "--containerd-plugins-namespace", f"{namespace}-plugins",
                inside=network.inside(namespace),
            )  # fmt: skip
            manager.start()
        for manager in self._managers.values():
            manager.wait_ready()

    def _address_of(self, name: str) -> dict[str, object]:
        address = self._network.addresses[name]
        return {"ListenAddr": f"{address}:{PORT}", "AdvertiseAddr": address}

    def _formed(self) -> bool:
        """A follower asks the leader, so that each answer is a way that creates can take."""
        nodes = [manager.call("GET", "/nodes") for manager in self._managers.values()]
        return all(len(reachable(seen)) == len(NAMES) for seen in nodes)

    def close(self) -> None:
        """Ends and removes everything, in whatever state it is."""
        try:
            for manager in self._managers.values():
                # Not asked to end: it would wait for the quorum that has gone with the one before.
                manager.close(signal.SIGKILL)
            if self._containerd is not None:
                self._containerd.stop()
        finally:
            remains.remove(self.root)
        left = remains.left(self.root, self.tag)
        assert not left, f"left behind by a swarm: {'; '.join(left)}"

    def leader(self) -> str:
        """The name of the manager that leads."""
        nodes = self._managers[NAMES[0]].call("GET", "/nodes")
        names = {f"{address}:{PORT}": name for name, address in self._network.addresses.items()}
        return names[leads(nodes)]

    def create(self, numbers: Iterable[int]) -> None:
        """For each number a service through the leader and one through a follower, in turns."""
        leader = self.leader()
        follower = next(name for name in NAMES if name != leader)
        times = {kind: Histogram() for kind in self.times}
        for number in numbers:
            for kind, name in (("leader", leader), ("follower", follower)):
                began = time.perf_counter()
                self._managers[name].call("POST", "/services/create", service(f"{kind}-{number}"))
                times[kind].observe(time.perf_counter() - began)
        if self.leader() != leader:
            self.left_out += 1
            return
        for kind, histogram in times.items():
            self.times[kind].merge(histogram)


def reachable(nodes: Iterable[Mapping[str, Any]]) -> set[str]:
    """Addresses of the managers among the Engine API's nodes that take part in consensus."""
    managers = (node["ManagerStatus"] for node in nodes if "ManagerStatus" in node)
    return {one["Addr"] for one in managers if one.get("Reachability") == "reachable"}


def leads(nodes: Iterable[Mapping[str, Any]]) -> str:
    """The address of the one manager among the Engine API's nodes that leads; ValueError if none.

    The API leaves `Leader` out for all others.
    """
    managers = (node["ManagerStatus"] for node in nodes if "ManagerStatus" in node)
    (address,) = (str(one["Addr"]) for one in managers if one.get("Leader"))
    return address


def service(name: str) -> dict[str, object]:
    """The spec of a replicated service without replicas."""
    return {
        "Name": name,
        "TaskTemplate": {"ContainerSpec": {"Image": "never-pulled:1"}},
        "Mode": {"Replicated": {"Replicas": 0}},
    }


@contextmanager
def three_managers() -> Iterator[Swarm]:
    """A swarm for the length of the block, after which nothing of it is left."""
    with nothing_outside():
        swarm = Swarm()
        try:
            swarm.form()
            yield swarm
        finally:
            swarm.close()

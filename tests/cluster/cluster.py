"""Many daemons on one machine, as one cluster, and what can happen to it.

    async with Cluster(managers=3, workers=3) as cluster:
        leader = await cluster.leader()
        cluster.kill(leader)
        await cluster.wait_until(lambda: cluster.leader(other_than=leader), "another leads")

Hosts are called m1, m2, … (managers, which are workers too) and w1, w2, … (workers only).
Everything that a cluster makes is removed when the block ends, and it is checked that nothing is
left.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from tests.cluster import remains
from tests.cluster.certificates import Authority, Files, Role, node_id
from tests.cluster.client import Client, Door
from tests.cluster.disk import SmallDisk
from tests.cluster.host import API_PORT, ROOT, Host, Place
from tests.cluster.network import Network
from tests.cluster.waiting import T, wait_until
from tests.support.containerd import Containerd, runtime_tasks, tiny_archive
from warren.pb.v1 import api_pb2, objects_pb2

SEGMENT_BYTES: Final = 4 << 20
DISK_MIB: Final = 64
FORM_TIMEOUT_S: Final = 60.0
LOG_TAIL_LINES: Final = 40
READY: Final = objects_pb2.NODE_STATUS_READY

Runtime = Literal["simulated", "containerd"]


class Cluster:
    """So many managers and workers; formed when the `async with` block begins.

    `runtime`: simulated containers, or real ones on one private containerd with a namespace for
    each host. `small_disks`: managers' data is on a file system of 64 MiB that `fill_disk` fills.
    `spare`: hosts that are started and join nothing (s1, s2, …, with a manager's certificate).
    `tree`: of the release that all hosts begin with; see `release`.
    """

    def __init__(
        self,
        managers: int = 3,
        workers: int = 3,
        *,
        spare: int = 0,
        runtime: Runtime = "simulated",
        small_disks: bool = False,
        tree: Path = ROOT,
        root: Path | None = None,
    ) -> None:
        self.managers = [f"m{number}" for number in range(1, managers + 1)]
        self.workers = [f"w{number}" for number in range(1, workers + 1)]
        self.spares = [f"s{number}" for number in range(1, spare + 1)]
        self.hosts: dict[str, Host] = {}
        #: Seconds from nothing to every node ready and every manager voting.
        self.formed_s = 0.0
        #: Managers that are not asked: demoted ones, or such as are in the minority.
        self.aside: set[str] = set()
        self.tag = f"w{secrets.token_hex(2)}"
        # Short: a Unix socket's path has at most 107 bytes.
        self.root = root or Path(tempfile.mkdtemp(prefix=remains.PREFIX))
        self.network = Network(self.tag)
        self.authority = Authority()
        self._runtime = runtime
        self._small_disks = small_disks
        self._tree = tree
        self._containerd: Containerd | None = None
        self._clients: dict[tuple[str, str], Client] = {}
        self._people: Files | None = None

    @classmethod
    def attach(cls, root: Path) -> Cluster:
        """The cluster that another process formed in `root`: hosts to look at and to start."""
        note = remains.noted(root)
        assert note, f"there is no cluster in {root}"
        made = cls(note["managers"], note["workers"], runtime=note["runtime"], root=root)
        made.tag = note["tag"]
        made.network = Network(made.tag)
        for name, address in note["addresses"].items():
            made.network.addresses[name] = address
            tls = root / name / "tls"
            place = Place(
                name=name,
                node_id="",
                folder=root / name,
                namespace=made.network.namespace(name),
                address=address,
                files=Files(tls / "ca.pem", tls / "cert.pem", tls / "key.pem"),
                containerd_address=note["containerd"],
            )
            made.hosts[name] = Host(place, SEGMENT_BYTES)
        return made

    # Coming and going

    async def __aenter__(self) -> Self:
        try:
            await self.form()
        except BaseException:
            self.show_logs()
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.show_logs()
        await self.close()

    async def form(self) -> None:
        """Starts every host, founds the cluster on m1, has all others join, waits for them."""
        began = time.monotonic()
        await asyncio.to_thread(self._prepare)
        names = [*self.managers, *self.workers, *self.spares]
        await asyncio.gather(*(self.hosts[name].start() for name in names))
        first, *others = self.managers
        await self.local(first).call("InitCluster", api_pb2.InitClusterRequest())
        await asyncio.gather(
            *(self.join(name, "manager", first) for name in others),
            *(self.join(name, "worker", first) for name in self.workers),
        )
        await self.wait_until(self.settled, "every node is ready, every manager votes", 60)
        if self._runtime == "containerd":
            await self._load_images()
        self.formed_s = time.monotonic() - began

    def _prepare(self) -> None:
        remains.note(self.root, self.tag)
        names = [*self.managers, *self.workers, *self.spares]
        self.network.create(names)
        if self._runtime == "containerd":
            folder = self.root / "containerd"
            folder.mkdir()
            self._containerd = Containerd(folder)
            self._containerd.start()
        for name in names:
            self._add_host(name, "worker" if name in self.workers else "manager")
        self._people = self.authority.write(self.root / "people", "client", "tests")
        remains.note(
            self.root,
            self.tag,
            managers=len(self.managers),
            workers=len(self.workers),
            runtime=self._runtime,
            addresses=self.network.addresses,
            containerd=self._containerd.address if self._containerd else None,
        )

    def _add_host(self, name: str, role: Role) -> Host:
        folder = self.root / name
        folder.mkdir(parents=True)
        identity = node_id()
        namespace = self.network.namespace(name)
        disk = None
        if self._small_disks and role == "manager":
            disk = SmallDisk(folder / "disk.img", folder / "data", DISK_MIB)
            disk.create()
        if self._containerd is not None:
            self._containerd.new_namespace(namespace)
        place = Place(
            name=name,
            node_id=identity,
            folder=folder,
            namespace=namespace,
            address=self.network.addresses[name],
            files=self.authority.write(folder / "tls", role, identity),
            containerd_address=self._containerd.address if self._containerd else None,
            disk=disk,
        )
        host = self.hosts[name] = Host(place, SEGMENT_BYTES if not disk else 1 << 20)
        host.tree = self._tree
        return host

    async def add_host(self, name: str, role: Role) -> Host:
        """One more host, started; it has joined nothing yet."""
        self.network.add(name)
        host = await asyncio.to_thread(self._add_host, name, role)
        await host.start()
        return host

    async def close(self) -> None:
        """Ends everything, removes everything, and checks that nothing is left."""
        await self.close_clients()
        await asyncio.to_thread(self._remove)

    async def close_clients(self) -> None:
        """Ends the connections of this process; the cluster goes on."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()

    def _remove(self) -> None:
        for host in self.hosts.values():
            if host.alive:
                host.kill()
        # Whoever started a process waits for it.
        self.network.end_relays()
        if self._containerd is not None:
            self._containerd.stop()
        remains.remove(self.root)
        left = remains.left(self.root, self.tag)
        assert not left, f"left behind by a test cluster: {'; '.join(left)}"

    async def _load_images(self) -> None:
        archive = tiny_archive(self.root / "tiny.tar", "docker.io/library/tiny:1")
        done = await asyncio.gather(
            *(self.ctl(name, "image", "load", "-i", str(archive)) for name in self.hosts)
        )
        assert all(code == 0 for code, _, _ in done), done

    # Who is there

    def client(self, host: str) -> Client:
        """Over TLS, as the person `client/tests`; made before by `open_clients`."""
        return self._clients[host, "tls"]

    async def open_clients(self, hosts: Iterable[str] = ()) -> None:
        """Makes clients over TLS of all managers, or of these hosts."""
        assert self._people is not None
        for name in hosts or self.managers:
            if (name, "tls") not in self._clients:
                place = self.hosts[name].place
                door = Door(
                    self.root / f"{name}.door", self.network.switch, place.address, API_PORT
                )
                server_name = f"manager.{self.authority.trust_domain}"
                client = await Client.over_tls(door, self._people, server_name)
                self._clients[name, "tls"] = client

    def local(self, host: str) -> Client:
        """On a host's own socket, where whoever may open it may do everything."""
        key = (host, "socket")
        if key not in self._clients:
            self._clients[key] = Client.on_socket(self.hosts[host].socket)
        return self._clients[key]

    def any_client(self) -> Client:
        """Of a manager that runs and is not `aside`."""
        names = (name for name in self.managers if self.up(name) and name not in self.aside)
        return self.local(next(names))

    async def ctl(self, host: str, *args: str) -> tuple[int, str, str]:
        """`warrenctl ARGS` on a host; exit code, standard output, standard error."""
        return await self.hosts[host].ctl(*args)

    def up(self, host: str) -> bool:
        """Its daemon runs and is not paused."""
        return self.hosts[host].alive and not self.hosts[host].paused

    def running(self, host: str) -> dict[str, int]:
        """What runs on a host, whatever its daemon knows: by container id, the attempt (simulated)
        or the process id.
        """
        if self._containerd is None:
            return self.hosts[host].running()
        return runtime_tasks(self._containerd.address, self.hosts[host].place.namespace)

    async def leader(self, other_than: str = "") -> str:
        """The manager that leads in the highest term, "" if none says so."""
        names = [name for name in self.managers if self.up(name) and name not in self.aside]
        samples = await asyncio.gather(*(self.hosts[name].metrics() for name in names))
        leading = [
            (sample["warren_raft_term"], name)
            for name, sample in zip(names, samples, strict=True)
            if sample.get("warren_raft_is_leader") == 1
        ]
        name = max(leading)[1] if leading else ""
        return name if name != other_than else ""

    async def one_leads(self, other_than: str = "", deadline_s: float = 30.0) -> str:
        """Waits until a manager leads, and is not `other_than`; which."""
        return await self.wait_until(lambda: self.leader(other_than), "a manager leads", deadline_s)

    async def followers(self) -> list[str]:
        """The managers that run and do not lead."""
        leader = await self.one_leads()
        return [name for name in self.managers if self.up(name) and name != leader]

    async def settled(self) -> bool:
        """Every node is ready, every manager votes, and no change of either is under way.

        Raises:
            AssertionError: says who or what is missing.
        """
        leader = await self.leader()
        assert leader, "nobody leads"
        client = self.local(leader)  # others do not know who is heard
        # Ready, and described by itself: the founder is ready before its worker has said a word.
        ready = {
            name
            for name, node in (await client.nodes()).items()
            if node.status == READY and node.description.containerd_version
        }
        names = {host.node_id: name for name, host in self.hosts.items()}
        listed = await client.call("ListMembers", api_pb2.ListMembersRequest())
        voters = {
            names.get(view.member.node_id.hex(), "?")
            for view in listed.members
            if view.voter and view.recent_active
        }
        not_ready = {*self.managers, *self.workers} - ready
        assert not not_ready, f"not ready: {', '.join(sorted(not_ready))}"
        assert voters == {*self.managers}, f"voters that are heard: {', '.join(sorted(voters))}"
        # Until it is left, a joint configuration needs a majority of the old voters, too.
        assert not listed.joint, "a change of voters is under way"
        # Raised by the leader once all have said what they know, in the first moments of a cluster.
        level = (await client.cluster()).cluster.feature_level
        known = min(view.member.feature_level_max for view in listed.members)
        assert level == known, f"the cluster is at level {level}, its members know {known}"
        return True

    async def wait_settled(self, deadline_s: float = FORM_TIMEOUT_S) -> None:
        """Until `settled`."""
        await self.wait_until(self.settled, "every node is ready, every manager votes", deadline_s)

    async def wait_until(
        self, condition: Callable[[], T | Awaitable[T]], what: str, deadline_s: float = 30.0
    ) -> T:
        """See `waiting.wait_until`."""
        return await wait_until(condition, what, deadline_s)

    # What can happen

    async def join(self, host: str, role: Role, at: str) -> None:
        """Has a started host join through the manager `at`."""
        address = self.hosts[at].api_address
        await self.local(host).join(address, manager=role == "manager", timeout_s=FORM_TIMEOUT_S)

    async def start(self, host: str) -> None:
        """Starts a daemon that was killed or stopped, and waits until it answers."""
        await self.hosts[host].start()

    def kill(self, host: str) -> None:
        """kill -9 of a daemon; its containers go on."""
        self.hosts[host].kill()

    def stop(self, host: str) -> int:
        """SIGTERM to a daemon; its exit code."""
        return self.hosts[host].stop()

    def pause(self, host: str) -> None:
        """SIGSTOP."""
        self.hosts[host].pause()

    def resume(self, host: str) -> None:
        """SIGCONT."""
        self.hosts[host].resume()

    def cut(self, one: str, other: str) -> None:
        """Nothing passes between two hosts."""
        self.network.cut(one, other)

    def cut_one_way(self, sender: str, receiver: str) -> None:
        """What one sends never arrives at the other; the other way it does."""
        self.network.cut_one_way(sender, receiver)

    def isolate(self, host: str, but: Iterable[str] = ()) -> None:
        """Nothing passes between a host and all others, except those in `but`."""
        for other in self.hosts:
            if other != host and other not in but:
                self.network.cut(host, other)

    def delay(self, host: str, ms: int) -> None:
        """Every packet from and to a host takes so much longer."""
        self.network.delay(host, ms)

    def heal(self) -> None:
        """Ends cuts, delays, pauses and full disks; what was killed stays so."""
        self.network.heal()
        for host in self.hosts.values():
            if host.paused:
                host.resume()
            if host.place.disk is not None:
                host.place.disk.free()

    def fill_disk(self, host: str) -> None:
        """Takes all the room of a manager's data; needs `small_disks`."""
        disk = self.hosts[host].place.disk
        assert disk is not None, f"{host} is on the machine's own disk: Cluster(small_disks=True)"
        disk.fill()

    def free_disk(self, host: str) -> None:
        """Gives it back."""
        disk = self.hosts[host].place.disk
        assert disk is not None
        disk.free()

    def lose_data(self, host: str) -> None:
        """A host's data directory is gone, as after a broken disk; its daemon must not run."""
        assert not self.hosts[host].alive
        shutil.rmtree(self.hosts[host].data_dir)

    def show_logs(self, lines: int = LOG_TAIL_LINES) -> None:
        """The end of every host's log, for a test that failed."""
        for name, host in self.hosts.items():
            state = "paused" if host.paused else "up" if host.alive else "down"
            print(f"--- {name} ({state}), end of its log\n{host.tail(lines)}", file=sys.stderr)

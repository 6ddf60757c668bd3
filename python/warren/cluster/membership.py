"""What this host is: in no cluster, a worker, or a manager too. And how one becomes the other.

Whether it belongs to a cluster, `cluster.json` says; whether it manages, the log does. The word of
the leader that the session is with decides over membership: who is told that it is a member opens
a log, who is told that it is none ends its own. Each change is made of steps that are durable one
by one, in an order in which a restart between any two goes on where it was, and a repeated command
finds what it did the first time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import grpc
from msgspec.structs import replace

from warren.agent.description import ManagerAddresses
from warren.channels import Channels
from warren.cluster import files
from warren.cluster.calls import ask
from warren.cluster.files import ClusterFile, MemberFile
from warren.config import Config, advertised, advertised_peer
from warren.datadir import DataDir
from warren.errors import WarrenError
from warren.manager.core_port import OpenCore
from warren.manager.seat import Seat
from warren.pb.v1 import api_pb2, session_pb2
from warren.tls import Credentials

__all__ = ["EMPTY_TIMEOUT_S", "Membership", "WorkerPort"]

# The others may need a member's vote once more after it was removed; see the core.
GRACE_S: Final = 30.0
# Containers get the time to stop that they were promised; what is left then stays for later.
EMPTY_TIMEOUT_S: Final = 60.0
_REMOVED_POLL_S: Final = 1.0
_CONFIRM_TIMEOUT_S: Final = 5.0
_log = logging.getLogger("warren.cluster")
Result = TypeVar("Result")


class WorkerPort(Protocol):
    """The worker of this host, which comes and goes with the cluster."""

    async def begin(self) -> None:
        """Start it, unless it runs."""

    async def empty(self, timeout_s: float) -> bool:
        """Remove all its containers; False: not in time."""

    async def end(self) -> None:
        """End it and forget what it had to do."""

    def describe_again(self) -> None:
        """What the host says of itself has changed."""

    @property
    def connected(self) -> bool:
        """It has a session with a manager."""

    @property
    def epoch(self) -> int:
        """The highest epoch of the cluster that it has obeyed; 0 where there was none."""


class Membership:
    """Owns the core's seat and the worker's life. `on_change` is called when the role changes.

    `problem` says what is wrong with the membership, in a sentence; empty where nothing is.
    """

    def __init__(
        self,
        *,
        settings: Config,
        data: DataDir,
        credentials: Credentials | None,
        channels: Channels,
        seat: Seat,
        open_core: Callable[[], Awaitable[OpenCore]],
        worker: WorkerPort,
        on_change: Callable[[], None],
        grace_s: float = GRACE_S,
    ) -> None:
        self.problem = ""
        self.lock = asyncio.Lock()
        #: Set while somebody waits to leave: nobody needs what this host has promised to keep.
        self.leaving = asyncio.Event()
        self.settings = settings
        self.data = data
        self.credentials = credentials
        self.channels = channels
        self.seat = seat
        self.worker = worker
        self.own_api = advertised(settings)
        self._open_core = open_core
        self._on_change = on_change
        self._grace_s = grace_s
        self._cluster: ClusterFile | None = None
        self._member: MemberFile | None = None
        self._told: session_pb2.Managers | None = None
        self._why_removed = ""
        self._news = asyncio.Event()
        self._retiring: OpenCore | None = None
        # What `_write_down` could not write for want of space.
        self._unwritten = False
        self._under_way: set[asyncio.Task[Any]] = set()

    # What it is

    @property
    def in_cluster(self) -> bool:
        """This host belongs to a cluster."""
        return self._cluster is not None

    @property
    def manages(self) -> bool:
        """And manages it."""
        return self.seat.manages

    @property
    def may_manage(self) -> bool:
        """Its certificate is a manager's."""
        return self.credentials is not None and self.credentials.identity.role == "manager"

    @property
    def cluster(self) -> ClusterFile | None:
        """What is remembered of the cluster; None outside of one."""
        return self._cluster

    @property
    def member(self) -> MemberFile:
        """As `have_member`, for those who cannot wait."""
        if self._member is None:
            # On the loop; it is there before, unless the disk was full then.
            member = files.new_member()
            files.write(self.data.member_file, member)
            self._member = member
        return self._member

    def known_managers(self) -> tuple[str, ...]:
        """The APIs of all managers, as far as known."""
        return () if self._cluster is None else self._cluster.managers

    def own_target(self) -> str:
        """The manager in this process; empty where there is none."""
        return f"unix:{self.settings.socket}" if self.manages else ""

    def as_manager(self) -> ManagerAddresses | None:
        """How this host could manage; None where it could not, or does.

        A data directory in which a log was begun is never offered: it belongs to one member for
        life. Who was just demoted may hear of it only after it came back to another leader.
        """
        if not self.may_manage or self._retiring is not None or self.member.opened:
            return None
        data_dir = bytes.fromhex(self.member.data_dir)
        return ManagerAddresses(advertised_peer(self.settings), self.own_api, data_dir)

    # What the session asks and tells

    def dial(self, address: str) -> grpc.aio.Channel:
        """The channel to a manager."""
        return self.channels.get(address)

    async def explain(self, address: str) -> str:
        """Why a manager does not answer."""
        return await self.channels.explain(address)

    def told(self, managers: session_pb2.Managers) -> None:
        """The leader says who manages, and whether this host is to: `run` does what follows."""
        self._told = managers
        self._news.set()

    def removed(self, why: str) -> None:
        """The cluster has removed this node: `run` does what follows."""
        self._why_removed = why
        self._news.set()

    # Its life

    async def start(self) -> None:
        """Find out what the data directory says. WarrenError where the log cannot be opened."""
        self._cluster = files.read(self.data.cluster_file, ClusterFile)
        self._member = files.read(self.data.member_file, MemberFile)
        if self._cluster is not None and not self.data.has_log():
            self._vacancy()
            if self._member is not None and self._member.opened:
                self.problem = self._log_lost()
            return
        await self._open()
        if self.manages:
            await self._write_down()
        elif self._cluster is not None:
            await self.seat.vacate(self._as_worker())

    async def begin(self) -> None:
        """Work as what `start` has found."""
        if self._cluster is not None:
            if self.may_manage:
                with suppress(OSError):
                    await self.have_member()
            await self.worker.begin()
        self._on_change()

    async def run(self) -> None:
        """Do what the leader's word asks for, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_REMOVED_POLL_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            async with self.lock:
                try:
                    await self._follow()
                except (WarrenError, OSError) as error:
                    self._trouble(str(error))

    async def founded(self) -> None:
        """A cluster was created here. Goes on if the caller has gone."""
        await self.whole(self._founded())

    async def whole(self, steps: Coroutine[Any, Any, Result]) -> Result:
        """What the steps return. They are done to the end, also where the caller is cancelled."""
        task = asyncio.create_task(steps)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End the core; the membership stays."""
        retiring, self._retiring = self._retiring, None
        if retiring is not None:
            await retiring.close()
        await self.seat.vacate("the daemon is shutting down; try again when it is back")

    # Its steps, each durable when it returns; for those who hold `lock`

    async def remember(self, cluster: ClusterFile) -> None:
        """This host belongs to that cluster."""
        if cluster != self._cluster:
            await _write(self.data.cluster_file, cluster)
            self._cluster = cluster
        if not self.manages and self.seat.core is None:
            self._vacancy()

    async def have_member(self) -> MemberFile:
        """What a membership of this host is bound to; made when it is first asked for."""
        if self._member is None:
            member = files.new_member()
            await _write(self.data.member_file, member)
            self._member = member
        return self._member

    async def become_worker(self) -> None:
        """It belongs to a cluster and does not manage it."""
        if not self.manages:
            await self.seat.vacate(self._as_worker())
        if self.may_manage:
            await self.have_member()  # what the worker tells of this host has it
        await self.worker.begin()
        self._on_change()

    async def become_member(self, membership: session_pb2.Membership) -> None:
        """Open the log of a member that the cluster has made of this host.

        WarrenError where there was one before that is not there any more.
        """
        await self.have_member()
        if membership.data_dir.hex() != self.member.data_dir or self.member.opened:
            raise WarrenError("wrong_data_dir", self._log_lost())
        core = self.seat.core or await self._open_core()
        try:
            await core.join(
                cluster_id=membership.cluster_id,
                epoch=membership.epoch,
                member_id=membership.member_id,
                data_dir=membership.data_dir,
            )
        except BaseException:
            if core is not self.seat.core:
                await core.close()
            raise
        self.seat.core = core
        await self._opened()
        if self._cluster is not None:
            cluster_id = membership.cluster_id.hex()
            await self.remember(replace(self._cluster, role="manager", cluster_id=cluster_id))
        self.problem = ""
        self._told = None  # what was said before is of the past
        _log.info("this host manages the cluster now, as member %d", membership.member_id)
        self.worker.describe_again()
        self._on_change()

    async def blank_core(self) -> OpenCore:
        """A core that belongs to no cluster. WarrenError where this host cannot have one."""
        if self.credentials is not None and not self.may_manage:
            raise WarrenError(
                "invalid",
                "this host's certificate is a worker's; restore on one with a manager's",
            )
        if self.seat.core is None:
            self.seat.core = await self._open_core()
        return self.seat.core

    async def reborn(self, core: OpenCore, cluster_id: bytes) -> None:
        """The core is the only member of that cluster now, in a new epoch."""
        self.seat.core = core
        await self._opened()
        domain = "" if self.credentials is None else self.credentials.identity.trust_domain
        await self.remember(
            ClusterFile(
                cluster_id=cluster_id.hex(),
                trust_domain=domain,
                managers=(self.own_api,),
                role="manager",
            )
        )
        self._told = None
        self.problem = ""
        await self.worker.begin()
        self.worker.describe_again()
        self._on_change()

    async def end_membership(self, *, grace_s: float) -> None:
        """It is a member no more: its log goes aside, once the others do without it for sure."""
        core, self.seat.core = self.seat.core, None
        self._retiring = core
        self._member = files.new_member()
        self._vacancy()
        await _write(self.data.member_file, self._member)
        if self._cluster is not None:
            await self.remember(replace(self._cluster, role="worker"))
        self._on_change()
        try:
            async with asyncio.timeout(grace_s):
                await self.leaving.wait()
        except TimeoutError:
            pass
        finally:
            if core is not None:
                await core.close()
            self._retiring = None
        await asyncio.to_thread(self.data.set_raft_aside)
        self.worker.describe_again()

    async def forget(self, why: str = "") -> None:
        """It belongs to no cluster any more; `why` where nobody here has asked for that."""
        await self.worker.end()
        if self.data.has_log() or self.seat.core is not None:
            await self.end_membership(grace_s=0)
        store = self.data.store_file
        stores = [store.with_name(store.name + end) for end in ("", "-wal", "-shm")]
        await asyncio.to_thread(files.forget, *stores)
        await asyncio.to_thread(files.forget, self.data.member_file)
        # Last: until then a restart goes on with this.
        await asyncio.to_thread(files.forget, self.data.cluster_file)
        self._cluster = self._member = self._told = None
        self.problem = why
        await self._open()
        self._on_change()

    # Parts of those

    async def _open(self) -> None:
        """Open what is there, or an empty core that could become a member."""
        if self.credentials is None or self.may_manage:
            self.seat.core = await self._open_core()
        else:
            self.seat.vacancy = (
                "this host's certificate is a worker's: it cannot have a cluster of its own, but "
                "join one: warrenctl cluster join HOST:2377 --role worker"
            )

    async def _founded(self) -> None:
        async with self.lock:
            await self._write_down()
            await self.worker.begin()
            self._on_change()

    async def _follow(self) -> None:
        if self._why_removed:
            why, self._why_removed = self._why_removed, ""
            if self.in_cluster:
                await self._be_removed(why)
            return
        if self._unwritten and self.manages:
            await self._write_down()
            if not self._unwritten:
                await self.worker.begin()
                self._on_change()
        status = self.seat.status()
        if status is not None and status["removed"]:
            _log.warning("this host's manager was removed from the cluster; it is a worker now")
            await self.end_membership(grace_s=0)
        told, self._told = self._told, None
        if told is None or self._cluster is None:
            return
        try:
            await self._heed(told, self._cluster)
        except (WarrenError, OSError):
            if self._told is None:
                self._told = told  # looked at again
            raise

    async def _heed(self, told: session_pb2.Managers, cluster: ClusterFile) -> None:
        if told.api_addresses:
            cluster = replace(cluster, managers=tuple(told.api_addresses))
        if told.HasField("membership"):
            cluster = replace(cluster, cluster_id=told.membership.cluster_id.hex())
        await self.remember(cluster)
        if told.HasField("membership"):
            if not self.manages:
                await self.become_member(told.membership)
        elif not self.manages:
            await self._lost_no_more()
        elif not self.seat.leads and await self._is_demoted():
            _log.warning("this host manages the cluster no more; it goes on as a worker")
            await self.end_membership(grace_s=self._grace_s)

    async def _is_demoted(self) -> bool:
        """Ask once more: what the session said may be from before this host was made a member."""
        others = [address for address in self.known_managers() if address != self.own_api]
        request = api_pb2.ListMembersRequest()
        try:
            answer = await ask(self.channels, others, "ListMembers", request, _CONFIRM_TIMEOUT_S)
        except WarrenError as error:
            # Without an answer it stays what it is; the next session says it again.
            _log.info("whether this host still manages cannot be found out: %s", error)
            return False
        ids = {view.member.node_id.hex() for view in answer.members}
        return self.data.node_id not in ids

    async def _be_removed(self, why: str) -> None:
        _log.warning("%s; its containers are stopped, and it belongs to no cluster any more", why)
        if not await self.worker.empty(EMPTY_TIMEOUT_S):
            _log.warning("not all containers could be removed; they are when it joins again")
        await self.forget(f"this host was removed from its cluster: {why}")

    def _log_lost(self) -> str:
        name = self.settings.node_name
        return (
            "this host is a manager whose log is not here any more, so that it cannot go on as "
            f"that one. On another manager: warrenctl node demote {name}; then promote it again"
        )

    async def _lost_no_more(self) -> None:
        """No member: whatever log was lost, the next one is another's."""
        if self.problem:
            self.problem = ""
            self._on_change()
        if self._member is not None and self._member.opened:
            member = files.new_member()
            await _write(self.data.member_file, member)
            self._member = member
            self.worker.describe_again()

    async def _write_down(self) -> None:
        """What a manager's host remembers beside its log; a full disk keeps it from no start."""
        try:
            await self._opened()
            await self._remember_founded()
        except OSError as error:
            if not self._unwritten:
                _log.warning("cannot note that this host manages (%s); tried again", error)
            self._unwritten = True
        else:
            self._unwritten = False

    async def _opened(self) -> None:
        member = await self.have_member()
        if not member.opened:
            member = replace(member, opened=True)
            await _write(self.data.member_file, member)
            self._member = member

    async def _remember_founded(self) -> None:
        if self._cluster is None:
            domain = "" if self.credentials is None else self.credentials.identity.trust_domain
            await self.remember(
                ClusterFile(
                    cluster_id="", trust_domain=domain, managers=(self.own_api,), role="manager"
                )
            )

    def _vacancy(self) -> None:
        self.seat.vacancy = self._as_worker()

    def _as_worker(self) -> str:
        where = ",".join(self.known_managers()) or "one of them"
        return f"this host is a worker and does not manage the cluster; ask a manager: {where}"

    def _trouble(self, problem: str) -> None:
        if problem != self.problem:
            _log.error("%s", problem)
        self.problem = problem
        self._on_change()


async def _write(path: Path, value: ClusterFile | MemberFile) -> None:
    """By another thread: a disk that is slow to sync holds up neither API nor sessions."""
    await asyncio.to_thread(files.write, path, value)

"""How long nobody can write when the leader is lost, with real daemons, and what it costs besides.

Three managers and three workers, each a process with an address of its own, TLS between them,
containers simulated. A writer through each manager raises a version again and again; what counts is
the time from the last write that was acknowledged before the fault to the first that was begun and
acknowledged after it.

`--faults`: kill (kill -9 of the leader), pause (SIGSTOP), symmetric (the leader cut off), one-way
(what it sends is lost), bridge (leader and one follower do not see each other), blocked (the
leader's interpreter holds its lock for 10 s), forward (creates through a follower against the
leader; where `dockerd` is installed, the same of a Docker swarm in turns with them), or all.

`lost`: acknowledged writes that were not there afterwards. `restarted`: containers that were
started again or moved. `both`: rounds in which the old leader still acknowledged a write while a
new one did.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field

from benches._common import Report, arguments
from benches._dockerd import missing
from benches._swarm import three_managers
from benches._trickle import Ack, Writer, first_begun_after, last_before
from tests.cluster import fleet
from tests.cluster.cluster import Cluster
from tests.cluster.waiting import wait_until
from warren._histogram import Histogram

NOBODY_S = 30.0
SETTLED_S = 0.3
BLOCK_S = 10.0
#: Creates through each manager before it is the swarm's turn: what they still cause is over soon.
TURN = 100
FAULTS = ("kill", "pause", "symmetric", "one-way", "bridge")
ALL = (*FAULTS, "blocked", "forward")
TITLES = {
    "kill": "kill -9 of the leader",
    "pause": "SIGSTOP of the leader",
    "symmetric": "leader cut off",
    "one-way": "leader not heard",
    "bridge": "leader and a follower apart",
}


@dataclass
class Rounds:
    """What came of one kind of fault."""

    intervals: Histogram = field(default_factory=Histogram)
    both: int = 0


class Bench:
    """A cluster with writers, to which one thing happens after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.writers = [Writer(name, cluster.local(name)) for name in cluster.managers]
        self.containers: dict[str, dict[str, int]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, containers: int) -> None:
        """Containers run, and writers have their services."""
        if containers:
            await self.cluster.any_client().create("fleet", containers)
            await self.cluster.wait_until(lambda: fleet.compare(self.cluster), "all run", 60)
        self.containers = self._running()
        for writer in self.writers:
            await writer.begin()

    def _running(self) -> dict[str, dict[str, int]]:
        return {name: self.cluster.running(name) for name in self.cluster.hosts}

    def restarted(self) -> int:
        """Containers that do not run where and as they did."""
        now = self._running()
        return sum(
            now[name].get(container_id) != attempt
            for name, before in self.containers.items()
            for container_id, attempt in before.items()
        )

    async def lost(self) -> int:
        """Acknowledged writes that are gone, of all writers."""
        return sum([await writer.lost() for writer in self.writers])

    async def rounds(self, fault: str, count: int) -> Rounds:
        """The same fault so many times, each after everything has recovered."""
        found = Rounds()
        async with self.writing():
            for _ in range(count):
                leader = await self.settled()
                await self._round(fault, leader, found)
            await self.settled()
        return found

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """All writers write meanwhile."""
        self._tasks = [asyncio.create_task(writer.run()) for writer in self.writers]
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _round(self, fault: str, leader: str, found: Rounds) -> None:
        await asyncio.to_thread(self._strike(fault), leader)
        # It took effect some milliseconds ago: nobody else can have been elected since.
        struck = time.monotonic()
        but = "" if fault == "bridge" else leader

        def written() -> Ack | None:
            return first_begun_after(self.writers, struck, but)

        ack = await wait_until(written, "a write after the fault", NOBODY_S)
        found.intervals.observe(ack.at - last_before(self.writers, struck))
        if but and first_begun_after(self._of(leader), struck) is not None:
            found.both += 1
        await self._recover(fault, leader)

    def _of(self, manager: str) -> list[Writer]:
        return [writer for writer in self.writers if writer.manager == manager]

    def _strike(self, fault: str) -> Callable[[str], None]:
        return {
            "kill": self.cluster.kill,
            "pause": self.cluster.pause,
            "symmetric": self.cluster.isolate,
            "one-way": self._silence,
            "bridge": self._part,
        }[fault]

    def _silence(self, leader: str) -> None:
        for other in self.cluster.hosts:
            if other != leader:
                self.cluster.cut_one_way(leader, other)

    def _part(self, leader: str) -> None:
        self.cluster.cut(leader, next(n for n in self.cluster.managers if n != leader))

    async def _recover(self, fault: str, leader: str) -> None:
        if fault == "kill":
            await self.cluster.start(leader)
        else:
            await asyncio.to_thread(self.cluster.heal)

    async def settled(self) -> str:
        """Who leads, once every manager votes and passes writes on, for a while."""
        await self.cluster.wait_settled()
        since = time.monotonic()

        def all_write() -> bool:
            for task in self._tasks:
                if task.done():
                    task.result()
            return all(first_begun_after([one], since + SETTLED_S) for one in self.writers)

        await wait_until(all_write, "every manager passes writes on", NOBODY_S)
        return await self.cluster.one_leads()


async def blocked(bench: Bench, report: Report) -> None:
    """The leader's interpreter stands still; the log, in Rust, does not."""
    cluster = bench.cluster
    async with bench.writing():
        leader = await bench.settled()
        terms = await terms_seen(cluster, leader)
        struck = time.monotonic()
        cluster.hosts[leader].tell(f"block {BLOCK_S}")
        others = [one for one in bench.writers if one.manager != leader]
        ack = await wait_until(
            lambda: first_begun_after(others, struck + 0.05), "a write meanwhile", NOBODY_S
        )
        down = 0
        while time.monotonic() < struck + BLOCK_S + 2:
            down = max(down, await nodes_down(cluster, but=leader))
            await asyncio.sleep(0.2)
        new = await cluster.one_leads()
        await cluster.wait_settled()
    report.row(
        f"interpreter of the leader blocked for {BLOCK_S:g} s",
        no_write_ms=(ack.at - last_before(bench.writers, struck)) * 1e3,
        terms=await terms_seen(cluster, leader) - terms,
        moved=float(new != leader),
        nodes_lost=float(down),
        lost=await bench.lost(),
        restarted=bench.restarted(),
    )


async def terms_seen(cluster: Cluster, but: str) -> float:
    """The term that another manager is in: it rises with each election and each hand-over."""
    other = next(name for name in cluster.managers if name != but)
    return (await cluster.hosts[other].metrics())["warren_raft_term"]


async def nodes_down(cluster: Cluster, but: str) -> int:
    """Nodes that a manager other than `but` says are down, by its metrics."""
    other = next(name for name in cluster.managers if name != but)
    samples = await cluster.hosts[other].metrics()
    return sum(
        int(value)
        for name, value in samples.items()
        if name.startswith("warren_nodes_total") and 'status="down"' in name
    )


async def forward(bench: Bench, report: Report, creates: int) -> None:
    """Creates through a follower and through the leader, in turns; beside them, a swarm's."""
    times = {"leader": Histogram(), "follower": Histogram()}
    absent = missing()
    with nullcontext() if absent else three_managers() as swarm:
        for first in range(0, creates, TURN):
            numbers = range(first, min(first + TURN, creates))
            await create(bench.cluster, numbers, times)
            if swarm is not None:
                swarm.create(numbers)
    ratio = against_leader(report, times)
    beside = ""
    if swarm is None:
        report.note(f"no swarm beside creates through a follower: {absent}")
    elif swarm.times["leader"].count:
        beside = f"swarm {against_leader(report, swarm.times, 'swarm: '):.2f} ×"
        report.note(f"swarm: Docker {swarm.version}, three managers, turns of {min(TURN, creates)}")
    if swarm is not None and swarm.left_out:
        report.note(f"swarm: leadership moved {swarm.left_out} times, so fewer creates count")
    met = ratio <= 1.5
    report.goal("create through a follower", "p50 ≤ 1.5 × leader", f"{ratio:.2f} ×", met, beside)


async def create(cluster: Cluster, numbers: range, times: dict[str, Histogram]) -> None:
    """For each number a service through the leader and one through a follower, in turns."""
    leader = await cluster.one_leads()
    follower = next(name for name in cluster.managers if name != leader)
    for number in numbers:
        for kind, name in (("leader", leader), ("follower", follower)):
            began = time.perf_counter()
            await cluster.local(name).create(f"{kind}-{number}", replicas=0)
            times[kind].observe(time.perf_counter() - began)


def against_leader(report: Report, times: dict[str, Histogram], whose: str = "") -> float:
    """Rows of both, and how many times as long as through the leader the median takes."""
    for kind, histogram in times.items():
        report.latency(f"{whose}service create through {kind}", histogram)
    ratio = times["follower"].quantile(0.5) / times["leader"].quantile(0.5)
    report.row(f"{whose}follower against leader", p50_ratio=ratio)
    return ratio


async def measure(options: argparse.Namespace, report: Report) -> None:
    """One cluster, each fault in turn."""
    containers = 30 if options.quick else options.containers
    async with Cluster(managers=3, workers=3) as cluster:
        bench = Bench(cluster)
        await bench.begin(containers)
        report.note(
            f"3 managers, 3 workers, {containers} containers running; formed in "
            f"{cluster.formed_s:.1f} s"
        )
        for fault in [fault for fault in FAULTS if fault in options.faults]:
            count = options.kills if fault == "kill" else options.each
            found = await bench.rounds(fault, 3 if options.quick else count)
            await add(report, fault, found, bench)
        if "blocked" in options.faults:
            await blocked(bench, report)
        if "forward" in options.faults:
            await forward(bench, report, 20 if options.quick else 1000)


async def add(report: Report, fault: str, found: Rounds, bench: Bench) -> None:
    """A row of percentiles, and the goals that were set."""
    title, intervals = TITLES[fault], found.intervals
    p50_ms, p99_ms = intervals.quantile(0.5) * 1e3, intervals.quantile(0.99) * 1e3
    lost, restarted = await bench.lost(), bench.restarted()
    figures = {"p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": intervals.quantile(1.0) * 1e3}
    counts = {"lost": lost, "restarted": restarted, "both": found.both}
    report.row(title, rounds=intervals.count, **figures, **counts)
    report.curve(title, intervals)
    if fault == "kill":
        report.headline |= {"p50_ms": p50_ms, "p99_ms": p99_ms, **counts}
        goal = f"p50 {p50_ms:.0f} ms, p99 {p99_ms:.0f} ms"
        report.goal(title, "p50 ≤ 300 ms, p99 ≤ 700 ms", goal, p50_ms <= 300 and p99_ms <= 700)
    else:
        report.goal(title, "p99 ≤ 1 s", f"{p99_ms:.0f} ms", p99_ms <= 1000)
    nothing = lost == restarted == found.both == 0
    report.goal(f"{title}: lost, restarted, both", "0, 0, 0", f"{tuple(counts.values())}", nothing)


def main() -> None:
    """The program."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--kills", type=int, default=200, help="rounds of kill -9")
        parser.add_argument("--each", type=int, default=50, help="rounds of each other fault")
        parser.add_argument("--containers", type=int, default=300)
        parser.add_argument("--faults", default="kill", help=f"{','.join(ALL)}, or all")

    options = arguments(__doc__, more=more)
    options.faults = ALL if options.faults == "all" else options.faults.split(",")
    report = Report("fail-over")
    asyncio.run(measure(options, report))
    report.finish(options)


if __name__ == "__main__":
    main()

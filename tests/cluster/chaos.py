"""A cluster to which things happen at random, and what must hold all the same.

    python -m tests.cluster.chaos [--seconds 120] [--seed N]        or: make chaos

Clients write and read through all managers; services with containers are scaled; meanwhile hosts
are killed, paused, cut off and have their disks filled, from a seed that is printed first. Which
faults come when is the seed's; how they fall on the cluster is the machine's, so that a seed makes
a failure likely again, not certain. At the end everything is healed, and then: the history is
linearizable, managers agree, and what runs on the hosts is what the state says.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tests.cluster import fleet, linearizability
from tests.cluster.cluster import Cluster
from tests.cluster.load import Load
from warren.errors import WarrenError
from warren.pb.v1 import api_pb2

FLEET: Final = {"fleet-a": 6, "fleet-b": 4, "fleet-c": 2}
HEAL_TIMEOUT_S: Final = 90.0
#: What a daemon writes only if something is broken.
LAST_WORDS: Final = ("panicked at", "Traceback (most recent call last)")
#: Metrics that are 0 as long as nothing is broken.
ALARMS: Final = ("warren_state_hash_mismatches_total", "warren_reconciler_missed_total")
READS: Final = {
    "ListServices": api_pb2.ListServicesRequest(),
    "ListContainers": api_pb2.ListContainersRequest(all=True),
    "ListNodes": api_pb2.ListNodesRequest(),
}


@dataclass
class Chaos:
    """Faults in episodes: one to three at once, for some seconds; then all but few are undone."""

    cluster: Cluster
    rng: random.Random
    faults: Counter[str] = field(default_factory=Counter)
    #: Daemons that ended though nobody killed them.
    ended: list[str] = field(default_factory=list)
    _killed: set[str] = field(default_factory=set)

    async def run(self, seconds: float) -> None:
        """Episodes until the time is over, then everything healed and started."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            for _ in range(self.rng.choice([1, 1, 2, 3])):
                await asyncio.to_thread(self._strike)
            await asyncio.sleep(self.rng.uniform(0.3, 4.0))
            # What is killed sometimes stays so for another episode.
            await self.recover(leave_killed=self.rng.random() < 0.2)
            await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        await self.recover()

    def _strike(self) -> None:
        cluster, rng = self.cluster, self.rng
        host = rng.choice(sorted(cluster.hosts))
        manager = rng.choice(cluster.managers)
        other = rng.choice([name for name in sorted(cluster.hosts) if name != host])
        kind = rng.choice(["kill", "kill", "cut", "cut one way", "isolate", "pause", "fill"])
        self.faults[kind] += 1
        if kind == "kill":
            cluster.kill(host)
            self._killed.add(host)
        elif kind == "cut":
            cluster.cut(host, other)
        elif kind == "cut one way":
            cluster.cut_one_way(host, other)
        elif kind == "isolate":
            cluster.isolate(manager)
        elif kind == "pause" and cluster.up(host):
            cluster.pause(host)
        elif kind == "fill":
            cluster.fill_disk(manager)

    async def recover(self, *, leave_killed: bool = False) -> None:
        """Undoes what was done."""
        self.faults["heal"] += 1
        await asyncio.to_thread(self.cluster.heal)
        for name, host in self.cluster.hosts.items():
            if not host.alive and name not in self._killed:
                self.ended.append(f"{name} ended by itself:\n{host.tail(12)}")
                self._killed.add(name)
        if not leave_killed:
            await asyncio.gather(*(self.cluster.start(name) for name in sorted(self._killed)))
            self._killed.clear()


async def keep_scaling(cluster: Cluster, rng: random.Random) -> None:
    """Changes how many containers there are, through any manager, until it is cancelled."""
    while True:
        name = rng.choice(sorted(FLEET))
        client = cluster.client(rng.choice(cluster.managers))
        with suppress(WarrenError):
            await client.scale(name, rng.randint(1, 2 * FLEET[name]))
        await asyncio.sleep(rng.uniform(0.5, 2.0))


async def disagreements(cluster: Cluster) -> list[str]:
    """What managers answer differently from what they have, once nothing is under way."""
    found = []
    answers: dict[str, dict[str, bytes]] = {}
    for name in cluster.managers:
        client = cluster.local(name)
        answers[name] = {
            method: (await client.call(method, request, stale=True)).SerializeToString(
                deterministic=True
            )
            for method, request in READS.items()
        }
        samples = await cluster.hosts[name].metrics()
        found += [f"{name}: {metric} is not 0" for metric in ALARMS if samples.get(metric, 0)]
    first = cluster.managers[0]
    for name in cluster.managers[1:]:
        found += [
            f"{method} of {name} differs from that of {first}"
            for method in READS
            if answers[name][method] != answers[first][method]
        ]
    return found


async def same_index(cluster: Cluster) -> bool:
    """Every manager has applied the same entries."""
    clusters = [await cluster.local(name).cluster(stale=True) for name in cluster.managers]
    return len({one.applied_index for one in clusters}) == 1


async def agreed(cluster: Cluster) -> bool:
    """They have applied the same and answer the same; entries that come in between excuse it."""
    return await same_index(cluster) and not await disagreements(cluster)


async def judge(cluster: Cluster, load: Load, chaos: Chaos) -> list[str]:
    """Everything that is wrong after the cluster has healed, a sentence each."""
    wrong = list(chaos.ended)
    try:
        await cluster.wait_settled(HEAL_TIMEOUT_S)

        async def equal() -> fleet.Comparison:
            return await fleet.compare(cluster)

        same = await cluster.wait_until(equal, "hosts run what the state says", HEAL_TIMEOUT_S)
        print(f"containers: {same}")
    except AssertionError as error:
        wrong.append(str(error))
    try:
        await cluster.wait_until(lambda: agreed(cluster), "managers agree", HEAL_TIMEOUT_S)
    except AssertionError as error:
        wrong += [str(error), *await disagreements(cluster)]
    wrong += [f"restarted: {one}" for one in fleet.needless_restarts(cluster)]
    for name, host in cluster.hosts.items():
        lines = [line for line in host.log().splitlines() if any(w in line for w in LAST_WORDS)]
        wrong += [f"{name} wrote: {line[:300]}" for line in lines[:3]]
    findings = await asyncio.to_thread(linearizability.check, load.history)
    verdicts = Counter(finding.verdict for finding in findings)
    print(f"histories: {dict(verdicts)} of {len(findings)} keys")
    return wrong + [str(one) for one in findings if one.verdict != "linearizable"]


async def rehearse(seed: int, seconds: float, managers: int = 3, workers: int = 3) -> list[str]:
    """One run; everything that was wrong."""
    rng = random.Random(seed)
    async with Cluster(managers, workers, small_disks=True) as cluster:
        print(f"cluster: {managers} managers, {workers} workers after {cluster.formed_s:.1f} s")
        await cluster.open_clients()
        for name, replicas in FLEET.items():
            await cluster.any_client().create(name, replicas)
        load = Load({name: cluster.client(name) for name in cluster.managers}, rng)
        chaos = Chaos(cluster, random.Random(rng.random()))
        background = [
            asyncio.create_task(load.run()),
            asyncio.create_task(keep_scaling(cluster, random.Random(rng.random()))),
        ]
        try:
            await chaos.run(seconds)
        finally:
            for task in background:
                task.cancel()
            ends = await asyncio.gather(*background, return_exceptions=True)
        wrong = [repr(end) for end in ends if not isinstance(end, asyncio.CancelledError)]
        tell(load, chaos)
        wrong += await judge(cluster, load, chaos)
        if wrong:
            cluster.show_logs()
        return wrong


def tell(load: Load, chaos: Chaos) -> None:
    """What happened, in numbers."""
    print("faults: " + ", ".join(f"{kind} {many}" for kind, many in sorted(chaos.faults.items())))
    kinds = Counter(operation.kind for operation in load.history)
    unknown = sum(not operation.is_known for operation in load.history)
    print(
        f"operations: {len(load.history)} ("
        + ", ".join(f"{kind} {many}" for kind, many in sorted(kinds.items()))
        + f"), outcome unknown {unknown}"
    )
    met = ", ".join(f"{code} {many}" for code, many in sorted(load.refusals.items()))
    print(f"refusals met: {met or 'none'}")


def main() -> int:
    """0: nothing was wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--managers", type=int, default=3)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    print(f"seed: {seed}", flush=True)
    wrong = asyncio.run(rehearse(seed, options.seconds, options.managers, options.workers))
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    print(f"verdict: {f'{len(wrong)} things are wrong' if wrong else 'nothing wrong'}, seed {seed}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

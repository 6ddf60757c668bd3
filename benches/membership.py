"""How long it takes until a cluster has one more host, one less, or another leader.

Three managers and three workers as real daemons with TLS, containers simulated, and a host beside
them that comes and goes. Each time is from the beginning of a `warrenctl` command, its own start
included, until what it asks for is so: a manager counts as joined or promoted once it votes, a
worker once it is ready, one that left or was demoted once the cluster counts it no more.

    python -m benches.membership [--rounds 20] [--json] [--quick] [--save DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

from benches._common import Report, arguments
from tests.cluster.cluster import READY, Cluster
from warren._histogram import Histogram

GOAL_S = 2.0
POLL_S = 0.01
TIMEOUT_S = 60.0
GUEST = "s1"


class Bench:
    """A cluster, its guest, and what the commands took."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.times: dict[str, Histogram] = defaultdict(Histogram)

    async def round(self) -> None:
        """The guest goes through every role, and ends outside of the cluster."""
        at = self._cluster.hosts["m1"].api_address
        join = ("cluster", "join", at, "--role")
        await self._time("a worker joins", GUEST, [*join, "worker"], self._is_ready)
        await self._time("it is promoted", "m1", ["node", "promote", GUEST], self._votes)
        await self._time("leadership moves to it", "m1", self._transfer(GUEST), self._leads)
        await self._time("and away", "m1", self._transfer("m1"), self._leads_not)
        await self._time("it is demoted", "m1", ["node", "demote", GUEST], self._is_no_member)
        await self._leave("it leaves")
        await self._time("a manager joins", GUEST, [*join, "manager"], self._votes)
        await self._leave("it leaves as a manager")

    async def _leave(self, name: str) -> None:
        await self._time(name, GUEST, ["cluster", "leave", "--yes"], self._is_gone)

    async def _time(
        self, name: str, host: str, command: list[str], until: Callable[[], Awaitable[bool]]
    ) -> None:
        began = time.monotonic()
        code, _, err = await self._cluster.ctl(host, *command)
        assert code == 0, f"warrenctl {' '.join(command)}: {err}"
        while not await until():
            assert time.monotonic() < began + TIMEOUT_S, f"{name}: not so in time"
            await asyncio.sleep(POLL_S)
        self.times[name].observe(time.monotonic() - began)

    @staticmethod
    def _transfer(to: str) -> list[str]:
        return ["cluster", "transfer-leadership", to]

    async def _votes(self) -> bool:
        guest = self._cluster.hosts[GUEST].node_id
        members = await self._cluster.local("m1").members()
        return any(view.voter for view in members if view.member.node_id.hex() == guest)

    async def _is_no_member(self) -> bool:
        guest = self._cluster.hosts[GUEST].node_id
        members = await self._cluster.local("m1").members()
        return all(view.member.node_id.hex() != guest for view in members)

    async def _is_ready(self) -> bool:
        node = (await self._cluster.local("m1").nodes()).get(GUEST)
        return node is not None and node.status == READY

    async def _is_gone(self) -> bool:
        return GUEST not in await self._cluster.local("m1").nodes()

    async def _leads(self) -> bool:
        return await self._is_led_by(GUEST)

    async def _leads_not(self) -> bool:
        return await self._is_led_by("m1")

    async def _is_led_by(self, name: str) -> bool:
        node = self._cluster.hosts[name].node_id
        members = await self._cluster.local("m1").members()
        return any(view.leader and view.member.node_id.hex() == node for view in members)


async def measure(rounds: int, report: Report) -> None:
    """So many rounds, and a row for each command."""
    async with Cluster(managers=3, workers=3, spare=1) as cluster:
        cluster.managers.append(GUEST)  # asked too when a leader is looked for
        bench = Bench(cluster)
        for _ in range(rounds):
            await bench.round()
    for name, histogram in bench.times.items():
        report.latency(name, histogram, rounds=histogram.count)
        p50_s = histogram.quantile(0.5)
        report.goal(name, f"≤ {GOAL_S:g} s", f"p50 {p50_s:.2f} s", p50_s <= GOAL_S)
    report.note(f"3 managers, 3 workers; formed in {cluster.formed_s:.1f} s")


def main() -> None:
    """The program."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=20)

    options = arguments(__doc__ or "", more=more)
    report = Report("membership")
    asyncio.run(measure(2 if options.quick else options.rounds, report))
    report.finish(options)


if __name__ == "__main__":
    main()

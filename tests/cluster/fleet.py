"""Is what runs on the hosts what the cluster's state says? Looked at from outside of Warren."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tests.cluster.cluster import Cluster
from warren.pb.v1 import objects_pb2

RUN = objects_pb2.DESIRED_STATE_RUN
RUNNING = objects_pb2.CONTAINER_STATE_RUNNING


@dataclass
class Comparison:
    """What differs, a sentence each; all empty: nothing does."""

    stray: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    running: int = 0

    def __bool__(self) -> bool:
        return not (self.stray or self.duplicate or self.missing)

    def __repr__(self) -> str:
        parts = [f"{self.running} run"]
        for kind in ("stray", "duplicate", "missing"):
            found = getattr(self, kind)
            parts.append(f"{len(found)} {kind}{': ' + '; '.join(found[:5]) if found else ''}")
        return ", ".join(parts)


async def compare(cluster: Cluster) -> Comparison:
    """The containers that run on all hosts against those that should, by the state."""
    listed = await cluster.any_client().containers()
    names = {host.node_id: name for name, host in cluster.hosts.items()}
    wanted = {one.id.hex(): one for one in listed if one.desired == RUN}
    found = Comparison()
    here: dict[str, str] = {}
    for name in cluster.hosts:
        for container_id in cluster.running(name):
            found.running += 1
            one = wanted.get(container_id)
            if one is None or names.get(one.node_id.hex()) != name:
                found.stray.append(f"{container_id} on {name}")
            here[container_id] = name
    for container_id, one in wanted.items():
        where = names.get(one.node_id.hex(), one.node_id.hex())
        what = f"{one.service_name}.{one.slot} ({container_id}) on {where}"
        if container_id not in here:
            found.missing.append(what)
        elif one.status.state != RUNNING:
            found.missing.append(f"{what}: it runs, and the state does not know")
    slots = Counter((one.service_name, one.slot) for key, one in wanted.items() if key in here)
    found.duplicate += [f"{name}.{slot}" for (name, slot), many in slots.items() if many > 1]
    for each in await cluster.any_client().services():
        if each.running < each.desired:
            found.missing.append(f"{each.service.spec.name}: {each.running} of {each.desired}")
    return found


def needless_restarts(cluster: Cluster) -> list[str]:
    """Simulated containers that were started again on their host, though none ends by itself."""
    again = []
    for name, host in cluster.hosts.items():
        times = Counter(start.container_id for start in host.starts())
        again += [f"{key} on {name}: {many} times" for key, many in times.items() if many > 1]
    return again

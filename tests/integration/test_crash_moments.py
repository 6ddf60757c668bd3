"""kill -9 at moments that nobody chose, on the manager's side of a change.

Requests are made over the API, and the daemon is killed some 0 to 300 ms after one was sent, or
the instant it was acknowledged. What was acknowledged must then be there, what was not is repeated
under its own request id and must take effect exactly once, and whatever is not touched by the
change must keep its process.

The seed is printed. `WARREN_TEST_SEED` replays it; `WARREN_TEST_ROUNDS` sets how many rounds:

    WARREN_TEST_ROUNDS=500 python -m pytest tests/integration/test_crash_moments.py -rP --timeout=0
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from tests.support.containerd import Containerd
from tests.support.node import eventually
from tests.support.stage import Stage
from warren import rpc
from warren.pb.v1 import api_pb2, objects_pb2

ROUNDS = int(os.environ.get("WARREN_TEST_ROUNDS", "12"))
SEED = int(os.environ.get("WARREN_TEST_SEED") or int.from_bytes(os.urandom(4)))
NAMES = ("ant", "bee")
REPLICAS_MAX = 3
DELAYS_S_MAX = (0.01, 0.3)  # until it is acknowledged, and until its containers are there
AT_ONCE = 0.3  # of the kills follow the acknowledgement

# The daemon of the moment could not say whether it was done.
IN_DOUBT = {"unavailable", "outcome_unknown", "no_leader", "overloaded", "shutting_down"}


@pytest.fixture
def stage(containerd: Containerd, tiny_image: Path) -> Iterator[Stage]:
    stage = Stage(containerd, tiny_image)
    yield stage
    stage.close()


@dataclass
class Change:
    """One request, and what the cluster must hold once it was acknowledged."""

    what: str
    method: str
    request: Any
    name: str
    replicas: int  # 0: there is no such service
    env: list[str]


def test_a_kill_at_any_moment_loses_nothing_acknowledged(stage: Stage) -> None:
    print(f"WARREN_TEST_SEED={SEED}")
    random = Random(SEED)
    for number in range(ROUNDS):
        change = next_change(stage, random)
        untouched = {name: pids(stage, name) for name in NAMES if name != change.name}
        at_once = random.random() < AT_ONCE
        delay_s = random.uniform(0, random.choice(DELAYS_S_MAX))
        acknowledged = kill_during(stage, change, None if at_once else delay_s)
        when = "acknowledged" if at_once else f"sent {delay_s * 1000:.1f} ms before"
        print(f"round {number}: {change.what}, {when}: acknowledged {acknowledged}")
        stage.restart()
        if not acknowledged:
            repeat(stage, change)
        check_held(stage, change)
        settle(stage, change)
        for name, before in untouched.items():
            assert pids(stage, name) == before, f"{name} was restarted by: {change.what}"


def next_change(stage: Stage, random: Random) -> Change:
    """Anything that can be done to one of the services, as it is now."""
    name = random.choice(NAMES)
    service = stage.api.services().get(name)
    if service is None:
        replicas = random.randint(1, REPLICAS_MAX)
        create = stage.creation(name, replicas)
        return Change(f"create {name}={replicas}", "CreateService", create, name, replicas, [])
    kind = random.choice(["scale", "scale", "update", "remove"])
    if kind == "remove":
        remove = stage.removal(name)
        return Change(f"remove {name}", "RemoveService", remove, name, 0, [])
    spec = objects_pb2.ServiceSpec()
    spec.CopyFrom(service.spec)
    if kind == "scale":
        spec.replicas = random.randint(1, REPLICAS_MAX)
    else:
        spec.container.env[:] = [f"ROUND={random.getrandbits(32)}"]
    update = api_pb2.UpdateServiceRequest(
        request=stage.api.request_id(),
        service_id=service.id,
        expected_version=service.version,
        spec=spec,
    )
    what = f"{kind} {name}={spec.replicas} {list(spec.container.env)}"
    return Change(what, "UpdateService", update, name, spec.replicas, list(spec.container.env))


def kill_during(stage: Stage, change: Change, delay_s: float | None) -> bool:
    """Send, and kill after `delay_s` or (None) once it was acknowledged; whether it was."""
    if delay_s is None:
        stage.api.call(change.method, change.request)
        stage.node.kill()
        return True
    outcome: list[bool] = []

    def send() -> None:
        outcome.append(acknowledged(stage, change))

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(delay_s)  # the moment of the kill is what is tested
    stage.node.kill()
    sender.join(20)
    assert outcome, "the call ended with its daemon"
    return outcome[0]


def acknowledged(stage: Stage, change: Change) -> bool:
    """False: nobody can say. Raises AssertionError where it is refused."""
    try:
        stage.api.call(change.method, change.request)
    except grpc.RpcError as error:
        why = rpc.failure(error)
        assert why.code in IN_DOUBT, f"{change.what} is refused: {why.message}"
        return False
    return True


def repeat(stage: Stage, change: Change) -> None:
    """The same request again, as a client in doubt does."""
    eventually(lambda: acknowledged(stage, change), f"{change.what} is acknowledged")


def check_held(stage: Stage, change: Change) -> None:
    """What was acknowledged is in the state that the daemon read back from its log."""
    service = stage.api.services().get(change.name)
    if change.replicas == 0:
        assert service is None or service.removing, f"lost: {change.what}"
        return
    assert service is not None, f"lost: {change.what}"
    held = (service.spec.replicas, list(service.spec.container.env))
    assert held == (change.replicas, change.env), f"lost: {change.what}"


def settle(stage: Stage, change: Change) -> None:
    """All services have what they should, and there is nothing else."""
    if change.replicas == 0:
        eventually(lambda: stage.gone(change.name), f"after {change.what} it is gone")
    else:
        eventually(
            lambda: stage.runs(change.name, change.replicas), f"after {change.what} all of it runs"
        )
    stage.check_nothing_strayed(*NAMES)


def pids(stage: Stage, name: str) -> dict[str, int]:
    """The processes of a service, by container id."""
    tasks = stage.tasks()
    return {container_id: tasks[container_id] for container_id in stage.ids(name)}

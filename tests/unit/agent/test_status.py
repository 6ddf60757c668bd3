"""How a remembered status crosses the wire."""

from __future__ import annotations

import pytest

from warren.agent import status
from warren.agent.converge import Memory
from warren.pb.v1 import objects_pb2 as pb


@pytest.mark.parametrize("removed", [False, True])
def test_a_host_never_calls_a_container_lost(removed: bool) -> None:
    """Managers refuse that word from hosts, and would never learn that the container is gone."""
    heard = pb.ContainerStatus(attempt=2, state=pb.CONTAINER_STATE_LOST, removed=removed)
    said = status.status_item("c" * 32, status.remembered(heard)).status
    assert said.state == pb.CONTAINER_STATE_SHUTDOWN
    assert (said.attempt, said.removed) == (2, removed)


def test_every_other_state_is_said_as_it_is() -> None:
    for state in set(pb.ContainerState.values()) - {pb.CONTAINER_STATE_LOST}:
        item = status.status_item("c" * 32, Memory(attempt=1, state=state))
        assert item.status.state == state

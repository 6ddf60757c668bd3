"""kill -9 at every step of create, start, stop and remove.

A proxy in front of the real containerd kills the daemon before a call reaches containerd, and
again after containerd has carried the call out but before the daemon hears of it. After a restart
everything acknowledged must be there, the bystander must have kept its process, and nothing may
be left that is assigned to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd
from tests.support.containerd_proxy import Step
from tests.support.node import eventually
from tests.support.stage import STUBBORN, Stage

STEPS_MAX = 40  # more than any of the operations has
MADE = ["Snapshots/Prepare", "Containers/Create", "Tasks/Create", "Tasks/Start"]
UNMADE = ["Tasks/Kill", "Tasks/Kill", "Tasks/Delete", "Containers/Delete", "Snapshots/Remove"]


@pytest.fixture
def stage(containerd: Containerd, tiny_image: Path) -> Iterator[Stage]:
    stage = Stage(containerd, tiny_image)
    yield stage
    stage.close()


class Death:
    """Kills the daemon at step `number`, before or after it takes effect."""

    def __init__(self, stage: Stage, number: int, *, after: bool) -> None:
        self._node = stage.node
        self._at = (number, after)
        self.step: Step | None = None
        stage.proxy.arm(self._come)

    def _come(self, step: Step) -> bool:
        if (step.number, step.after) != self._at:
            return False
        self._node.kill()
        self.step = step
        return True

    def or_done(self, done: Callable[[], bool]) -> Step | None:
        """Wait; the step at which the daemon was killed, None if all was `done` without."""

        def settled() -> bool:
            return self.step is not None or (self._node.alive() and done())

        eventually(settled, "the operation is done, or the daemon is killed on the way")
        return self.step


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_create_and_start_survive_a_kill_at_every_step(stage: Stage, after: bool) -> None:
    deaths: list[Step] = []
    for number in range(1, STEPS_MAX):
        name = f"web-{number}"
        death = Death(stage, number, after=after)
        stage.create(name)
        if died := death.or_done(lambda: stage.runs(name)):  # noqa: B023 - called at once
            deaths.append(died)
            stage.restart()
            eventually(lambda: stage.runs(name), f"{name} runs after {died}")  # noqa: B023
        stage.check_nothing_strayed(name)
        stage.proxy.arm(None)
        stage.remove(name)
        eventually(lambda: stage.gone(name), f"{name} is gone")  # noqa: B023
        if not died:
            break
    assert [step.call for step in deaths] == MADE


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_stop_and_remove_survive_a_kill_at_every_step(stage: Stage, after: bool) -> None:
    deaths: list[Step] = []
    for number in range(1, STEPS_MAX):
        name = f"web-{number}"
        stage.create(name, command=STUBBORN, stop_timeout_ms=200)
        eventually(lambda: stage.runs(name), f"{name} runs")  # noqa: B023
        death = Death(stage, number, after=after)
        stage.remove(name)
        if died := death.or_done(lambda: stage.gone(name)):  # noqa: B023
            deaths.append(died)
            stage.restart()
            eventually(lambda: stage.gone(name), f"{name} is gone after {died}")  # noqa: B023
        stage.check_nothing_strayed()
        if not died:
            break
    assert [step.call for step in deaths] == UNMADE

"""kill -9 at every step of create, start, stop and remove.

A proxy in front of the real containerd kills the daemon before a call reaches containerd, and
again after containerd has carried the call out but before the daemon hears of it. After a restart
everything acknowledged must be there, the bystander must have kept its process, and nothing may
be left that is assigned to nobody.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd, runtime_tasks
from tests.support.containerd_proxy import ContainerdProxy, Step
from tests.support.node import WarrenNode, eventually

IMAGE = "docker.io/library/tiny:1"
LONGEST = 40  # more steps than any of the operations has


class Stage:
    """A daemon behind the proxy with one service that must never notice anything."""

    def __init__(self, containerd: Containerd, tiny_image: Path) -> None:
        root = Path(tempfile.mkdtemp(prefix="wc"))
        self.proxy = ContainerdProxy(root / "proxy.sock", containerd.address)
        self.containerd = containerd
        self.namespace = containerd.new_namespace()
        self.node = WarrenNode(self.proxy.address, self.namespace, root)
        self.node.up()
        self.node.ctl("image", "load", "-i", str(tiny_image))
        self.create("bystander")
        eventually(lambda: self.running("bystander"), "the bystander runs")
        self.bystander_pid = self.pid_of("bystander")
        self.deaths: list[Step] = []

    def create(self, name: str, *flags: str) -> None:
        self.node.ctl(
            "service", "create", name, f"--image={IMAGE}", *flags, "--", "sleep", "100000"
        )

    def slots(self, name: str) -> list[dict[str, object]]:
        return [slot for slot in self.node.json("service", "ps", name) if slot["container_id"]]

    def running(self, name: str) -> bool:
        return [slot["state"] for slot in self.slots(name)] == ["running"]

    def pid_of(self, name: str) -> int:
        (slot,) = self.slots(name)
        return runtime_tasks(self.containerd.address, self.namespace)[str(slot["container_id"])]

    def kill_at(self, number: int, *, after: bool) -> None:
        """Arm: the daemon dies at step `number`, before or after it takes effect."""

        def hook(step: Step) -> None:
            if (step.number, step.after) == (number, after) and self.node.alive():
                self.deaths.append(step)
                self.node.kill()

        self.proxy.arm(hook)

    def died_or(self, done: str, name: str) -> bool:
        """Whether the daemon was killed before the operation was complete."""

        def settled() -> bool:
            if not self.node.alive():
                return True
            return self.running(name) if done == "running" else self.gone(name)

        eventually(settled, f"{name} {done}, or the daemon is killed on the way")
        return not self.node.alive()

    def gone(self, name: str) -> bool:
        return self.node.run("service", "inspect", name).returncode == 4

    def restart(self) -> None:
        self.proxy.arm(None)
        self.node.start()
        self.node.wait_ready()

    def check_nothing_moved(self, expected: int) -> None:
        tasks = runtime_tasks(self.containerd.address, self.namespace)
        assert self.pid_of("bystander") == self.bystander_pid, "the bystander was restarted"
        eventually(
            lambda: len(runtime_tasks(self.containerd.address, self.namespace)) == expected,
            f"{expected} tasks in containerd, not {sorted(tasks)}",
        )

    def close(self) -> None:
        if not self.node.alive():
            self.restart()
        self.proxy.arm(None)
        self.node.close()
        self.proxy.close()
        self.containerd.assert_nothing_left(self.namespace)


@pytest.fixture
def stage(containerd: Containerd, tiny_image: Path) -> Iterator[Stage]:
    stage = Stage(containerd, tiny_image)
    yield stage
    stage.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_create_and_start_survive_a_kill_at_every_step(stage: Stage, after: bool) -> None:
    for number in range(1, LONGEST):
        name = f"web-{number}"
        stage.kill_at(number, after=after)
        stage.node.ctl(
            "service", "create", name, f"--image={IMAGE}", "--detach", "--", "sleep", "100000"
        )
        died = stage.died_or("running", name)
        if died:
            stage.restart()
            eventually(lambda: stage.running(name), f"{name} runs after {stage.deaths[-1]}")  # noqa: B023
        stage.check_nothing_moved(expected=2)
        stage.proxy.arm(None)
        stage.node.ctl("service", "rm", name)
        if not died:
            break
    assert len(stage.deaths) >= 4, f"only {stage.deaths}"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_stop_and_remove_survive_a_kill_at_every_step(stage: Stage, after: bool) -> None:
    for number in range(1, LONGEST):
        name = f"web-{number}"
        stage.create(name, "--stop-timeout=1s")
        stage.kill_at(number, after=after)
        stage.node.ctl("service", "rm", name, "--detach")
        died = stage.died_or("gone", name)
        if died:
            stage.restart()
            eventually(lambda: stage.gone(name), f"{name} gone after {stage.deaths[-1]}")  # noqa: B023
        stage.check_nothing_moved(expected=1)
        if not died:
            break
    assert len(stage.deaths) >= 4, f"only {stage.deaths}"

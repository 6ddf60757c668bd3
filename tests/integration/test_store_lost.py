"""The worker's store is gone while the daemon is down: nothing runs twice, nothing is restarted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd
from tests.support.node import eventually
from tests.support.stage import Stage, state_of
from warren.pb.v1 import objects_pb2

ONCE = objects_pb2.RESTART_CONDITION_NONE


@pytest.fixture
def stage(containerd: Containerd, tiny_image: Path) -> Iterator[Stage]:
    stage = Stage(containerd, tiny_image)
    yield stage
    stage.close()


def lose_the_store(stage: Stage) -> None:
    """kill -9, and the file with all that belongs to it is no more."""
    stage.node.kill()
    lost = list(stage.node.data_dir.glob("worker.db*"))
    assert lost, "there was a store"
    for path in lost:
        path.unlink()
    stage.restart()


def attempts(stage: Stage, name: str) -> list[tuple[int, str]]:
    return [(c.status.attempt, state_of(c)) for c in stage.api.containers(name)]


def test_what_runs_is_adopted_and_reports_are_taken(stage: Stage) -> None:
    lose_the_store(stage)
    eventually(lambda: stage.runs("bystander"), "the bystander is said to run")
    stage.check_nothing_strayed()
    stage.remove("bystander")
    eventually(lambda: stage.gone("bystander"), "the bystander is gone")
    assert stage.tasks() == {}


def test_attempts_count_on(stage: Stage, tmp_path: Path) -> None:
    """A container that is in its third attempt goes on from there; less would be refused."""
    go = tmp_path / "go"
    script = f"while test ! -e {go}; do sleep 0.05; done; exit 1"
    creation = stage.creation("brief", command=("sh", "-c", script))
    mount = creation.spec.container.mounts.add(source=str(tmp_path), target=str(tmp_path))
    mount.type = objects_pb2.MOUNT_TYPE_BIND
    go.touch()
    stage.api.call("CreateService", creation)
    eventually(lambda: attempts(stage, "brief")[0][0] >= 3, "it failed twice")
    go.unlink()
    eventually(lambda: stage.runs("brief"), "an attempt runs")
    ((attempt, _),) = attempts(stage, "brief")
    pids = stage.tasks()
    lose_the_store(stage)
    assert attempts(stage, "brief") == [(attempt, "running")]
    assert stage.tasks() == pids
    go.touch()
    eventually(lambda: attempts(stage, "brief")[0][0] > attempt, "its next end is reported")


@pytest.mark.parametrize(("command", "state"), [("exit 0", "complete"), ("exit 3", "failed")])
def test_what_has_run_once_never_runs_again(
    stage: Stage, tmp_path: Path, command: str, state: str
) -> None:
    ran = tmp_path / "ran"
    script = f"echo once >> {ran}; {command}"
    creation = stage.creation("job", command=("sh", "-c", script), restart=ONCE)
    mount = creation.spec.container.mounts.add(source=str(tmp_path), target=str(tmp_path))
    mount.type = objects_pb2.MOUNT_TYPE_BIND
    stage.api.call("CreateService", creation)
    eventually(lambda: stage.states("job") == [state], f"the job is {state}")
    before = stage.ids("job")
    lose_the_store(stage)
    # Assignments come in one message: what is created after it stands behind the job.
    stage.create("later")
    eventually(lambda: stage.runs("later"), "a later one runs")
    assert (stage.ids("job"), stage.states("job")) == (before, [state])
    assert ran.read_text() == "once\n"

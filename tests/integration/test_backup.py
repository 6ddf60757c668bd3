"""A cluster that is lost comes back from a backup, and its containers run all the while."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.containerd import Containerd, runtime_tasks
from tests.support.node import FOREVER, WarrenNode, eventually
from warren.pb.v1 import api_pb2, commands_pb2, objects_pb2


@pytest.fixture
def blank(containerd: Containerd) -> Iterator[WarrenNode]:
    """A daemon that is in no cluster."""
    node = WarrenNode(containerd.address, containerd.new_namespace())
    node.start()
    yield node
    node.discard()
    containerd.assert_nothing_left(node.namespace)


class Writer:
    """Creates services without replicas, one after the other, in a thread of its own."""

    def __init__(self, node: WarrenNode) -> None:
        self.acknowledged: list[str] = []
        self._node = node
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        eventually(lambda: len(self.acknowledged) >= 20, "the writer writes")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        with self._node.api() as api:
            for number in count(1):
                if self._stop.is_set():
                    return
                spec = objects_pb2.ServiceSpec(
                    name=f"written-{number}",
                    mode=objects_pb2.SERVICE_MODE_REPLICATED,
                    container=objects_pb2.ContainerSpec(image="tiny:1"),
                )
                request = commands_pb2.RequestId(client=b"w" * 16, sequence=number)
                api.CreateService(
                    api_pb2.CreateServiceRequest(request=request, spec=spec), timeout=10
                )
                self.acknowledged.append(spec.name)


def remove_written(node: WarrenNode) -> None:
    """The fixture would start a process for each of the many."""
    with node.api() as api:
        views = api.ListServices(api_pb2.ListServicesRequest(), timeout=10).services
        for number, view in enumerate(views, 1):
            if view.service.spec.name.startswith("written-"):
                request = commands_pb2.RequestId(client=b"r" * 16, sequence=number)
                removal = api_pb2.RemoveServiceRequest(request=request, service_id=view.service.id)
                api.RemoveService(removal, timeout=10)


def ids(node: WarrenNode) -> dict[str, list[str]]:
    """What people know things by."""
    return {
        noun: sorted(each["id"] for each in node.json(noun, "ls"))
        for noun in ("service", "container")
    }


def lose_the_log(node: WarrenNode) -> None:
    """kill -9, and the manager's disk is gone; what the worker has to do is on another one."""
    node.kill()
    shutil.rmtree(node.data_dir / "raft")
    node.start()


def test_a_lost_cluster_comes_back_and_its_containers_never_stopped(
    node: WarrenNode, containerd: Containerd, tmp_path: Path
) -> None:
    node.ctl("service", "create", "web", "--image=tiny:1", "--replicas=3", *FOREVER)
    before = runtime_tasks(containerd.address, node.namespace)
    assert len(before) == 3
    known = ids(node)
    file = tmp_path / "cluster.backup"
    with Writer(node) as writer:
        acknowledged = list(writer.acknowledged)
        saved = node.json("cluster", "backup", "save", str(file))
    looked = node.json("cluster", "backup", "inspect", str(file))
    assert looked == saved
    assert (looked["containers"], looked["epoch"]) == (3, 1)
    lose_the_log(node)
    assert runtime_tasks(containerd.address, node.namespace) == before
    restored = node.json("cluster", "backup", "restore", str(file))
    assert restored["backup"]["state_hash"] == looked["state_hash"]
    assert (restored["id"], restored["epoch"]) == (saved["cluster_id"], 2)
    node.wait_ready()
    # The same objects, nothing acknowledged before the backup missing, nothing more.
    names = {service["name"] for service in node.json("service", "ls")}
    assert {"web", *acknowledged} <= names
    assert len(names) == looked["services"]
    found = ids(node)
    assert found["container"] == known["container"]
    assert set(known["service"]) <= set(found["service"])
    eventually(
        lambda: [c["state"] for c in node.json("container", "ls")] == ["running"] * 3,
        "the three are known to run",
    )
    assert runtime_tasks(containerd.address, node.namespace) == before, "adopted, not restarted"
    # It goes on: to more of them, and to a second life from a second backup.
    node.ctl("service", "scale", "web=4")
    now = runtime_tasks(containerd.address, node.namespace)
    assert before.items() <= now.items()
    assert len(now) == 4
    remove_written(node)


def test_a_backup_can_be_restored_a_second_time(
    node: WarrenNode, containerd: Containerd, tmp_path: Path
) -> None:
    node.ctl("service", "create", "web", "--image=tiny:1", "--replicas=1", *FOREVER)
    before = runtime_tasks(containerd.address, node.namespace)
    file = tmp_path / "cluster.backup"
    node.ctl("cluster", "backup", "save", str(file))
    for epoch in (2, 3):
        lose_the_log(node)
        # The worker has obeyed the epoch before: it must not take this one for the past.
        assert node.json("cluster", "backup", "restore", str(file))["epoch"] == epoch
        eventually(lambda: node.metric("warren_sessions") == 1, "the worker obeys")
        assert runtime_tasks(containerd.address, node.namespace) == before


def test_a_host_that_manages_a_cluster_keeps_it(node: WarrenNode, tmp_path: Path) -> None:
    file = tmp_path / "cluster.backup"
    node.ctl("cluster", "backup", "save", str(file))
    code, said = node.refused("cluster", "backup", "restore", str(file))
    assert code == 5
    assert "manages a cluster already" in said
    assert node.json("cluster", "info")["epoch"] == 1
    code, said = node.refused("cluster", "recover", "--from-quorum-loss", "--yes")
    assert code == 2
    assert "leads, so nothing is lost" in said


def test_what_is_no_whole_backup_changes_nothing(
    node: WarrenNode, blank: WarrenNode, tmp_path: Path
) -> None:
    file = tmp_path / "cluster.backup"
    node.ctl("cluster", "backup", "save", str(file))
    content = file.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
    for damaged, words in (
        (content[:-10], "not copied whole"),
        (flipped, "checksum does not match"),
        (b"", "shortest"),
    ):
        file.write_bytes(damaged)
        code, said = blank.refused("cluster", "backup", "restore", str(file), "--format=json")
        assert code == 1
        told = json.loads(said)["error"]
        assert (told["code"], words in told["message"]) == ("backup_unusable", True), said
        assert list((blank.data_dir / "tmp").iterdir()) == []
    code, said = blank.refused("cluster", "backup", "save", str(tmp_path / "none"))
    assert "no cluster" in said
    assert not (tmp_path / "none").exists()
    blank.ctl("cluster", "init")
    blank.wait_ready()

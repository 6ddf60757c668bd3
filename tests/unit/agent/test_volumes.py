"""Which directories containers get for the volumes that they mount."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from warren import amounts
from warren.agent.description import Declared, Describer
from warren.agent.runtime.base import RuntimeRefused
from warren.agent.runtime.simulated import RealClock, SimulatedRuntime
from warren.agent.volumes import Found, VolumeMap
from warren.config import Config
from warren.pb.v1 import objects_pb2

BIND = objects_pb2.MOUNT_TYPE_BIND
TMPFS = objects_pb2.MOUNT_TYPE_TMPFS
VOLUME = objects_pb2.MOUNT_TYPE_VOLUME


def mapped(*rows: str) -> VolumeMap:
    return VolumeMap(map(amounts.volume, rows))


def mounting(*mounts: objects_pb2.Mount) -> objects_pb2.ContainerSpec:
    return objects_pb2.ContainerSpec(image="app", mounts=mounts)


def test_a_name_becomes_a_directory() -> None:
    volumes = mapped("data=/old", "logs=/srv/logs/:ro", "data=/srv/a:b=c")
    asked = mounting(
        objects_pb2.Mount(type=VOLUME, source="data", target="/d", exclusive=True),
        objects_pb2.Mount(type=VOLUME, source="logs", target="/l", read_only=True),
        objects_pb2.Mount(type=TMPFS, target="/t"),
    )
    before = asked.SerializeToString(deterministic=True)
    found = volumes.resolved(asked)
    of = [(it.type, it.source, it.target, it.read_only) for it in found.mounts]
    assert of == [
        (BIND, "/srv/a:b=c", "/d", False),
        (BIND, "/srv/logs", "/l", True),
        (TMPFS, "", "/t", False),
    ]
    assert asked.SerializeToString(deterministic=True) == before, "specs are known by their digest"
    plain = mounting(objects_pb2.Mount(type=BIND, source="/a", target="/b"))
    assert volumes.resolved(plain) is plain


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (objects_pb2.Mount(type=VOLUME, source="gone", target="/d"), "has no more"),
        (objects_pb2.Mount(type=VOLUME, source="logs", target="/d"), "only lets be read"),
    ],
)
def test_what_the_host_has_no_more(mount: objects_pb2.Mount, words: str) -> None:
    with pytest.raises(RuntimeRefused, match=words) as refusal:
        mapped("logs=/srv/logs:ro").resolved(mounting(mount))
    assert refusal.value.permanent
    assert "change `volumes` there" in refusal.value.message


async def test_only_what_is_there_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def images() -> list[objects_pb2.NodeImage]:
        return []

    rows = [f"here={tmp_path}", f"late={tmp_path}/late:ro", "a.b-c_1=/"]
    declared = Declared.of(Config(volumes=rows))
    describer = Describer(
        name="n1",
        declared=declared,
        disk=Path("/"),
        runtime=SimulatedRuntime(RealClock()),
        images=images,
        volumes=VolumeMap(declared.volumes),
    )

    async def told() -> list[tuple[str, bool]]:
        return [(it.name, it.read_only) for it in (await describer.describe()).volumes]

    for _ in range(2):
        assert await told() == [("a.b-c_1", False), ("here", False)]
    missing = [it for it in caplog.messages if f"late ({tmp_path}/late)" in it]
    assert len(missing) == 1, "said once"
    (tmp_path / "late").mkdir()
    assert await told() == [("a.b-c_1", False), ("here", False), ("late", True)]


async def test_a_directory_that_does_not_answer_holds_up_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()
    answers.set()

    class Slow(VolumeMap):
        looks = 0

        def look(self) -> Found:
            self.looks += 1
            assert answers.wait(60)
            return super().look()

    async def images() -> list[objects_pb2.NodeImage]:
        return []

    volumes = Slow([amounts.volume(f"here={tmp_path}")])
    describer = Describer(
        name="n1",
        declared=Declared(labels={}),
        disk=Path("/"),
        runtime=SimulatedRuntime(RealClock()),
        images=images,
        volumes=volumes,
        volumes_wait_s=0.01,
    )

    async def told() -> list[str]:
        return [it.name for it in (await describer.describe()).volumes]

    while await told() != ["here"]:
        pass
    answers.clear()
    looks = volumes.looks
    try:
        for _ in range(3):
            assert await told() == ["here"], "as it was"
        assert volumes.looks == looks + 1, "one hangs, and no more"
        assert len([it for it in caplog.messages if "does not answer" in it]) >= 1
    finally:
        answers.set()
    # It answers again, and is looked at again.
    while volumes.looks == looks + 1:
        assert await told() == ["here"]

"""What a host says of itself, also while containerd is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from warren.agent.description import (
    Declared,
    Describer,
    architecture,
    disk_free,
    memory_total_bytes,
    os_name,
)
from warren.agent.runtime.simulated import RealClock, SimulatedRuntime
from warren.config import Config
from warren.node_limits import DESCRIPTION_BYTES_MAX
from warren.pb.v1 import objects_pb2


async def test_what_containerd_said_last_is_kept() -> None:
    runtime = SimulatedRuntime(RealClock())
    images = [
        objects_pb2.NodeImage(reference="b", digest="sha256:2"),
        objects_pb2.NodeImage(reference="a", digest="sha256:1"),
    ]
    broken = False

    async def listed() -> list[objects_pb2.NodeImage]:
        if broken:
            raise OSError("no")
        return images

    declared = Declared(labels={"zone": "eu"})
    describer = Describer(
        name="n1", declared=declared, disk=Path("/"), runtime=runtime, images=listed
    )
    first = await describer.describe()
    assert first.name == "n1"
    assert first.labels == {"zone": "eu"}
    assert first.capacity.cpu_milli >= 1000
    assert first.capacity.memory_bytes > 1 << 26
    assert first.capacity.disk_bytes > first.disk_free_bytes
    assert first.capacity.pids > 100
    assert not first.HasField("reserved")
    assert [image.reference for image in first.images] == ["a", "b"]
    assert first.containerd_version == "simulated"

    runtime.go_away()
    images.clear()
    away = await describer.describe()
    assert away.containerd_version == ""
    assert away.images == first.images

    runtime.come_back()
    broken = True
    assert (await describer.describe()).images == first.images
    broken = False
    assert list((await describer.describe()).images) == []


async def test_a_description_never_gets_too_large(caplog: pytest.LogCaptureFixture) -> None:
    digest = "sha256:" + "a" * 64
    there = [
        objects_pb2.NodeImage(reference=f"registry/app:{n:05}", digest=digest, size_bytes=1 << 30)
        for n in reversed(range(3000))
    ]

    async def listed() -> list[objects_pb2.NodeImage]:
        return there

    declared = Declared(labels={"x": "y" * 50_000})
    runtime = SimulatedRuntime(RealClock())
    describer = Describer(
        name="n1", declared=declared, disk=Path("/"), runtime=runtime, images=listed
    )
    described = await describer.describe()
    assert 0.9 * DESCRIPTION_BYTES_MAX < described.ByteSize() <= DESCRIPTION_BYTES_MAX
    # The first are the ones that matter most.
    told = len(described.images)
    assert sorted(there[:told], key=lambda it: it.reference) == list(described.images)
    assert describer.images_left_out == 3000 - told
    await describer.describe()
    [warning] = caplog.messages
    assert f"{3000 - told:,} of 3,000 images" in warning

    runtime.go_away()
    assert (await describer.describe()).images == described.images
    assert describer.images_left_out == 3000 - told
    runtime.come_back()
    del there[10:]
    assert len((await describer.describe()).images) == 10
    assert describer.images_left_out == 0


def test_what_is_configured_comes_before_what_is_found() -> None:
    settings = Config(
        labels={"zone": "eu"},
        taints=["old:no-schedule", "gpu=a:no-schedule", "gpu=b:no-schedule"],
        devices=["gpu=2:A100", "gpu=1"],
        reserved_cpus="0.5",
        reserved_memory="1g",
        capacity_cpus="4",
        capacity_disk="10g",
    )
    described = objects_pb2.NodeDescription()
    described.capacity.cpu_milli = 1000
    described.capacity.memory_bytes = 5
    Declared.of(settings).describe(described)
    assert dict(described.labels) == {"zone": "eu"}
    assert [(it.key, it.value) for it in described.taints] == [("gpu", "b"), ("old", "")]
    assert [(it.model, it.count) for it in described.devices] == [("A100", 2), ("", 1)]
    assert described.reserved == objects_pb2.Resources(cpu_milli=500, memory_bytes=1 << 30)
    assert described.capacity == objects_pb2.Resources(
        cpu_milli=4000, memory_bytes=5, disk_bytes=10 << 30
    )


def test_free_disk_is_told_in_coarse_steps() -> None:
    gib, total = 1 << 30, 640 << 30
    told = disk_free(105 * gib, total, 0)
    assert told == 100 * gib
    # It wavers about a step: nothing new is told.
    for free in (105 * gib, 99 * gib, 111 * gib, 100 * gib):
        assert disk_free(free, total, told) == told
    assert disk_free(80 * gib, total, told) == 80 * gib
    assert disk_free(200 * gib, total, told) == 200 * gib
    assert disk_free(0, total, told) == 0
    assert disk_free(5 * gib + 1, 10 * gib, 0) == 5 * gib


def test_parsers() -> None:
    assert architecture("x86_64") == "amd64"
    assert architecture("riscv64") == "riscv64"
    assert memory_total_bytes("MemFree: 1 kB\nMemTotal:       2048 kB\n") == 2 << 20
    with pytest.raises(ValueError, match="MemTotal"):
        memory_total_bytes("")
    assert os_name('NAME=x\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n') == (
        "Debian GNU/Linux 12 (bookworm)"
    )
    assert os_name("") == "Linux"

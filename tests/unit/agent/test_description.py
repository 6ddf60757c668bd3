"""What a host says of itself, also while containerd is away."""

from __future__ import annotations

import pytest

from warren.agent.description import Describer, architecture, memory_total_bytes, os_name
from warren.agent.runtime.simulated import RealClock, SimulatedRuntime
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

    describer = Describer(name="n1", labels={"zone": "eu"}, runtime=runtime, images=listed)
    first = await describer.describe()
    assert first.name == "n1"
    assert first.labels == {"zone": "eu"}
    assert first.capacity.cpu_milli >= 1000
    assert first.capacity.memory_bytes > 1 << 26
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

"""What a configuration says of its host is refused where managers would refuse it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from tests.support.backups import NODE_ID, founded
from warren import amounts
from warren.agent.description import Declared
from warren.agent.devices import DeviceMap
from warren.config import Config, resolve
from warren.core import Core
from warren.errors import StartupError, WarrenError
from warren.pb.v1 import api_pb2, objects_pb2, session_pb2

TIMEOUT_S = 10.0

LIMITS: list[tuple[str, Any, Any, str]] = [
    (
        "taints",
        [f"k{n}:no-schedule" for n in range(64)],
        [f"k{n}:no-schedule" for n in range(65)],
        "at most 64",
    ),
    ("taints", ["é" * 64 + ":no-schedule"], ["é" * 65 + ":no-schedule"], "128 bytes"),
    ("taints", ["a:no-schedule"], ["a\x01:no-schedule"], "control"),
    (
        "devices",
        [f"k{n}=1" for n in range(64)],
        [f"k{n}=1" for n in range(65)],
        "at most 64 kinds and models",
    ),
    ("devices", ["gpu=512", "gpu=512:a"], ["gpu=512", "gpu=513:a"], "at most 1,024"),
    (
        "volumes",
        [f"v{n}=/" for n in range(256)],
        [f"v{n}=/" for n in range(257)],
        "at most 256",
    ),
    ("capacity_cpus", "1000000", "1000000.001", "1,000,000 CPUs"),
    ("reserved_cpus", "1000000", "1000000.001", "1,000,000 CPUs"),
    ("capacity_memory", "1p", "2p", "1 PiB"),
    ("reserved_memory", "1p", "2p", "1 PiB"),
    ("capacity_disk", "1024p", "1025p", "1 EiB"),
    ("reserved_disk", "1024p", "1025p", "1 EiB"),
]


class Managers:
    """A real core, to which this host describes itself."""

    def __init__(self, core: Core, session: bytes) -> None:
        self.core = core
        self.session = session

    async def told(self, settings: Config) -> objects_pb2.NodeDescription:
        """What they then know; WarrenError where they refuse it."""
        description = objects_pb2.NodeDescription(name="one")
        declared = Declared.of(settings)
        declared.describe(description)
        for volume in declared.volumes:
            description.volumes.add(name=volume.name, read_only=volume.read_only)
        message = session_pb2.WorkerMessage(description=description)
        body = self.session + message.SerializeToString()
        await self.core.call("local", "SessionMessage", body, TIMEOUT_S)
        asked = api_pb2.GetNodeRequest(ref=NODE_ID).SerializeToString()
        answer = await self.core.call("local", "GetNode", asked, TIMEOUT_S)
        return api_pb2.GetNodeResponse.FromString(answer).node.node.description


@pytest.fixture
async def managers(tmp_path: Path) -> AsyncIterator[Managers]:
    async with AsyncExitStack() as stack:
        core = await founded(tmp_path / "raft")
        stack.push_async_callback(core.close)
        hello = session_pb2.Hello(node_id=bytes.fromhex(NODE_ID))
        hello.description.name = "one"
        stream = core.stream("local", "Session", hello.SerializeToString())
        session = await stack.enter_async_context(aclosing(stream))
        first = session_pb2.ManagerMessage.FromString(await anext(session))
        await anext(session)  # the node is known with its first assignments
        yield Managers(core, first.welcome.session_id)


def in_file(tmp_path: Path, key: str, value: Any) -> Path:
    file = tmp_path / "warrend.toml"
    quoted = [f'"{word}"' for word in ([value] if isinstance(value, str) else value)]
    text = quoted[0] if isinstance(value, str) else f"[{', '.join(quoted)}]"
    file.write_text(f"{key} = {text}\n".replace("\x01", "\\u0001"))
    return file


async def test_the_limits_are_the_managers(managers: Managers, tmp_path: Path) -> None:
    for key, most, too_much, why in LIMITS:
        found = resolve({}, {}, in_file(tmp_path, key, most))
        await managers.told(found.config)
        with pytest.raises(WarrenError) as refused:
            await managers.told(Config(**{key: too_much}))
        assert refused.value.code == "invalid"
        with pytest.raises(StartupError, match=why) as caught:
            resolve({}, {}, in_file(tmp_path, key, too_much))
        assert caught.value.exit_code == 2
        assert str(caught.value).startswith(f"{key} (file ")


async def test_rows_of_a_kind_and_model_are_counted_together(
    managers: Managers, tmp_path: Path
) -> None:
    rows = [
        "gpu=1:A100,path=/dev/nvidia0",
        "fpga=1",
        "gpu=1:A100,path=/dev/nvidia3",
        "gpu=2:V100,path=/dev/nvidia{n}",
    ]
    settings = resolve({}, {}, in_file(tmp_path, "devices", rows)).config
    known = await managers.told(settings)
    assert [(row.kind, row.model, row.count) for row in known.devices] == [
        ("gpu", "A100", 2),
        ("fpga", "", 1),
        ("gpu", "V100", 2),
    ]
    # By number, as managers count: two A100, then the others.
    devices = DeviceMap(map(amounts.devices, rows))
    shares = [objects_pb2.DeviceShare(kind="gpu", number=n, milli=1000) for n in range(4)]
    paths = [devices.given([share]).paths[0].host for share in shares]
    assert paths == ["/dev/nvidia0", "/dev/nvidia3", "/dev/nvidia2", "/dev/nvidia3"]
    between = [rows[0], rows[3], rows[2]]
    with pytest.raises(StartupError, match="rows of gpu of one model behind one another"):
        resolve({}, {}, in_file(tmp_path, "devices", between))


def test_labels_leave_room_for_the_rest() -> None:
    resolve({"labels": "a=" + "x" * 131_000}, {})
    with pytest.raises(StartupError, match="at most 128 KiB"):
        resolve({"labels": "a=" + "x" * 132_000}, {})

"""What containers get of the devices they hold."""

from __future__ import annotations

import pytest

from warren import amounts
from warren.agent.devices import DeviceMap, Given
from warren.agent.runtime.base import DevicePath, RuntimeRefused
from warren.pb.v1 import objects_pb2


def share(number: int, milli: int = 1000, kind: str = "gpu") -> objects_pb2.DeviceShare:
    return objects_pb2.DeviceShare(kind=kind, number=number, milli=milli)


def mapped(*rows: str) -> DeviceMap:
    return DeviceMap(map(amounts.devices, rows))


def test_numbers_go_on_over_the_rows_of_a_kind() -> None:
    devices = mapped(
        "gpu=2:A100,path=/dev/nvidia{n},path=/dev/nvidiactl,env=NVIDIA_VISIBLE_DEVICES",
        "fpga=1,path=/dev/fpga{n}:/dev/fpga",
        "gpu=2:V100,path=/dev/nvidia{n},path=/dev/nvidiactl,env=NVIDIA_VISIBLE_DEVICES",
    )
    given = devices.given([share(2), share(1), share(0, kind="fpga")])
    assert given.paths == (
        DevicePath("/dev/fpga0", "/dev/fpga"),
        DevicePath("/dev/nvidia1", "/dev/nvidia1"),
        DevicePath("/dev/nvidiactl", "/dev/nvidiactl"),
        DevicePath("/dev/nvidia2", "/dev/nvidia2"),
    )
    assert given.env == (
        "WARREN_DEVICE_FPGA=0",
        "WARREN_DEVICE_GPU=1,2",
        "NVIDIA_VISIBLE_DEVICES=1,2",
    )


def test_a_share_says_how_much_it_is() -> None:
    given = mapped("my-gpu=1").given([share(0, 250, "my-gpu")])
    assert given == Given((), ("WARREN_DEVICE_MY_GPU=0", "WARREN_DEVICE_MY_GPU_MILLI=250"))


def test_who_holds_nothing_gets_nothing() -> None:
    assert mapped("gpu=1,path=/dev/gpu{n},env=GPU").given([]) == Given()


@pytest.mark.parametrize("held", [share(1), share(0, kind="fpga")])
def test_a_device_that_is_no_longer_configured(held: objects_pb2.DeviceShare) -> None:
    with pytest.raises(RuntimeRefused, match="list it under `devices` again") as refusal:
        mapped("gpu=1").given([held])
    assert refusal.value.permanent

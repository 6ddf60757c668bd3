"""The OCI runtime spec, from values alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from warren.agent.runtime.base import ContainerRequest, RuntimeRefused
from warren.agent.runtime.containerd.spec import DeviceNode, Host, ImageConfig, build
from warren.agent.runtime.containerd.users import Identity
from warren.pb.v1 import objects_pb2

V1 = Host(cgroup_v2=False, swap_limit=True, name_files=("/etc/hosts", "/etc/resolv.conf"))
V2 = Host(cgroup_v2=True, swap_limit=True)


def made(
    image: ImageConfig | None = None,
    host: Host = V1,
    identity: Identity | None = None,
    **spec: Any,
) -> dict[str, Any]:
    request = ContainerRequest(
        id="0123456789abcdef" * 2,
        attempt=1,
        service_id="s",
        service_name="web",
        slot=1,
        spec_digest="",
        spec=objects_pb2.ContainerSpec(image="docker.io/library/web:1", **spec),
        log_dir=Path("/logs"),
        node_name="host-1",
    )
    config = image if image is not None else ImageConfig(cmd=["serve"])
    return build(request, config, identity or Identity(), host)


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "command", "args"),
    [
        (None, ["a"], [], ["a"]),
        (None, ["a"], ["b", "c"], ["b", "c"]),
        (["e"], ["a"], [], ["e", "a"]),
        (["e"], ["a"], ["b"], ["e", "b"]),
        (["e"], None, [], ["e"]),
    ],
)
def test_the_command_replaces_cmd_and_not_the_entry_point(
    entrypoint: list[str] | None, cmd: list[str] | None, command: list[str], args: list[str]
) -> None:
    image = ImageConfig(entrypoint=entrypoint, cmd=cmd)
    assert made(image, command=command)["process"]["args"] == args


def test_no_command_at_all_is_refused() -> None:
    with pytest.raises(RuntimeRefused, match="give one after --") as refusal:
        made(ImageConfig())
    assert refusal.value.permanent


def test_devices_that_are_held_and_no_others_are_allowed() -> None:
    request = ContainerRequest(
        id="0123456789abcdef" * 2,
        attempt=1,
        service_id="s",
        service_name="web",
        slot=1,
        spec_digest="",
        spec=objects_pb2.ContainerSpec(image="web:1", env=["X=all"]),
        log_dir=Path("/logs"),
        node_name="host-1",
        device_env=("WARREN_DEVICE_GPU=1", "X=1"),
    )
    node = DeviceNode(path="/dev/x", kind="c", major=195, minor=1, mode=0o660, uid=0, gid=44)
    document = build(request, ImageConfig(cmd=["serve"]), Identity(), V2, [node])
    assert document["process"]["env"][-2:] == ["X=1", "WARREN_DEVICE_GPU=1"]
    assert document["linux"]["devices"] == [
        {
            "path": "/dev/x",
            "type": "c",
            "major": 195,
            "minor": 1,
            "fileMode": 0o660,
            "uid": 0,
            "gid": 44,
        }
    ]
    assert document["linux"]["resources"]["devices"] == [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 195, "minor": 1, "access": "rw"},
    ]
    plain = made()["linux"]
    assert plain["devices"] == []
    assert plain["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


def test_later_environment_wins_and_keeps_its_place() -> None:
    image = ImageConfig(cmd=["x"], env=["PATH=/image", "A=1", "B=2"])
    env = made(image, env=["A=mine", "C=3=4"])["process"]["env"]
    assert env == ["PATH=/image", "HOSTNAME=0123456789ab", "HOME=/root", "A=mine", "B=2", "C=3=4"]


def test_the_identity_and_its_home() -> None:
    process = made(identity=Identity(1001, 1002, (5, 6), "/srv"))["process"]
    assert process["user"] == {"uid": 1001, "gid": 1002, "additionalGids": [5, 6]}
    assert "HOME=/srv" in process["env"]


@pytest.mark.parametrize(
    ("asked", "of_image", "cwd"), [("", "", "/"), ("", "/app", "/app"), ("/mine", "/app", "/mine")]
)
def test_the_working_directory(asked: str, of_image: str, cwd: str) -> None:
    image = ImageConfig(cmd=["x"], working_dir=of_image)
    assert made(image, workdir=asked)["process"]["cwd"] == cwd


def test_without_limits_there_are_none() -> None:
    assert made()["linux"]["resources"].keys() == {"devices"}


def test_the_memory_limit_counts_swap_in_where_it_can() -> None:
    asked = objects_pb2.Resources(memory_bytes=64 << 20)
    assert made(resources=asked)["linux"]["resources"]["memory"] == {
        "limit": 64 << 20,
        "swap": 64 << 20,
    }
    without = Host(cgroup_v2=False, swap_limit=False)
    assert made(host=without, resources=asked)["linux"]["resources"]["memory"] == {
        "limit": 64 << 20
    }


@pytest.mark.parametrize(
    ("cpu_milli", "quota", "shares"),
    [
        (1, 1000, 2),
        (10, 1000, 10),
        (250, 25_000, 256),
        (1000, 100_000, 1024),
        (64_000, 6_400_000, 65_536),
    ],
)
def test_cpu_is_quota_and_weight(cpu_milli: int, quota: int, shares: int) -> None:
    cpu = made(resources=objects_pb2.Resources(cpu_milli=cpu_milli))["linux"]["resources"]["cpu"]
    assert cpu == {"quota": quota, "period": 100_000, "shares": shares}


def test_what_is_reserved_is_the_limit_unless_limits_are_said() -> None:
    reserved = objects_pb2.Resources(cpu_milli=250, memory_bytes=32 << 20, pids=10)
    limits = objects_pb2.Resources(cpu_milli=500, memory_bytes=64 << 20)
    both = made(resources=reserved, limits=limits)["linux"]["resources"]
    assert both["cpu"] == {"shares": 256, "quota": 50_000, "period": 100_000}
    assert both["memory"]["limit"] == 64 << 20
    assert "pids" not in both
    assert made(resources=reserved)["linux"]["resources"]["pids"] == {"limit": 10}
    unlimited = made(resources=reserved, limits=objects_pb2.Resources())["linux"]["resources"]
    assert unlimited["cpu"] == {"shares": 256}
    assert "memory" not in unlimited


def namespaces(document: dict[str, Any]) -> set[str]:
    return {entry["type"] for entry in document["linux"]["namespaces"]}


def test_namespaces() -> None:
    assert namespaces(made()) == {"pid", "ipc", "uts", "mount", "network"}
    assert namespaces(made(host=V2)) == {"pid", "ipc", "uts", "mount", "network", "cgroup"}
    on_host = made(network=objects_pb2.NETWORK_MODE_HOST)
    assert namespaces(on_host) == {"pid", "ipc", "uts", "mount"}
    assert on_host["hostname"] == "host-1"


def mounts(document: dict[str, Any]) -> dict[str, list[str]]:
    return {mount["destination"]: mount["options"] for mount in document["mounts"]}


def test_the_host_s_names_come_with_its_network() -> None:
    assert "/etc/hosts" not in mounts(made())
    found = mounts(made(network=objects_pb2.NETWORK_MODE_HOST))
    assert found["/etc/hosts"] == found["/etc/resolv.conf"] == ["rbind", "rprivate", "ro"]


def test_an_own_mount_comes_before_the_host_s_names() -> None:
    own = objects_pb2.Mount(type=objects_pb2.MOUNT_TYPE_BIND, source="/my", target="/etc/hosts")
    document = made(network=objects_pb2.NETWORK_MODE_HOST, mounts=[own])
    sources = [m["source"] for m in document["mounts"] if m["destination"] == "/etc/hosts"]
    assert sources == ["/my"]


def test_mounts_are_in_the_order_of_their_depth() -> None:
    tmpfs, bind = objects_pb2.MOUNT_TYPE_TMPFS, objects_pb2.MOUNT_TYPE_BIND
    document = made(
        mounts=[
            objects_pb2.Mount(type=bind, source="/s", target="/data/inner", read_only=True),
            objects_pb2.Mount(type=tmpfs, target="/data", tmpfs_size_bytes=1 << 20),
        ]
    )
    last = document["mounts"][-2:]
    assert [mount["destination"] for mount in last] == ["/data", "/data/inner"]
    assert "size=1048576" in last[0]["options"]
    assert last[1]["options"] == ["rbind", "rprivate", "ro"]


def test_nothing_privileged_by_default() -> None:
    document = made()
    for kind, held in document["process"]["capabilities"].items():
        assert kind in ("bounding", "effective", "permitted")
        assert not {"CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"} & set(held)
    assert "/proc/kcore" in document["linux"]["maskedPaths"]
    assert "/proc/sys" in document["linux"]["readonlyPaths"]
    assert "ro" in mounts(document)["/sys"]
    assert document["linux"]["cgroupsPath"] == "/warren/" + "0123456789abcdef" * 2

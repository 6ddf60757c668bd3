"""What people ask of nodes, and set of them: what is read, what is sent, and what is shown."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager
from warren import amounts
from warren.cli import asks
from warren.pb.v1 import objects_pb2


def create(ctl: Run, *flags: str) -> None:
    done = ctl("service", "create", "web", "--image=tiny:1", "--detach", *flags)
    assert (done.code, done.err) == (0, "")


def created(ctl: Run, manager: FakeManager, *flags: str) -> objects_pb2.ServiceSpec:
    create(ctl, *flags)
    spec: objects_pb2.ServiceSpec = manager.requests("CreateService")[-1].spec
    return spec


def test_every_flag_is_sent(ctl: Run, manager: FakeManager) -> None:
    spec = created(
        ctl,
        manager,
        "--constraint=node.labels.zone==eu",
        "--constraint",
        "node.arch in (amd64, arm64)",
        "--affinity=node.labels.disk==ssd,weight=-20",
        "--affinity=node.labels.zone in (a,b)",
        "--spread=node.labels.zone,eu=60,us=40%",
        "--spread=node.labels.rack,max-skew=1",
        "--distinct=node.labels.host",
        "--anti-affinity=db",
        "--anti-affinity=cache,node.labels.zone",
        "--platform=linux/arm64",
        "--tolerate=gpu=yes:no-schedule",
        "--tolerate=*",
        "--max-replicas-per-node=2",
        "--priority=70",
        "--preempt",
        "--strategy=pack",
    )
    placement = spec.placement
    assert list(placement.constraints) == ["node.labels.zone==eu", "node.arch in (amd64, arm64)"]
    assert [(it.expression, it.weight) for it in placement.affinities] == [
        ("node.labels.disk==ssd", -20),
        ("node.labels.zone in (a,b)", 50),
    ]
    zone, rack = placement.spreads
    assert [(it.value, it.percent) for it in zone.targets] == [("eu", 60), ("us", 40)]
    assert (rack.attribute, rack.max_skew, len(rack.targets)) == ("node.labels.rack", 1, 0)
    assert list(placement.distinct) == ["node.labels.host"]
    assert [(it.service, it.attribute) for it in placement.anti_affinities] == [
        ("db", ""),
        ("cache", "node.labels.zone"),
    ]
    (platform,) = placement.platforms
    assert (platform.os, platform.architecture) == ("linux", "arm64")
    one, every = placement.tolerations
    assert (one.key, one.value, one.effect) == ("gpu", "yes", objects_pb2.TAINT_EFFECT_NO_SCHEDULE)
    assert (every.key, every.HasField("value"), every.effect) == ("", False, 0)
    assert placement.max_replicas_per_node == 2
    assert (placement.priority, placement.preempt) == (70, True)
    assert placement.strategy == objects_pb2.STRATEGY_PACK


def test_what_is_taken_of_a_node_is_sent(ctl: Run, manager: FakeManager) -> None:
    container = created(
        ctl,
        manager,
        "--host-port=8080",
        "--host-port=53/udp",
        "--device=gpu=0.5,model=A100|V100",
        "--device=fpga",
        "--reserve-disk=1g",
    ).container
    assert [(it.port, it.protocol) for it in container.host_ports] == [
        (8080, 0),
        (53, objects_pb2.PORT_PROTOCOL_UDP),
    ]
    gpu, fpga = container.devices
    assert (gpu.kind, gpu.milli, list(gpu.models)) == ("gpu", 500, ["A100", "V100"])
    assert (fpga.kind, fpga.milli, list(fpga.models)) == ("fpga", 1000, [])
    assert container.resources.disk_bytes == 1 << 30
    assert not container.HasField("limits")


@pytest.mark.parametrize(
    ("flags", "reserved", "limit"),
    [
        (("--memory=64m",), 64, None),
        (("--reserve-memory=64m",), 64, 0),
        (("--limit-memory=64m",), 0, 64),
        (("--reserve-memory=32m", "--limit-memory=64m"), 32, 64),
        (("--memory=32m", "--limit-memory=64m"), 32, 64),
        (("--memory=32m", "--reserve-cpu=1"), 32, 32),
    ],
)
def test_reservations_and_limits_are_apart_where_that_is_said(
    ctl: Run, manager: FakeManager, flags: tuple[str, ...], reserved: int, limit: int | None
) -> None:
    container = created(ctl, manager, *flags).container
    assert container.resources.memory_bytes == reserved << 20
    assert container.HasField("limits") == (limit is not None)
    assert container.limits.memory_bytes == (limit or 0) << 20


def test_a_limit_that_is_set_later_leaves_the_rest(ctl: Run, manager: FakeManager) -> None:
    create(ctl, "--cpus=1", "--memory=64m")
    assert ctl("service", "update", "web", "--limit-cpu=2").code == 0
    assert ctl("service", "update", "web", "--memory=32m").code == 0
    container = manager.requests("UpdateService")[-1].spec.container
    assert container.resources == objects_pb2.Resources(cpu_milli=1000, memory_bytes=32 << 20)
    assert container.limits == objects_pb2.Resources(cpu_milli=2000, memory_bytes=32 << 20)


def test_update_adds_replaces_and_removes(ctl: Run, manager: FakeManager) -> None:
    create(
        ctl,
        "--constraint=node.labels.zone==eu",
        "--constraint=node.labels.disk exists",
        "--affinity=node.arch==amd64",
        "--spread=node.labels.zone",
        "--tolerate=gpu",
        "--platform=linux/arm64",
        "--host-port=80",
        "--device=gpu=2",
        "--priority=70",
    )
    done = ctl(
        "service",
        "update",
        "web",
        '--constraint-rm=node.labels.zone == "eu"',
        "--constraint-add=node.labels.zone==us",
        "--affinity=node.arch == amd64,weight=10",
        "--spread-rm=node.labels.zone",
        "--tolerate-rm=gpu",
        "--platform-rm=linux/arm64",
        "--host-port-rm=80/tcp",
        "--host-port-add=81",
        "--device=gpu=1",
    )
    assert done.code == 0, done.err
    spec = manager.requests("UpdateService")[-1].spec
    placement = spec.placement
    assert list(placement.constraints) == ["node.labels.disk exists", "node.labels.zone==us"]
    assert [(it.expression, it.weight) for it in placement.affinities] == [
        ("node.arch == amd64", 10)
    ]
    assert [*placement.spreads, *placement.tolerations, *placement.platforms] == []
    assert placement.priority == 70
    assert [it.port for it in spec.container.host_ports] == [81]
    assert [it.milli for it in spec.container.devices] == [1000]


def test_a_placement_that_says_nothing_any_more_is_none(ctl: Run, manager: FakeManager) -> None:
    create(ctl, "--constraint=node.arch==amd64")
    assert ctl("service", "update", "web", "--constraint-rm=node.arch==amd64").code == 0
    assert not manager.requests("UpdateService")[-1].spec.HasField("placement")


def test_what_cannot_be_read_is_refused_before_anybody_is_asked(
    ctl: Run, manager: FakeManager
) -> None:
    for flag in (
        "--affinity=node.arch==a,weight=101",
        "--spread=node.labels.zone,eu",
        "--spread=node.labels.zone,max-skew=0",
        "--anti-affinity=,node.id",
        "--platform=/",
        "--tolerate=gpu:never",
        "--tolerate=*=yes",
        "--host-port=0",
        "--host-port=80/sctp",
        "--device=gpu=1.5",
        "--device=gpu=0",
        "--device=gpu=1,vendor=x",
        "--priority=101",
        "--strategy=random",
    ):
        done = ctl("service", "create", "web", "--image=tiny:1", flag)
        assert done.code == 2, flag
    assert manager.requests("CreateService") == []


def test_inspect_shows_what_holds(ctl: Run, manager: FakeManager) -> None:
    create(
        ctl,
        "--constraint=node.arch==amd64",
        "--spread=node.labels.zone,eu=60",
        "--limit-cpu=2",
        "--host-port=53/udp",
        "--device=gpu=0.5",
        "--tolerate=gpu",
        "--platform=linux",
    )
    shown = json.loads(ctl("service", "inspect", "web", "--format=json").out)
    placement = shown["placement"]
    assert placement["constraints"] == ["node.arch==amd64"]
    assert placement["spreads"] == [
        {"attribute": "node.labels.zone", "targets": {"eu": 60}, "max_skew": None}
    ]
    assert (placement["priority"], placement["preempt"]) == (50, False)
    assert placement["strategy"] == "spread"
    assert placement["platforms"] == ["linux/*"]
    assert placement["tolerations"] == [{"key": "gpu", "value": None, "effect": None}]
    assert shown["container"]["limits"]["cpu_milli"] == 2000
    assert shown["container"]["host_ports"] == ["53/udp"]
    assert shown["container"]["devices"] == [{"kind": "gpu", "milli": 500, "models": []}]
    assert ctl("service", "inspect", "web").code == 0


def test_node_update(ctl: Run, manager: FakeManager) -> None:
    done = ctl(
        "node",
        "update",
        "a",
        "--label=zone=eu",
        "--label-rm=old",
        "--taint=gpu=yes:no-schedule",
        "--taint-rm=disk:prefer-no-schedule",
        "--taint-rm=all",
    )
    assert (done.code, done.err) == (0, "")
    assert "zone=eu" in done.out
    assert "gpu=yes:no-schedule" in done.out
    (request,) = manager.requests("UpdateNode")
    assert dict(request.labels_add) == {"zone": "eu"}
    assert list(request.labels_remove) == ["old"]
    (taint,) = request.taints_add
    assert (taint.key, taint.value) == ("gpu", "yes")
    assert taint.effect == objects_pb2.TAINT_EFFECT_NO_SCHEDULE
    assert [(it.key, it.effect) for it in request.taints_remove] == [
        ("disk", objects_pb2.TAINT_EFFECT_PREFER_NO_SCHEDULE),
        ("all", 0),
    ]
    assert ctl("node", "update", "a").code == 2
    assert ctl("node", "update", "a", "--taint=gpu").code == 2
    assert ctl("node", "update", "a", "--taint-rm=gpu:never").code == 2


def test_node_inspect_shows_what_there_is_to_give_away(ctl: Run, manager: FakeManager) -> None:
    shown = json.loads(ctl("node", "inspect", "a", "--format=json").out)
    assert shown["capacity"]["cpu_milli"] == 2000
    assert shown["reserved"]["cpu_milli"] == 500
    assert shown["allocatable"]["cpu_milli"] == 3000
    assert shown["allocated"]["cpu_milli"] == 500
    assert shown["labels"] == {"disk": "ssd", "zone": "eu"}
    assert shown["labels_set"] == {"zone": "eu"}
    assert shown["taints"] == [{"key": "gpu", "value": "", "effect": "no-schedule"}]
    assert shown["devices"] == [{"kind": "gpu", "model": "A100", "count": 2}]
    assert shown["volumes"] == [{"name": "data", "read_only": True}]
    assert shown["attributes"] == {"node.arch": "amd64"}
    assert shown["used"] == {
        "cpu_milli": 375,
        "memory_bytes": 48 << 20,
        "disk_bytes": 3 << 30,
        "pids": 7,
        "measured_at": "2026-01-01T00:00:00.000Z",
    }


def test_node_inspect_shows_amounts_side_by_side(ctl: Run, manager: FakeManager) -> None:
    text = ctl("node", "inspect", "a").out
    rows = [line.split("   ") for line in text.splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert ["CAPACITY", "RESERVED", "ALLOCATABLE", "ALLOCATED", "USED"] in rows
    assert ["cpus", "2", "0.5", "3", "0.5", "0.375"] in rows
    assert ["memory", "4 GiB", "0 B", "4 GiB", "64 MiB", "48 MiB"] in rows
    assert ["pids", "0", "0", "0", "0", "7"] in rows
    assert "used: measured " in text
    assert "allocated:" not in text, "nothing is said twice"


def test_node_inspect_of_a_node_whose_use_nobody_knows(ctl: Run, manager: FakeManager) -> None:
    manager.used = None
    assert json.loads(ctl("node", "inspect", "a", "--format=json").out)["used"] is None
    text = ctl("node", "inspect", "a").out
    assert "used: not known" in text
    (cpus,) = (line for line in text.splitlines() if line.startswith("cpus "))
    assert cpus.split()[-1] == "-"


@pytest.mark.parametrize(
    ("text", "milli", "models"),
    [
        ("gpu", 1000, ()),
        ("gpu=2", 2000, ()),
        ("gpu=.25", 250, ()),
        ("gpu=0.001,model=A100", 1, ("A100",)),
        ("gpu=1, model = A100 | V100", 1000, ("A100", "V100")),
    ],
)
def test_devices(text: str, milli: int, models: tuple[str, ...]) -> None:
    assert asks.device(text) == ("gpu", milli, models)


def test_taints_and_devices_of_nodes() -> None:
    assert amounts.taint("gpu=yes:no-schedule") == ("gpu", "yes", "no-schedule")
    assert amounts.taint("old:prefer-no-schedule") == ("old", "", "prefer-no-schedule")
    assert amounts.devices("gpu=2:A100") == ("gpu", 2, "A100", (), ())
    assert amounts.devices("gpu=1024") == ("gpu", 1024, "", (), ())
    for text in ("gpu", "gpu=yes", ":no-schedule", "a b:no-schedule", "gpu:never"):
        with pytest.raises(ValueError, match="no taint"):
            amounts.taint(text)
    for text in ("gpu", "gpu=0", "gpu=1025", "=2", "gpu=2:"):
        with pytest.raises(ValueError, match="names no devices"):
            amounts.devices(text)
    text = "gpu=2:A100,path=/dev/x{n},path=/dev/x{n}:/dev/y,env=X_DEVICES"
    paths = ("/dev/x{n}", "/dev/x{n}:/dev/y")
    assert amounts.devices(text) == ("gpu", 2, "A100", paths, ("X_DEVICES",))
    for option in ("path=dev", "path=/a:b", "path=/a:/b:/c", "env=1X", "env=", "mode=rw", ""):
        with pytest.raises(ValueError, match="says nothing of devices"):
            amounts.devices(f"gpu=2,{option}")
    with pytest.raises(ValueError, match="at most 16"):
        amounts.devices("gpu=2" + ",env=X" * 17)
    assert amounts.device_list(f"{text}, fpga=1,env=F,,path=3") == [
        text,
        "fpga=1,env=F",
        "path=3",
    ]


def test_cluster_update_overcommit(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "update", "--overcommit-cpu=200", "--overcommit-pids=50%")
    assert (done.code, done.err) == (0, "")
    assert "200% of the CPUs" in done.out
    (request,) = manager.requests("UpdateCluster")
    assert (request.overcommit_cpu_percent, request.overcommit_memory_percent) == (200, 0)
    assert request.overcommit_pids_percent == 50
    assert ctl("cluster", "update", "--overcommit-disk=5").code == 2

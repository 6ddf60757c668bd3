"""`warrenctl debug wal` on the log of a real daemon: at work, after a kill, after its end."""

from __future__ import annotations

import json
import threading
from typing import Any

from tests.support.node import WarrenNode, eventually
from warren.pb.v1 import api_pb2

IMAGE = "docker.io/library/tiny:1"
LOOKS = 6
SERVICES = 25


def _verified(node: WarrenNode) -> dict[str, Any]:
    return dict(node.json("debug", "wal", "verify", str(node.data_dir)))


def _write_until(node: WarrenNode, enough: threading.Event, written: list[str]) -> None:
    with node.api() as api:
        while not enough.is_set() or len(written) < SERVICES:
            request = api_pb2.CreateServiceRequest()
            request.spec.name = f"s{len(written)}"
            request.spec.container.image = IMAGE
            api.CreateService(request, timeout=10)
            written.append(request.spec.name)


def _remove_all(node: WarrenNode) -> None:
    with node.api() as api:

        def services() -> list[bytes]:
            answer = api.ListServices(api_pb2.ListServicesRequest(), timeout=10)
            return [view.service.id for view in answer.services]

        for service_id in services():
            api.RemoveService(api_pb2.RemoveServiceRequest(service_id=service_id), timeout=10)
        eventually(lambda: not services(), "every service is gone")


def test_the_log_of_a_daemon_at_work_killed_and_ended(node: WarrenNode) -> None:
    enough, written = threading.Event(), list[str]()
    writer = threading.Thread(target=_write_until, args=(node, enough, written))
    writer.start()
    try:
        reports = [_verified(node) for _ in range(LOOKS)]
    finally:
        enough.set()
        writer.join()
    assert {report["writer_pid"] for report in reports} == {node.pid}
    assert all(report["damage"] is None and report["end"] != "cut" for report in reports)
    seen = [report["last_index"] for report in reports]
    assert seen == sorted(seen)
    assert seen[-1] > seen[0], "the log was to grow while it was looked at"

    node.kill()
    killed = _verified(node)
    assert killed["writer_pid"] is None
    assert killed["end"] in ("open", "torn")
    dumped = node.ctl("debug", "wal", "dump", str(node.data_dir), "--format=json")
    frames = [json.loads(line) for line in dumped.splitlines()]
    assert len(frames) == killed["frames"]
    assert [each["command"] for each in frames].count("create_service") >= len(written)

    node.up()
    node.stop()
    ended = _verified(node)
    assert (ended["end"], ended["writer_pid"]) == ("clean", None)
    assert ended["last_index"] >= killed["last_index"]
    assert ended["last_term"] > killed["last_term"]
    assert ended["cluster_id"] == killed["cluster_id"]
    node.up()
    _remove_all(node)

"""Commands against a gRPC server: what they send, wait for, retry, and make of refusals."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from pathlib import Path

import grpc
import pytest
import yaml

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import (
    CLUSTER_ID,
    NODE_ID,
    FakeManager,
    RefusalError,
    slot,
)
from warren.pb.v1 import api_pb2, objects_pb2

RUNNING = objects_pb2.CONTAINER_STATE_RUNNING
Progress = api_pb2.ServiceProgress


def create(ctl: Run, *more: str) -> None:
    done = ctl("service", "create", "web", "--image=tiny:1", *more)
    assert done.code == 0, done.err


# -- what is sent --------------------------------------------------------------------------------


def test_create_sends_what_the_flags_say(
    ctl: Run, manager: FakeManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "web.env"
    file.write_text("A=file\nB=file\n")
    monkeypatch.setenv("FROM_SHELL", "here")
    create(
        ctl,
        "--replicas=3",
        "--env-file",
        str(file),
        "-e",
        "A=flag",
        "--env=FROM_SHELL",
        "--mount=type=bind,source=/srv,target=/data,readonly",
        "--mount",
        "type=tmpfs,target=/tmp,tmpfs-size=16m",
        "--cpus=0.5",
        "--memory=64m",
        "--restart=on-failure",
        "--restart-max-attempts=4",
        "--network=host",
        "-l",
        "tier=front",
        "--container-label=a=b",
        "-u",
        "1000:1000",
        "-w",
        "/srv",
        "--stop-timeout=1m",
        "--",
        "httpd",
        "-p",
        "80",
    )
    (request,) = manager.requests("CreateService")
    spec = request.spec
    container = spec.container
    assert (spec.name, spec.mode, spec.replicas) == ("web", objects_pb2.SERVICE_MODE_REPLICATED, 3)
    assert dict(spec.labels) == {"tier": "front"}
    assert dict(container.labels) == {"a": "b"}
    assert container.image == "tiny:1"
    assert list(container.command) == ["httpd", "-p", "80"]
    assert list(container.env) == ["A=flag", "B=file", "FROM_SHELL=here"]
    bind, tmpfs = container.mounts
    assert (bind.type, bind.source, bind.target, bind.read_only) == (
        objects_pb2.MOUNT_TYPE_BIND,
        "/srv",
        "/data",
        True,
    )
    assert (tmpfs.type, tmpfs.target, tmpfs.tmpfs_size_bytes) == (
        objects_pb2.MOUNT_TYPE_TMPFS,
        "/tmp",
        16 << 20,
    )
    assert container.resources.cpu_milli == 500
    assert container.resources.memory_bytes == 64 << 20
    assert container.restart == objects_pb2.RESTART_CONDITION_ON_FAILURE
    assert container.restart_max_attempts == 4
    assert container.network == objects_pb2.NETWORK_MODE_HOST
    assert (container.user, container.workdir) == ("1000:1000", "/srv")
    assert container.stop_timeout_ms == 60_000
    assert len(request.request.client) == 16
    assert request.request.sequence == 1


def test_what_is_not_said_is_not_sent(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    (request,) = manager.requests("CreateService")
    expected = objects_pb2.ServiceSpec(
        name="web", mode=objects_pb2.SERVICE_MODE_REPLICATED, replicas=1
    )
    expected.container.image = "tiny:1"
    assert request.spec == expected


def test_a_global_service_has_no_replicas(ctl: Run, manager: FakeManager) -> None:
    create(ctl, "--mode=global")
    (request,) = manager.requests("CreateService")
    assert request.spec.mode == objects_pb2.SERVICE_MODE_GLOBAL
    assert request.spec.replicas == 0
    done = ctl("service", "scale", "web=2")
    assert done.code == 2
    assert "--mode replicated" in done.err


def test_the_name_as_a_flag_leaves_all_words_to_the_command(ctl: Run, manager: FakeManager) -> None:
    done = ctl("service", "create", "--name=web", "--image=tiny:1", "--", "sleep", "9")
    assert done.code == 0
    (request,) = manager.requests("CreateService")
    assert request.spec.name == "web"
    assert list(request.spec.container.command) == ["sleep", "9"]


def test_update_changes_only_what_is_said(ctl: Run, manager: FakeManager) -> None:
    create(ctl, "-e", "A=1", "-e", "B=1", "-l", "x=1", "--mount=type=tmpfs,target=/t", "--cpus=1")
    done = ctl(
        "service",
        "update",
        "web",
        "--env-add=B=2",
        "--env-rm=A",
        "--env=C=3",
        "--label-add=y=2",
        "--label-rm=x",
        "--mount-rm=/t",
        "--mount-add=type=tmpfs,target=/u",
        "--memory=32m",
        "--user=",
    )
    assert done.code == 0
    (request,) = manager.requests("UpdateService")
    container = request.spec.container
    assert request.expected_version == 1
    assert list(container.env) == ["B=2", "C=3"]
    assert dict(request.spec.labels) == {"y": "2"}
    assert [mount.target for mount in container.mounts] == ["/u"]
    assert container.resources == objects_pb2.Resources(cpu_milli=1000, memory_bytes=32 << 20)
    assert container.image == "tiny:1"
    assert request.spec.replicas == 1


def test_a_new_image_forgets_the_digest_of_the_old(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    (service,) = manager.services.values()
    service.spec.container.image_digest = "sha256:00"
    assert ctl("service", "update", "web", "--replicas=2").code == 0
    assert service.spec.container.image_digest == "sha256:00"
    assert ctl("service", "update", "web", "--image=tiny:2", "--", "true").code == 0
    assert service.spec.container.image_digest == ""
    assert list(service.spec.container.command) == ["true"]


def test_scale_of_several(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    assert ctl("service", "create", "db", "--image=tiny:1").code == 0
    done = ctl("service", "scale", "web=3", "db=0")
    assert (done.code, done.out) == (0, "web=3\ndb=0\n")
    assert [r.spec.replicas for r in manager.requests("UpdateService")] == [3, 0]
    assert [r.request.sequence for r in manager.requests("UpdateService")] == [1, 2]


def test_rm_of_a_wrong_name_among_others_removes_nothing(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    assert ctl("service", "rm", "web", "nobody").code == 4
    assert manager.requests("RemoveService") == []
    assert ctl("service", "rm", "web").code == 0
    assert len(manager.requests("RemoveService")) == 1


def test_scale_of_a_wrong_name_among_others_scales_nothing(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    done = ctl("service", "scale", "web=3", "nobody=5")
    assert (done.code, manager.requests("UpdateService")) == (4, [])


def test_scale_that_cannot_go_on_says_what_is_changed(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    for name in ("db", "mq"):
        assert ctl("service", "create", name, "--image=tiny:1").code == 0
    update = manager.UpdateService

    def second_is_removed(request: api_pb2.UpdateServiceRequest) -> api_pb2.UpdateServiceResponse:
        if request.spec.name == "mq":
            raise RefusalError("removing", "service `mq` is being removed; wait until it is gone")
        return update(request)

    manager.UpdateService = second_is_removed  # type: ignore[method-assign]
    done = ctl("service", "scale", "web=3", "db=2", "mq=2", "--format=json")
    error = json.loads(done.err)["error"]
    assert (done.code, error["code"]) == (1, "removing")
    assert error["message"] == (
        "service mq: service `mq` is being removed; wait until it is gone; "
        "changed before it: web=3, db=2"
    )
    assert error["request_id"]


def test_one_scale_that_fails_is_its_own_sentence(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.refuse["UpdateService"] = deque([RefusalError("removing", "it is being removed")])
    assert ctl("service", "scale", "web=3").complaint == "warrenctl: it is being removed\n"


# -- refusals and retries ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("name_taken", 5), ("invalid", 2), ("denied", 6), ("image_not_loaded", 1), ("not_found", 4)],
)
def test_a_refusal_is_its_sentence_and_exit_code(
    ctl: Run, manager: FakeManager, code: str, exit_code: int
) -> None:
    manager.refuse["CreateService"] = deque([RefusalError(code, "this and that; do so")] * 2)
    done = ctl("service", "create", "web", "--image=tiny:1")
    sentence, *named = done.err.splitlines()
    assert (done.code, done.out, sentence) == (exit_code, "", "warrenctl: this and that; do so")
    # Support is of use where nothing else can be asked for.
    request = manager.requests("CreateService")[-1].request
    name = f"{request.client.hex()}-{request.sequence}"
    assert dict(manager.named)["CreateService"] == name
    assert named == ([f"request id: {name}"] if exit_code == 1 else [])
    done = ctl("service", "create", "web", "--image=tiny:1", "--format=json")
    assert done.code == exit_code
    name = [name for method, name in manager.named if method == "CreateService"][-1]
    assert json.loads(done.err) == {
        "error": {"code": code, "message": "this and that; do so", "request_id": name}
    }


@pytest.mark.parametrize(
    "code", ["unavailable", "no_leader", "handing_over", "overloaded", "outcome_unknown"]
)
def test_a_passing_trouble_is_retried_under_the_same_request_id(
    ctl: Run, manager: FakeManager, code: str
) -> None:
    manager.refuse["CreateService"] = deque([RefusalError(code, "not now")] * 2)
    create(ctl)
    first, second, third = manager.requests("CreateService")
    assert first == second == third


def test_a_broken_connection_is_retried(ctl: Run, manager: FakeManager) -> None:
    trouble = RefusalError("", "Socket closed", bare=grpc.StatusCode.UNAVAILABLE)
    manager.refuse["ListServices"] = deque([trouble])
    assert ctl("service", "ls").code == 0


def test_more_calls_than_a_daemon_takes_are_asked_again(ctl: Run, manager: FakeManager) -> None:
    full = RefusalError(
        "", "Concurrent RPC limit exceeded!", bare=grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    manager.refuse["ListServices"] = deque([full, full])
    assert ctl("service", "ls").code == 0
    assert len(manager.requests("ListServices")) == 3


def test_an_answer_that_is_too_large_is_not_asked_for_again(ctl: Run, manager: FakeManager) -> None:
    words = "SERVER: Sent message larger than max (70000000 vs. 67108864)"
    large = RefusalError("", words, bare=grpc.StatusCode.RESOURCE_EXHAUSTED)
    manager.refuse["ListNodes"] = deque([large])
    done = ctl("node", "ls", "--format=json")
    error = json.loads(done.err)["error"]
    assert (done.code, error["code"]) == (1, "answer_too_large")
    assert "70,000,000 bytes" in error["message"]


def test_a_trouble_that_stays_is_reported_after_the_timeout(ctl: Run, manager: FakeManager) -> None:
    trouble = [RefusalError("no_leader", "the cluster has no leader at the moment")] * 1000
    manager.refuse["ListNodes"] = deque(trouble)
    done = ctl("node", "ls", "--timeout=300ms")
    assert done.code == 3
    assert "no leader" in done.err


def test_init_is_not_retried(ctl: Run, manager: FakeManager) -> None:
    manager.refuse["InitCluster"] = deque([RefusalError("outcome_unknown", "no answer in time")])
    assert ctl("cluster", "init").code == 1
    assert len(manager.requests("InitCluster")) == 1


def test_an_oversized_request_is_not_even_sent(ctl: Run, manager: FakeManager) -> None:
    done = ctl("service", "create", "web", "--image=tiny:1", "-e", "A=" + "x" * (5 << 20))
    assert done.code == 2
    assert "4,194,304" in done.err
    assert manager.requests("CreateService") == []


# -- waits ---------------------------------------------------------------------------------------


def test_create_waits_and_shows_how_far_it_is(ctl: Run, manager: FakeManager) -> None:
    manager.progress.append(
        [
            Progress(version=1, desired=3, pending=3, reason="no node has room"),
            Progress(version=1, desired=3, running=1, failing=1),
            Progress(version=1, desired=3, running=3, leaving=3, stranded=2),
            Progress(version=1, desired=3, running=3, leaving=2, stranded=2),
        ]
    )
    done = ctl("service", "create", "web", "--image=tiny:1", "--replicas=3")
    assert done.code == 0
    assert done.out == "01" * 16 + "\n"
    assert done.err.splitlines() == [
        "web: 0/3 running, 3 pending: no node has room",
        "web: 1/3 running, 1 failing",
        "web: 3/3 running, 1 leaving, 2 left on nodes that are down or paused",
        "web: 3/3 running, 2 left on nodes that are down or paused",
    ]


def test_a_wait_for_programs_is_silent(ctl: Run, manager: FakeManager) -> None:
    done = ctl("service", "create", "web", "--image=tiny:1", "--format=json")
    assert done.err == ""
    assert json.loads(done.out) == {"id": "01" * 16, "name": "web", "version": 1}


def test_detach_does_not_wait(ctl: Run, manager: FakeManager) -> None:
    create(ctl, "--detach")
    assert manager.requests("WatchService") == []


def test_an_older_version_running_is_not_the_update_running(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.progress.append(
        [Progress(version=1, desired=1, running=1), Progress(version=2, desired=1, running=0)]
    )
    done = ctl("service", "update", "web", "--memory=1m", "--timeout=300ms")
    assert done.code == 1


def test_a_wait_ends_with_the_timeout_and_says_what_for(ctl: Run, manager: FakeManager) -> None:
    manager.progress.append(
        [Progress(version=1, desired=2, running=1, pending=1, reason="no room")]
    )
    started_s = time.monotonic()
    done = ctl("service", "create", "web", "--image=tiny:1", "--replicas=2", "--timeout=300ms")
    assert time.monotonic() - started_s < 10
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert "not running after 0.3 s (web: 1/2 running, 1 pending: no room)" in last
    assert "warrenctl service ps web" in last


def test_a_wait_survives_a_daemon_that_goes_away(ctl: Run, manager: FakeManager) -> None:
    trouble = RefusalError("", "Socket closed", bare=grpc.StatusCode.UNAVAILABLE)
    manager.refuse["WatchService"] = deque([trouble, trouble])
    create(ctl)
    assert len(manager.requests("WatchService")) == 3


def test_a_service_removed_during_the_wait(ctl: Run, manager: FakeManager) -> None:
    manager.progress.append([Progress(gone=True)])
    done = ctl("service", "create", "web", "--image=tiny:1")
    assert done.code == 4
    assert "removed meanwhile" in done.err


def test_rm_takes_an_unknown_service_for_gone(ctl: Run, manager: FakeManager) -> None:
    create(ctl)
    manager.refuse["WatchService"] = deque([RefusalError("not_found", "no service")])
    assert ctl("service", "rm", "web").code == 0


def test_completed_containers_end_the_wait_where_they_may_end(
    ctl: Run, manager: FakeManager
) -> None:
    manager.slots = [slot(1, objects_pb2.CONTAINER_STATE_COMPLETE, exited=True)]
    manager.progress.append([Progress(version=1, desired=1, running=0)])
    create(ctl, "--restart=none", "--", "true")
    manager.progress.append([Progress(version=1, desired=1, running=0)])
    done = ctl("service", "create", "db", "--image=tiny:1", "--timeout=200ms", "--", "true")
    assert done.code == 1


def test_init_waits_for_the_node(ctl: Run, manager: FakeManager) -> None:
    done = ctl("cluster", "init", "--format=json")
    assert done.code == 0
    assert json.loads(done.out) == {"id": CLUSTER_ID.hex(), "node_id": NODE_ID.hex()}
    manager.ready_message = "containerd does not answer"
    done = ctl("cluster", "init", "--timeout=200ms")
    assert done.code == 1
    assert "containerd does not answer" in done.err


# -- images --------------------------------------------------------------------------------------


def test_an_archive_is_sent_in_pieces(ctl: Run, manager: FakeManager, tmp_path: Path) -> None:
    archive = tmp_path / "a.tar"
    content = os.urandom(2_500_000)
    archive.write_bytes(content)
    manager.images = [
        objects_pb2.NodeImage(reference="docker.io/library/tiny:1", digest="sha256:1", size_bytes=9)
    ]
    done = ctl("image", "load", "-i", str(archive), "--tag=tiny:1")
    assert (done.code, done.out) == (0, "loaded docker.io/library/tiny:1\n")
    assert manager.loaded == content
    sizes = manager.requests("LoadImage")
    assert sizes == [(1 << 20, "tiny:1"), (1 << 20, ""), (2_500_000 - (2 << 20), "")]
    done = ctl("image", "load", "-i", str(archive), "--format=json")
    assert json.loads(done.out) == [
        {"reference": "docker.io/library/tiny:1", "digest": "sha256:1", "size_bytes": 9}
    ]


def test_an_empty_archive_is_sent_too(ctl: Run, manager: FakeManager, tmp_path: Path) -> None:
    archive = tmp_path / "empty.tar"
    archive.touch()
    ctl("image", "load", "-i", str(archive))
    assert manager.requests("LoadImage") == [(0, "")]


def test_a_broken_archive_is_the_daemons_sentence(
    ctl: Run, manager: FakeManager, tmp_path: Path
) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"broken")
    done = ctl("image", "load", "-i", str(archive))
    assert done.code == 1
    sentence, named = done.err.splitlines()
    assert sentence == "warrenctl: this is no archive; make one with docker save"
    assert named == f"request id: {dict(manager.named)['LoadImage']}"


@pytest.mark.parametrize("path", ["/nowhere/a.tar", "/tmp"])
def test_a_file_that_cannot_be_read(ctl: Run, manager: FakeManager, path: str) -> None:
    done = ctl("image", "load", "-i", path)
    assert done.code == 1
    assert done.err.startswith(f"warrenctl: cannot read {path}: ")
    assert "Traceback" not in done.err


def test_images(ctl: Run, manager: FakeManager) -> None:
    manager.images = [
        objects_pb2.NodeImage(reference="b:1", digest="sha256:2", size_bytes=2 << 20),
        objects_pb2.NodeImage(reference="a:1", digest="sha256:1", size_bytes=999),
    ]
    assert ctl("image", "ls").out == (
        "IMAGE   DIGEST     SIZE\na:1     sha256:1   999 B\nb:1     sha256:2   2 MiB\n"
    )
    done = ctl("image", "rm", "a:1", "b:1", "--force")
    assert done.out == "removed docker.io/library/a:1\nremoved docker.io/library/b:1\n"
    assert [request.force for request in manager.requests("RemoveImage")] == [True, True]


# -- what is read --------------------------------------------------------------------------------


def test_version(ctl: Run, manager: FakeManager) -> None:
    answer = json.loads(ctl("version", "--format=json").out)
    assert answer["client"] == "0.1.0"
    assert answer["daemon"]["node_id"] == NODE_ID.hex()
    assert answer["daemon"]["ready"] is True


def test_yaml_and_json_say_the_same(ctl: Run, manager: FakeManager) -> None:
    create(ctl, "--mount=type=tmpfs,target=/t", "-l", "a=b")
    manager.slots = [slot(1, RUNNING, pid=7)]
    for words in (
        ("cluster", "info"),
        ("node", "ls"),
        ("node", "inspect", "a"),
        ("service", "ls"),
        ("service", "ps", "web"),
        ("service", "inspect", "web"),
        ("container", "ls"),
        ("container", "inspect", "web.1"),
        ("image", "ls"),
    ):
        as_json = ctl(*words, "--format=json")
        as_yaml = ctl("--format", "yaml", *words)
        assert as_json.code == as_yaml.code == 0
        assert json.loads(as_json.out) == yaml.safe_load(as_yaml.out), words

"""`warrenctl doctor` and `debug bundle` on a real daemon with real containers."""

from __future__ import annotations

import json
import os
import socket
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.containerd import Containerd
from tests.support.hosts import Host
from tests.support.node import FOREVER, WarrenNode, eventually
from warren import __version__

SECRETS = {
    "variable": "planted-in-a-variable",
    "plain": "planted-under-a-plain-name",
    "flag": "planted-in-a-command",
    "pair": "planted-after-an-equals-sign",
    "word": "planted-as-a-plain-word",
    "script": "planted-in-a-script",
    "label": "planted-in-a-label",
    "node_label": "planted-in-the-configuration",
    "environment": "planted-in-the-daemons-environment",
    "file": "planted-in-a-file-of-the-data-directory",
    "log": "planted-in-the-log",
}
ENTRIES = {
    "cluster.json", "configuration.json", "containers.json", "daemon.log", "data-directory.json",
    "doctor.json", "errors.txt", "events.json", "health.json", "images.json", "members.json",
    "metrics.txt", "nodes.json", "ready.json", "services.json", "versions.json", "wal.json",
}  # fmt: skip


def diagnosed(node: WarrenNode, code: int) -> dict[str, dict[str, Any]]:
    """What doctor finds, by check; it has to end with this code."""
    done = node.run("doctor", "--format=json")
    assert done.returncode == code, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["version"] == __version__
    checks = {each["name"]: each for each in report["checks"]}
    for status in ("ok", "warning", "failed", "skipped"):
        assert report[status] == sum(each["status"] == status for each in report["checks"])
    return checks


def test_a_daemon_that_is_well(node: WarrenNode) -> None:
    # Whatever this host's clock or cgroups give cause for, the daemon's own is well.
    done = node.run("doctor", "--format=json")
    checks = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    failed = {name for name, each in checks.items() if each["status"] == "failed"}
    assert done.returncode == (1 if failed else 0)
    well = ("daemon", "health.api", "health.containerd", "health.raft", "ready", "configuration",
            "containerd", "containerd.snapshotter", "port.metrics_addr")  # fmt: skip
    assert {name: checks[name]["status"] for name in well} == dict.fromkeys(well, "ok")
    assert checks["daemon"]["readings"]["pid"] == node.pid
    assert checks["configuration"]["readings"]["pid"] == node.pid
    assert checks["port.metrics_addr"]["readings"]["holder_pid"] == node.pid
    assert checks["port.metrics_addr"]["readings"]["port"] == node.metrics_port
    assert checks["disk.fdatasync"]["readings"]["directory"] == str(node.data_dir)
    assert checks["open_files"]["readings"]["of_daemon"] is True
    # It leads, so that its heartbeats are answered by its own clock.
    eventually(
        lambda: diagnosed(node, done.returncode)["clock.managers"]["status"] == "ok",
        "a heartbeat was acknowledged",
    )
    # People get the same, with what to do below.
    printed = node.run("doctor").stdout
    assert f"pid {node.pid}" in printed
    assert all(name in printed for name in checks)


def test_a_containerd_that_died_and_a_daemon_that_ended(own_containerd: Containerd) -> None:
    node = WarrenNode(own_containerd.address, own_containerd.new_namespace())
    try:
        node.up()
        own_containerd.stop()
        # An answer is up to a second old.
        eventually(lambda: node.http("/ready")[0] == 503, "/ready tells of it")
        eventually(lambda: node.http("/health")[0] == 503, "/health tells of it")
        checks = diagnosed(node, 1)
        for name in ("containerd", "health.containerd", "ready"):
            assert checks[name]["status"] == "failed", checks[name]
            assert checks[name]["advice"]
        assert "containerd" in checks["ready"]["found"]
        assert checks["health.raft"]["status"] == "ok"

        node.stop()
        toml = node.root / "warrend.toml"
        toml.write_text(
            f'data_dir = "{node.data_dir}"\nmetrics_addr = "127.0.0.1:{node.metrics_port}"\n'
        )
        with socket.socket() as taken:
            # Connections to the daemon have just ended there.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", node.metrics_port))
            taken.listen()
            done = node.run("doctor", f"--config={toml}", "--format=json")
        checks = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
        assert done.returncode == 1
        # Its data directory is there: somebody meant it to run.
        assert checks["daemon"]["status"] == "failed"
        assert checks["health"]["status"] == checks["ready"]["status"] == "skipped"
        assert checks["port.metrics_addr"]["status"] == "failed"
        assert checks["port.metrics_addr"]["readings"]["holder_pid"] == os.getpid()
    finally:
        node.discard()


def test_a_manager_with_certificates_has_its_ports_and_keeps_its_key(
    hosts: Callable[[int], Host], tmp_path: Path
) -> None:
    host = hosts(1)
    done = host.run("doctor", "--format=json")
    before = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    assert before["port.peer_addr"]["status"] == "skipped"
    assert "no cluster" in before["port.peer_addr"]["found"]
    host.ctl("cluster", "init")
    host.wait_ready()
    done = host.run("doctor", "--format=json")
    checks = {each["name"]: each for each in json.loads(done.stdout)["checks"]}
    for key, address in (("listen_addr", host.api), ("peer_addr", host.peer)):
        found = checks[f"port.{key}"]
        assert found["status"] == "ok", found
        assert found["readings"]["port"] == int(address.rpartition(":")[2])
        assert found["readings"]["holder_pid"] == host.pid
    output = tmp_path / "bundle.tar.gz"
    host.ctl("debug", "bundle", f"--output={output}")
    everything = b"".join(unpacked(output).values()).decode(errors="replace")
    key_lines = Path(host.files.key).read_text().splitlines()
    assert [line for line in key_lines if len(line) > 40 and line in everything] == []
    assert str(host.files.key) in everything


def unpacked(path: Path) -> dict[str, bytes]:
    """The entries of a bundle."""
    found = {}
    with tarfile.open(path) as archive:
        for member in archive:
            assert member.mode == 0o600
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.removeprefix("warren-debug/")] = file.read()
    return found


def test_a_bundle_has_everything_but_secrets(
    containerd: Containerd, tiny_image: Path, tmp_path: Path
) -> None:
    node = WarrenNode(
        containerd.address,
        containerd.new_namespace(),
        env={"BACKUP_TOKEN": SECRETS["environment"]},
    )
    try:
        node.start(f"--labels=zone=eu,db_password={SECRETS['node_label']}")
        node.ctl("cluster", "init")
        node.wait_ready()
        node.ctl("image", "load", "-i", str(tiny_image))
        node.ctl("service", "create", "web", "--image=tiny:1", "--detach",
                 f"--env=DB_PASSWORD={SECRETS['variable']}", f"--env=MODE={SECRETS['plain']}",
                 f"--label=api_key={SECRETS['label']}", *FOREVER,
                 "--token", SECRETS["flag"], f"--password={SECRETS['pair']}", SECRETS["word"],
                 f"psql --password {SECRETS['script']}")  # fmt: skip
        (node.data_dir / "key.pem").write_text(SECRETS["file"])
        with node.log_path.open("a") as log:
            log.write(f'{{"message":"tried password={SECRETS["log"]}"}}\n')
            log.write(f"{SECRETS['environment']} and {SECRETS['plain']} are known\n")
            log.write(f"cannot start {SECRETS['word']}\n")
        output = tmp_path / "bundle.tar.gz"
        printed = node.ctl("debug", "bundle", "--output", str(output))
        assert stat.S_IMODE(output.stat().st_mode) == 0o600
        assert list(tmp_path.glob("*.part")) == []
        found = unpacked(output)
        assert found.keys() == ENTRIES
        assert all(name in printed for name in ENTRIES)
        assert "redacted" in printed
        assert found["errors.txt"] == b"everything could be had\n"
        leaked = {
            (kind, name)
            for name, data in found.items()
            for kind, secret in SECRETS.items()
            if secret.encode() in data
        }
        assert leaked == set()
        _tells_what_is_there(node, found)
        # A second one does not replace it.
        code, said = node.refused("debug", "bundle", "--output", str(output))
        assert (code, "exists" in said) == (1, True)
    finally:
        node.close()


def _tells_what_is_there(node: WarrenNode, found: dict[str, bytes]) -> None:
    data = {name: json.loads(text) for name, text in found.items() if name.endswith(".json")}
    (service,) = data["services.json"]
    assert service["name"] == "web"
    assert service["container"]["env"] == ["DB_PASSWORD=[redacted]", "MODE=[redacted]"]
    assert service["container"]["command"] == [
        "sleep", "[redacted]", "--token", "[redacted]", "--password=[redacted]", "[redacted]",
        "[redacted]",
    ]  # fmt: skip
    labels = data["configuration.json"]["labels"]["value"]
    assert labels == {"zone": "eu", "db_password": "[redacted]"}
    assert data["configuration.json"]["data_dir"]["value"] == str(node.data_dir)
    assert data["health.json"]["status"] == "healthy"
    assert data["cluster.json"]["services"] == 1
    assert [each["role"] for each in data["members.json"]] == ["leader"]
    assert data["wal.json"]["damage"] is None
    assert data["versions.json"]["daemon"]["version"] == __version__
    files = {each["path"] for each in data["data-directory.json"]["files"]}
    assert {"node_id", "key.pem", "raft/wal"} <= files
    assert b"# TYPE warren_services_total gauge" in found["metrics.txt"]
    assert b"are known" in found["daemon.log"]


def test_a_bundle_without_a_daemon_says_what_is_not_there(
    containerd: Containerd, tmp_path: Path
) -> None:
    node = WarrenNode(containerd.address, containerd.new_namespace())
    output = tmp_path / "bundle.tar.gz"
    try:
        done = node.run("debug", "bundle", "--output", str(output), "--format=json")
    finally:
        node.discard()
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    found = unpacked(output)
    assert told["size_bytes"] == output.stat().st_size
    assert {each["name"]: each["size_bytes"] for each in told["entries"]} == {
        name: len(data) for name, data in found.items()
    }
    assert {"configuration.json", "doctor.json", "errors.txt", "versions.json"} <= found.keys()
    assert "services.json: no daemon at" in found["errors.txt"].decode()
    assert told["errors"] == found["errors.txt"].decode().splitlines()

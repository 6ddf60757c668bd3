"""docs/observability.md, "With Prometheus and Grafana": from nothing to dashboards and alerts.

Every command of the guide is run as it stands there, but for the names in the table below. What
this machine does not have is listed as well, with the reason; the guide has nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.support.containerd import Containerd, runtime_tasks
from tests.support.disk import fill, write_much
from tests.support.node import BIN, FOREVER, WarrenNode, eventually, free_port
from tests.support.prometheus import PROGRAM, STOP_TIMEOUT_S
from tests.unit.deploy.rules import ROOT
from warren.dashboards import NAMES

GUIDE = (ROOT / "docs/observability.md").read_text()
PART = GUIDE.split("\n## With Prometheus and Grafana\n")[1].split("\n## ")[0]

FOLDERS = ("/etc/prometheus", "/etc/grafana", "/var/lib/prometheus", "/var/lib/grafana")
"""Below a folder of the test."""
SERVER = "127.0.0.1:9091"
"""Where the guide's Prometheus listens: a free port here."""
DAEMON = "10.0.0.1:9090"
"""The daemon's metrics address in the guide and in the targets that are shipped: likewise."""
NOT_HERE = {
    "systemctl restart prometheus": "systemd does not run in tests; the server is started by hand",
    "systemctl restart grafana-server": "there is no Grafana here: what it would read is checked",
}
LASTS = "prometheus "
"""The command that begins so does not end by itself."""

NODE = "m1"
"""The name that the shipped targets have for the first host."""
WAIT_S = 60.0
"""A scrape and an evaluation are 15 s apart here, as they are for those who follow the guide."""


class GuideNode(WarrenNode):
    """A daemon that has its metrics address from its configuration file, as the guide wants it."""

    def flags(self) -> list[str]:
        others = ("--metrics-addr", "--node-name")
        flags = [flag for flag in super().flags() if not flag.startswith(others)]
        return [*flags, f"--node-name={NODE}", f"--config={self.config}"]

    @property
    def config(self) -> Path:
        return self.root / "warrend.toml"

    def configure(self, text: str) -> None:
        """The address that stands in `text` is the daemon's from its next start on."""
        self.config.write_text(text)
        self.metrics_port = int(text.rstrip('"\n').rpartition(":")[2])


@pytest.fixture
def cramped(containerd: Containerd, small_disk: Path, tiny_image: Path) -> Iterator[GuideNode]:
    """A cluster of one as it was before the guide, with a service, on a disk that is soon full."""
    node = GuideNode(containerd.address, containerd.new_namespace(), small_disk)
    node.log_path = small_disk.parent / "warrend.log"
    node.env["WARREN_WAL_SEGMENT_BYTES"] = str(1 << 20)
    node.configure(f'metrics_addr = "127.0.0.1:{free_port()}"\n')
    node.up()
    node.ctl("image", "load", "-i", str(tiny_image))
    node.ctl("service", "create", "web", "--image=tiny:1", *FOREVER)
    yield node
    node.close()
    containerd.assert_nothing_left(node.namespace)


def test_what_cannot_run_here_is_what_the_list_says() -> None:
    assert set(re.findall(r"systemctl [^`\n]+", PART)) == NOT_HERE.keys()


@pytest.mark.timeout(300)
def test_it_leads_from_nothing_to_dashboards_and_alerts(
    cramped: GuideNode, small_disk: Path, tmp_path: Path
) -> None:
    if shutil.which(PROGRAM) is None:
        pytest.skip(f"{PROGRAM} is not installed")
    guide = Guide(tmp_path, cramped)
    (toml,) = guide.blocks("toml")
    running = runtime_tasks(cramped.containerd_address, cramped.namespace)
    cramped.stop()
    cramped.configure(toml)
    cramped.up()
    assert runtime_tasks(cramped.containerd_address, cramped.namespace) == running

    copy, start, ask, dashboards, with_runbooks = guide.blocks("sh")
    guide.run(copy)
    guide.name_hosts()
    assert "SUCCESS" in guide.run(start)
    try:
        all_hosts, alerts = guide.commands(ask)
        eventually(lambda: guide.up(all_hosts) == {NODE: 1.0}, "one line for each host", WAIT_S)
        assert guide.run(alerts).strip() == "", "nothing fires"
        guide.name_hosts(f"127.0.0.1:{free_port()}")
        eventually(
            lambda: guide.up(all_hosts) == {NODE: 1.0, "w1": 0.0}, "a new host is taken up", WAIT_S
        )
        guide.name_hosts()
        with full(cramped, small_disk):
            line = eventually(lambda: guide.run(alerts).strip(), "an alert fires", WAIT_S)
            assert 'alertname="WarrenDiskFull"' in line
            assert f'node="{NODE}"' in line
    finally:
        guide.end()

    guide.run(dashboards)
    guide.look_at_grafana("")
    guide.run(with_runbooks)
    guide.look_at_grafana("https://wiki.example/warren/runbooks")


def test_what_is_said_between_the_blocks_works_too(node: WarrenNode, tmp_path: Path) -> None:
    named = set(re.findall(r"`(warrenctl [^`]+)`", PART))
    assert named == {"warrenctl node ls", "warrenctl dashboard export cluster"}
    said = {command: node.ctl(*command.split()[1:]) for command in named}
    assert "node-1" in said["warrenctl node ls"]
    shipped = ROOT / "deploy/grafana/warren-cluster.json"
    assert json.loads(said["warrenctl dashboard export cluster"]) == _read(shipped)


@contextmanager
def full(node: WarrenNode, disk: Path) -> Iterator[None]:
    """Meanwhile the daemon's log has no room, and has refused a write for it."""
    ballast = fill(disk)
    with pytest.raises(grpc.RpcError, match="no space"):
        write_much(node)
    try:
        yield
    finally:
        ballast.unlink()
        eventually(lambda: node.http("/ready")[0] == 200, "there is room again")


class Guide:
    """The guide's commands, with what the table says in place of its names."""

    def __init__(self, folder: Path, node: WarrenNode) -> None:
        self._folder = folder
        self._node = node
        self._server: subprocess.Popen[bytes] | None = None
        self._names = {path: f"{folder}{path}" for path in FOLDERS}
        self._names[SERVER] = f"127.0.0.1:{free_port()}"
        self._names[DAEMON] = f"127.0.0.1:{free_port()}"
        for path in FOLDERS:
            (folder / path.lstrip("/")).mkdir(parents=True)

    def blocks(self, language: str) -> list[str]:
        """Those of the guide's part, without their indentation."""
        fenced = rf"^( *)```{language}\n(.*?)^ *```"
        found = re.findall(fenced, PART, re.MULTILINE | re.DOTALL)
        return [
            self._here("".join(line.removeprefix(indent) for line in text.splitlines(True)))
            for indent, text in found
        ]

    def _here(self, text: str) -> str:
        for name, instead in self._names.items():
            text = text.replace(name, instead)
        return text

    def commands(self, block: str) -> list[str]:
        """One by one."""
        return block.replace("\\\n", " ").splitlines()

    def run(self, commands: str) -> str:
        """What they print; AssertionError where one fails. A server is started and runs on."""
        said = []
        for command in self.commands(commands):
            if command in NOT_HERE:
                continue
            places = re.findall(r"(?<![\w./])/\w\S*", command.replace(str(self._folder), ""))
            assert all(place in FOLDERS or place.startswith(FOLDERS) for place in places), command
            if command.startswith(LASTS):
                self._server = self._start(command)
            else:
                said.append(self._run(command))
        return "".join(said)

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=ROOT,
            env=self._env(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(
                ["sh", "-ec", f"exec {command}"],
                cwd=ROOT,
                env=self._env(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @staticmethod
    def _env() -> dict[str, str]:
        return {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}

    def end(self) -> None:
        """Of the server, if one runs."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(STOP_TIMEOUT_S)

    def name_hosts(self, *workers: str) -> None:
        """As a reader changes what was copied: fewer hosts, with addresses of their own."""
        for name, addresses in (("managers", [self._names[DAEMON]]), ("workers", workers)):
            copied = Path(self._names["/etc/prometheus"]) / "targets" / f"{name}.yml"
            shipped = yaml.safe_load((ROOT / f"deploy/prometheus/targets/{name}.yml").read_text())
            entries = [
                {**entry, "targets": [address]}
                for entry, address in zip(shipped, addresses, strict=False)
            ]
            copied.write_text(yaml.safe_dump(entries))

    def up(self, command: str) -> dict[str, float]:
        """Of each line that a query for `up` prints: its node, and the value."""
        rows = self.run(command).splitlines()
        lines = [re.fullmatch(r'up{.*node="([^"]+)".*} => (\d) @\[.*\]', row) for row in rows]
        assert None not in lines, rows
        return {line[1]: float(line[2]) for line in lines if line is not None}

    def look_at_grafana(self, runbooks: str) -> None:
        """What a Grafana would read after the commands are those files, and they fit together."""
        provisioning = Path(self._names["/etc/grafana"]) / "provisioning"
        (provider,) = _yaml(provisioning / "dashboards/warren.yml")["providers"]
        (source,) = _yaml(provisioning / "datasources/warren.yml")["datasources"]
        assert source["url"] == f"http://{SERVER}"
        config = _yaml(Path(self._names["/etc/prometheus"]) / "prometheus.yml")
        assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
        folder = Path(self._here(provider["options"]["path"]))
        assert {path.name for path in folder.iterdir()} == {f"warren-{name}.json" for name in NAMES}
        for name in NAMES:
            text = (folder / f"warren-{name}.json").read_text()
            if not runbooks:
                assert json.loads(text) == _read(ROOT / "deploy/grafana" / f"warren-{name}.json")
        assert runbooks in (folder / "warren-cluster.json").read_text()


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())

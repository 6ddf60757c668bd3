"""A real Prometheus with the configuration of deploy/prometheus, in a hurry."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.node import eventually, free_port

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
PROGRAM = "prometheus"
STOP_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 5.0
ALERT_DEADLINE_S = 60.0

_REPEATED = "process_start_time_seconds|warren_raft_leader_changes_total"

Targets = Mapping[str, Mapping[str, str]]
"""For each file in `targets/`, without its suffix: addresses of daemons by the names of nodes."""


class Prometheus:
    """One server in a folder of its own. Only durations differ from what is shipped.

    It scrapes and evaluates every second, as often as a daemon renders; alerts wait for two seconds
    and rates are of ten where they are of minutes, or of forty. A quarter of an hour before is
    twenty seconds before.
    """

    def __init__(self, folder: Path, cluster: str, targets: Targets) -> None:
        self.folder = folder
        self._address = f"127.0.0.1:{free_port()}"
        shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
        self._hurry()
        for name, hosts in targets.items():
            entries = [
                {"targets": [address], "labels": {"cluster": cluster, "node": node}}
                for node, address in hosts.items()
            ]
            (folder / "targets" / f"{name}.yml").write_text(yaml.safe_dump(entries))
        self._process: subprocess.Popen[bytes] | None = None

    def _hurry(self) -> None:
        config = self.folder / "prometheus.yml"
        text = re.sub(r"(_interval|_timeout): \d+s", r"\1: 1s", config.read_text())
        config.write_text(text)
        for name in ("alerts.yml", "recording.yml"):
            rules = self.folder / name
            text = re.sub(r"\bfor: \d+m\n", "for: 2s\n", rules.read_text())
            text = re.sub(r"\boffset 15m\b", "offset 20s", text)
            # What a test does several times takes longer on a busy machine.
            text = re.sub(rf"(\b(?:{_REPEATED})(?:\{{[^}}]*\}})?)\[\d+m\]", r"\1[40s]", text)
            rules.write_text(re.sub(r"\[\d+m\]", "[10s]", text))

    def start(self) -> None:
        """Until it is ready to be asked."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    f"--config.file={self.folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address={self._address}",
                    "--enable-feature=exemplar-storage",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._ready, f"prometheus is ready: {self.folder / 'log'}")

    def _ready(self) -> bool:
        return self._get("/-/ready")[0] == 200

    def _get(self, path: str) -> tuple[int, bytes]:
        """Status and body; OSError where nobody answers."""
        connection = http.client.HTTPConnection(self._address, timeout=ANSWER_TIMEOUT_S)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self) -> None:
        """If it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(STOP_TIMEOUT_S)
            self._process = None

    def ask(self, path: str, **parameters: str) -> Any:
        """`data` of what its HTTP API answers."""
        status, body = self._get(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        assert status == 200, body
        return json.loads(body)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant vector: `metric`, and `value` as time and text."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def health(self) -> dict[str, str]:
        """Of each target, by its node: `up`, or why not."""
        return {
            target["labels"]["node"]: target["lastError"] or target["health"]
            for target in self.ask("targets")["activeTargets"]
        }

    def rules(self) -> dict[str, str]:
        """Of each rule, by its name: `ok`, `unknown` before it was evaluated, or why not."""
        return {
            rule["name"]: rule.get("lastError") or rule["health"]
            for group in self.ask("rules")["groups"]
            for rule in group["rules"]
        }

    def firing(self) -> dict[str, dict[str, str]]:
        """The annotations of each alert that fires, by its name; of several of a name, any."""
        return {
            alert["labels"]["alertname"]: alert["annotations"]
            for alert in self.ask("alerts")["alerts"]
            if alert["state"] == "firing"
        }


def fires(prometheus: Prometheus, alerts: set[str]) -> None:
    """Wait until these do, and perhaps others."""
    eventually(lambda: prometheus.firing().keys() >= alerts, f"{alerts} fire", ALERT_DEADLINE_S)


def clears(prometheus: Prometheus) -> None:
    """Wait until none does."""
    eventually(lambda: not prometheus.firing(), "no alert fires any more", ALERT_DEADLINE_S)

"""The systemd unit: what systemd says of it, and that its capabilities are enough."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.containerd import Containerd, runtime_tasks
from tests.support.node import BIN, WarrenNode, eventually

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "warrend.service"
INSTALLED = "/usr/bin/warrend"


def setting(name: str) -> str:
    """The value of a key that stands in the unit once."""
    (line,) = (x for x in UNIT.read_text().splitlines() if x.startswith(f"{name}="))
    return line.partition("=")[2]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert f"ExecStart={INSTALLED}" in text
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(INSTALLED, str(BIN / "warrend")))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
def test_it_works_with_the_capabilities_of_the_unit(
    containerd: Containerd, tiny_image: Path
) -> None:
    names = [name.removeprefix("CAP_").lower() for name in setting("CapabilityBoundingSet").split()]
    allowed = ",".join(["-all", *(f"+{name}" for name in names)])
    node = WarrenNode(containerd.address, containerd.new_namespace())
    node.wrapper = ["setpriv", f"--bounding-set={allowed}", "--inh-caps=-all", "--no-new-privs"]
    try:
        node.up()
        status = Path(f"/proc/{node.pid}/status").read_text()
        assert "CapBnd:\t000001ffffffffff" not in status
        node.ctl("image", "load", "-i", str(tiny_image))
        node.ctl(
            "service", "create", "web", "--image=tiny:1", "--user=web", "--memory=32m",
            "--stop-timeout=1s", "--", "sleep", "100000",
        )  # fmt: skip
        assert len(runtime_tasks(containerd.address, node.namespace)) == 1
        node.ctl("service", "logs", "web")
        node.ctl("service", "rm", "web")
        eventually(lambda: not any((node.data_dir / "logs").iterdir()), "its logs are gone")
    finally:
        node.discard()
    containerd.assert_nothing_left(node.namespace)

"""The README's tour, run as it stands."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.containerd import Containerd, sample_archive
from tests.support.node import BIN, WarrenNode

README = Path(__file__).parents[2] / "README.md"
ENVIRONMENT = "export PATH="  # the one line that names the checkout's own directories


def tour() -> list[str]:
    """The commands between the tour's two marks."""
    text = README.read_text().split("<!-- tour:")[1].split("<!-- end of tour -->")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_every_command_of_the_tour_works(containerd: Containerd, tmp_path: Path) -> None:
    node = WarrenNode(containerd.address, containerd.new_namespace())
    node.up()
    node.ctl("image", "load", "-i", str(sample_archive(tmp_path / "sample.tar")))
    commands = tour()
    assert len(commands) > 12
    assert commands[0].startswith(ENVIRONMENT)
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "WARREN_HOST": f"unix://{node.socket}"}
    for command in commands[1:]:
        done = subprocess.run(
            ["sh", "-c", command],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip(), f"{command} printed nothing"
    assert node.json("service", "ls") == []
    node.stop()
    containerd.assert_nothing_left(node.namespace)

"""The commands on docs/scheduling.md are commands."""

from __future__ import annotations

import shlex
from pathlib import Path

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_manager import FakeManager

PAGE = Path(__file__).parents[3] / "docs/scheduling.md"


def test_every_command_on_the_page_is_understood(ctl: Run, manager: FakeManager) -> None:
    lines = [line.strip() for line in PAGE.read_text().splitlines()]
    commands = [line for line in lines if line.startswith("warrenctl ")]
    assert len(commands) > 20
    for line in commands:
        _, *words = shlex.split(line)
        noun, verb, name = words[:3]
        if noun == "service":
            words.append("--detach")
        if verb == "create":
            manager.services.clear()
        elif verb == "update" and noun == "service":
            assert name in {each.spec.name for each in manager.services.values()} or (
                ctl("service", "create", name, "--image=web:1", "--detach").code == 0
            )
        done = ctl(*words)
        assert done.code == 0, f"{line}: {done.err}"

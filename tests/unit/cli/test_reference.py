"""docs/cli.md says what the commands and shapes are."""

from __future__ import annotations

import re
from pathlib import Path

from tests.unit.cli import reference

PAGE = Path(__file__).parents[3] / "docs/cli.md"


def test_the_page_is_what_the_commands_say() -> None:
    assert PAGE.read_text() == reference.text(), (
        "write it anew: PYTHONPATH=python python -m tests.unit.cli.reference > docs/cli.md"
    )


def test_every_command_and_shape_is_on_it() -> None:
    text = reference.text()
    commands = re.findall(r"^### (warrenctl .*)$", text, re.MULTILINE)
    assert len(commands) == 48
    for shape in reference.shapes.__all__:
        assert f"### {shape}\n" in text

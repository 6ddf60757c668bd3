"""Each alert has a runbook, each runbook an alert, and what they tell to type exists."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from tests.unit.deploy.rules import ALERTS, ROOT, RUNBOOKS
from warren.cli.main import cli

PAGES = sorted(path.stem for path in RUNBOOKS.glob("*.md") if path.stem != "README")
HEADINGS = ["Symptom", "Diagnosis", "Cure", "Prevention"]


def commands(text: str) -> list[str]:
    """What a page says of `warrenctl`: lines of blocks, and code within sentences."""
    lines = re.findall(r"^\s*(warrenctl .+)$", text, re.MULTILINE)
    return lines + [" ".join(code.split()) for code in re.findall(r"`(warrenctl [^`]+)`", text)]


def parse(line: str) -> None:
    """ClickException if there is no such command or option, AssertionError if words are left."""
    words = shlex.split(line.split(">")[0], comments=True)[1:]
    command: click.Command = cli
    context = click.Context(cli, info_name="warrenctl", **cli.context_settings)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        if found is None:
            raise click.UsageError(f"there is no {words[0]!r} in: {line}")
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    assert not isinstance(command, click.Group), f"only half a command: {line}"
    _, left, _ = command.make_parser(context).parse_args(words)
    assert not left, f"too many words: {line}"


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert sorted(ALERTS) == PAGES


@pytest.mark.parametrize("alert", ALERTS)
def test_the_annotation_names_the_runbook(alert: str) -> None:
    named = ALERTS[alert]["annotations"]["runbook"]
    assert ROOT / named == RUNBOOKS / f"{alert}.md"


@pytest.mark.parametrize("page", PAGES)
def test_a_runbook_has_its_four_parts_in_order_and_none_is_empty(page: str) -> None:
    text = (RUNBOOKS / f"{page}.md").read_text()
    assert text.startswith(f"# {page}\n")
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)[1:]
    assert parts[::2] == HEADINGS
    assert all(part.strip() for part in parts[1::2])


@pytest.mark.parametrize("page", PAGES)
def test_what_a_runbook_tells_to_type_exists(page: str) -> None:
    found = commands((RUNBOOKS / f"{page}.md").read_text())
    assert found, "no command at all"
    for line in found:
        parse(line)


@pytest.mark.parametrize(
    "line",
    [
        "warrenctl cluster heal",
        "warrenctl node ls --quick",
        "warrenctl node",
        "warrenctl node ls x",
    ],
)
def test_what_does_not_exist_is_found(line: str) -> None:
    with pytest.raises((click.ClickException, AssertionError)):
        parse(line)


def test_the_index_lists_every_runbook_with_its_urgency() -> None:
    index = (RUNBOOKS / "README.md").read_text()
    rows = re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| .+ \| (.+) \|$", index, re.MULTILINE)
    urgency = {"critical": "at once", "warning": "today"}
    assert dict(rows) == {
        alert: urgency[rule["labels"]["severity"]] for alert, rule in ALERTS.items()
    }
    assert len(rows) == len(ALERTS)

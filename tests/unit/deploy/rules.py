"""The rules in deploy/prometheus as their tests look at them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[3]
PROMETHEUS: Final = ROOT / "deploy" / "prometheus"
RUNBOOKS: Final = ROOT / "docs" / "runbooks"

_OURS = re.compile(r"(?<![\w:])(?:warren|process)_\w+(?![\w:])")
_STREAM_SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


def rules(file: str) -> list[dict[str, Any]]:
    """All rules of a file, in its order."""
    document = yaml.safe_load((PROMETHEUS / file).read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


ALERTS: Final = {rule["alert"]: rule for rule in rules("alerts.yml")}
RECORDS: Final = {rule["record"]: rule for rule in rules("recording.yml")}


def families(expression: str) -> set[str]:
    """The metric families of daemons that an expression reads; recorded names are none."""
    return {_STREAM_SUFFIX.sub("", name) for name in _OURS.findall(expression)}


def recorded(expression: str) -> set[str]:
    """The recorded names that an expression reads."""
    return set(re.findall(r"\b[a-z_]+:\w+:\w+", expression))


def families_of_all_rules() -> set[str]:
    """What the rules stand on."""
    every = [*ALERTS.values(), *RECORDS.values()]
    return set().union(*(families(rule["expr"]) for rule in every))
